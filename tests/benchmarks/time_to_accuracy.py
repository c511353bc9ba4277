"""Seconds of training until the validation errors first reach given bounds: the speed that counts.

Larger batches take fewer steps in an epoch, so a rate of molecules says little by itself. Each recipe (batch size, peak
learning rate, epochs of a cosine) is trained with each seed. Recipes of one batch size share their compiled programs,
which a training of one epoch leaves before. Batch size 1 with a constant learning rate ("1:1e-3:4:constant") stands for
the script in common use: its epochs are multiplied by the script's own time for a molecule, which ``throughput``
measures (``--reference-ms``), since the steps are the same and only their speed differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tests.benchmarks.runs import ESP, read_metrics, table


@dataclass(frozen=True)
class AccuracyConfig:
    """Recipes and bounds."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    recipes: tuple[str, ...] = ("8:3e-3:20", "16:3e-3:25", "32:3e-3:30", "32:5e-3:30", "64:5e-3:40")
    """Batch size, peak learning rate and epochs of each run; ":constant" where it is not lowered along a cosine."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each recipe."""

    flags: str = ""
    """Other flags of training, in one text."""

    esp: float = 0.1
    """Largest ESP RMSE of the distributed charges, kcal/mol/e."""

    forces: float = 5.0
    """Largest force MAE, meV/Å."""

    reference_ms: float = 0.0
    """Milliseconds that the script in common use takes for a molecule on this machine (from ``throughput``)."""


def train(config: AccuracyConfig, folder: Path, batch_size: str, *flags: str) -> list[dict[str, Any]]:
    """Train a run; return its epochs, with the seconds from the command to the line of each ("since_command")."""
    places = ["--cache-dir", config.cache_dir, "--runs-dir", str(folder.parent), "--name", folder.name]
    quiet = ["--no-plot-results", "--limits", "off", "--no-tensorboard"]
    command = [
        sys.executable,
        "-m",
        "train",
        *places,
        *quiet,
        "--batch-size",
        batch_size,
        *flags,
        *config.flags.split(),
    ]
    metrics, seen, start = folder / "metrics.jsonl", [], time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        lines = metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0
        seen += [time.monotonic() - start] * (lines - len(seen))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    records = read_metrics(folder)
    seen += [time.monotonic() - start] * (len(records) - len(seen))
    return [record | {"since_command": seconds} for record, seconds in zip(records, seen, strict=True)]


def first_reached(records: list[dict[str, Any]], esp: float, forces: float) -> dict[str, Any] | None:
    """The epoch in which the validation errors were first within the bounds."""
    for record in records:
        valid = record["valid"]
        if valid[ESP] <= esp and 1000.0 * valid["forces_mae_ev_per_angstrom"] <= forces:
            return record
    return None


def row(recipe: str, runs: list[list[dict[str, Any]]], config: AccuracyConfig) -> list[str]:
    """Of the table: when each seed got there, and the errors at the end."""
    batch_size, rate, epochs, *constant = recipe.split(":")
    reached = [record for record in (first_reached(records, config.esp, config.forces) for records in runs) if record]
    last = [records[-1]["valid"] for records in runs]
    cells = [batch_size, rate, f"{epochs}{', constant' if constant else ''}", f"{len(reached)} of {len(runs)}"]
    if len(reached) == len(runs):
        seconds = [record["since_command"] for record in reached]
        cells += [", ".join(str(record["epoch"]) for record in reached), ", ".join(f"{s:.1f}" for s in seconds)]
        if constant and config.reference_ms:
            molecules = runs[0][0]["samples_per_second"] * runs[0][0]["seconds"]
            script = np.mean([record["epoch"] for record in reached]) * molecules * config.reference_ms / 1000.0
            cells[-1] += f" (the script: {script:.0f})"
    else:
        cells += ["", ""]
    forces = [1000.0 * valid["forces_mae_ev_per_angstrom"] for valid in last]
    return [*cells, f"{np.mean([valid[ESP] for valid in last]):.3f}", f"{np.mean(forces):.2f}"]


def main() -> None:
    """Run every recipe and print when it got there."""
    config = tyro.cli(AccuracyConfig, description=__doc__)
    titles = ["batch size", "peak learning rate", "epochs", "reached", "in epoch", "s after the command"]
    titles += ["ESP at the end, kcal/mol/e", "forces at the end, meV/Å"]
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        # Not those of earlier trainings: all recipes find the same.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{runs}/programs"
        prepared: set[str] = set()
        for recipe in config.recipes:
            batch_size, rate, epochs, *constant = recipe.split(":")
            if batch_size not in prepared:
                first = train(config, Path(runs) / f"first-{batch_size}", batch_size, "--epochs", "1")[0]
                print(
                    f"batch size {batch_size}: first epoch {first['since_command']:.1f} s after the command, compiling"
                )
                prepared.add(batch_size)
            flags = ["--learning-rate", rate, "--epochs", epochs, "--schedule", *(constant or ["cosine"])]
            name = "-".join(recipe.split(":"))
            records = [
                train(config, Path(runs) / f"{name}-{seed}", batch_size, *flags, "--seed", str(seed))
                for seed in config.seeds
            ]
            rows.append(row(recipe, records, config))
            print("; ".join(rows[-1]), flush=True)
    print(table(titles, rows))


if __name__ == "__main__":
    main()

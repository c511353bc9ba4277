"""Many trainings side by side: ordinary runs in a folder, which can be stopped, started again, and looked into."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

METRICS = {
    "energy_mae_ev": ("E, meV", 1000.0),
    "forces_mae_ev_per_angstrom": ("F, meV/Å", 1000.0),
    "dipole_mae_debye": ("D of PhysNet, D", 1.0),
    "dipole_dcm_mae_debye": ("D of DCMNet, D", 1.0),
    "esp_rmse_kcal_per_mol_e": ("ESP, kcal/mol/e", 1.0),
}
ESP = "esp_rmse_kcal_per_mol_e"


@dataclass(frozen=True)
class RunsConfig:
    """Settings that the benchmarks of many trainings share."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each."""

    epochs: int = 60
    """Epochs of each run; of the learning curve, on the whole split."""

    flags: str = ""
    """Other flags of training, in one text: --flags="--batch-size 32"."""

    jobs: int = 1
    """Runs at once, each on its share of the cores."""

    split: str = "test"
    """Split that is evaluated."""

    output: str = ""
    """Stem of a JSON file and a picture."""


@dataclass(frozen=True)
class Run:
    """One training."""

    folder: Path
    cache_dir: str
    flags: tuple[str, ...]
    """Other flags than those of the folders."""


def flags_of(text: str, **values: Any) -> tuple[str, ...]:
    """Flags of training: those in ``text``, and ``values`` by their names."""
    named = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return (*named, *shlex.split(text))


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train, or take up, all runs; ``jobs`` at once (more than one on Linux), each on its share of the cores."""
    cores = sorted(os.sched_getaffinity(0)) if jobs > 1 else []
    shares: queue.Queue[list[int]] = queue.Queue()
    for job in range(jobs):
        shares.put(cores[job::jobs] or cores)

    def train(run: Run) -> None:
        share = shares.get()
        try:
            places = ("--cache-dir", run.cache_dir, "--runs-dir", str(run.folder.parent), "--name", run.folder.name)
            command = [sys.executable, "-m", "train", *places, "--no-plot-results", *run.flags]
            pin = ["taskset", "-c", ",".join(map(str, share))] if jobs > 1 else []
            subprocess.run([*pin, *command], check=True, stdout=subprocess.DEVNULL)
            print(f"{run.folder}: {describe(read_metrics(run.folder)[-1])}", file=sys.stderr, flush=True)
        finally:
            shares.put(share)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train, runs))


def report(
    title: str,
    runs: Mapping[Any, list[Run]],
    config: RunsConfig,
    draw: Callable[[dict[Any, list[dict[str, Any]]], Path], None],
) -> None:
    """Train all, then evaluate all, print the table, and write the JSON file and the picture that are asked for.

    Args:
        title: of the numbers or texts that ``runs`` are grouped by.
        runs: one for each seed.
        config: of the benchmark.
        draw: the picture of the evaluations.
    """
    train_all([run for of_number in runs.values() for run in of_number], config.jobs)
    results = {number: [evaluate(run, config.split) for run in of_number] for number, of_number in runs.items()}
    titles = [title, *(metric for metric, _ in METRICS.values()), "ESP of fitted charges", "s of training"]
    rows = []
    for number, records in results.items():
        fitted = np.mean([record["baselines"]["distributed_esp_rmse_kcal_per_mol_e"] for record in records])
        seconds = np.mean([record["seconds"] for record in records])
        rows.append(
            [
                number if isinstance(number, str) else f"{number:,}",
                *_mean_and_spread(records),
                f"{fitted:.3g}",
                f"{seconds:.0f}",
            ]
        )
    print(table(titles, rows))
    if config.output:
        Path(config.output).with_suffix(".json").write_text(json.dumps(results, indent=1))
        draw(results, Path(config.output).with_suffix(".png"))


def evaluate(run: Run, split: str) -> dict[str, Any]:
    """Errors and baselines of a run, and its seconds of training."""
    flags = ["--run", str(run.folder), "--split", split, "--cache-dir", run.cache_dir, "--no-plot-results"]
    subprocess.run([sys.executable, "-m", "train.evaluate", *flags], check=True, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = json.loads((run.folder / f"evaluation-{split}.json").read_text())
    epochs = read_metrics(run.folder)
    kept = ("split", "molecules", "metrics", "baselines")
    best = epochs[-1]["best_epoch"]
    return {key: record[key] for key in kept} | {"seconds": sum(e["seconds"] for e in epochs), "best_epoch": best}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def describe(record: dict[str, Any]) -> str:
    """The validation errors of an epoch, and which was the best."""
    errors = (f"{title} {record['valid'][name] * factor:.4g}" for name, (title, factor) in METRICS.items())
    return f"epoch {record['epoch']} (best {record['best_epoch']}): " + "; ".join(errors)


def _mean_and_spread(records: Sequence[dict[str, Any]]) -> list[str]:
    """Of each metric over seeds, for a table."""
    cells = []
    for metric, (_, factor) in METRICS.items():
        values = np.array([record["metrics"][metric] for record in records]) * factor
        spread = f" ± {_digits(values.std(ddof=1), 1)}" if len(values) > 1 else ""
        cells.append(_digits(values.mean(), 3) + spread)
    return cells


def _digits(value: float, number: int) -> str:
    """So many digits, never in powers of ten."""
    return np.format_float_positional(value, number, fractional=False, trim="-")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])

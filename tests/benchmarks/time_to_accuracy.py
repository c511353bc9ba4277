"""Seconds of training until the validation errors first reach given bounds: the speed that counts.

Larger batches take fewer steps in an epoch, so a rate of samples says little by itself. This trains with each batch
size and learning rate, and reads from ``metrics.jsonl`` when the bounds were first met. Batch size 1 stands for the
recipe of the script in common use: its epochs are multiplied by the script's own time for an epoch, which
``throughput`` measures (``--reference-ms``), since the steps are the same and only their speed differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class AccuracyConfig:
    """Recipes and bounds."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    recipes: tuple[str, ...] = ("1:1e-3:4:constant", "16:3e-3:10:cosine", "32:3e-3:10:cosine", "32:5e-3:10:cosine")
    """Batch size, peak learning rate, epochs and schedule of each run."""

    esp: float = 0.2
    """Largest ESP RMSE of the distributed charges, kcal/mol/e."""

    forces: float = 20.0
    """Largest force MAE, meV/Å."""

    reference_ms: float = 7.3
    """Milliseconds that the script in common use takes for a molecule on this machine (from ``throughput``)."""


def first_reached(path: Path, config: AccuracyConfig) -> tuple[int, float] | None:
    """Epoch in which the bounds were first met, and the seconds of training until then."""
    seconds = 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        seconds += record["seconds"]
        valid = record["valid"]
        forces = 1000.0 * valid["forces_mae_ev_per_angstrom"]
        if valid["esp_rmse_kcal_per_mol_e"] <= config.esp and forces <= config.forces:
            return record["epoch"], seconds
    return None


def main() -> None:
    """Run every recipe and print when it got there."""
    config = tyro.cli(AccuracyConfig, description=__doc__)
    with tempfile.TemporaryDirectory() as runs:
        for recipe in config.recipes:
            batch_size, rate, epochs, schedule = recipe.split(":")
            flags = ["--batch-size", batch_size, "--learning-rate", rate, "--epochs", epochs, "--schedule", schedule]
            name = recipe.replace(":", "_")
            common = ["--cache-dir", config.cache_dir, "--runs-dir", runs, "--name", name, "--no-plot-results"]
            command = [sys.executable, "-m", "train", *common, *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            reached = first_reached(Path(runs) / name / "metrics.jsonl", config)
            where = f"batch size {batch_size:>4}  learning rate {rate}  {schedule} over {epochs} epochs"
            if reached is None:
                print(f"{where}: not reached")
                continue
            epoch, seconds = reached
            line = f"{where}: epoch {epoch}, {seconds:.1f} s of training (the first epoch compiles)"
            if batch_size == "1":
                records = (Path(runs) / name / "metrics.jsonl").read_text().splitlines()
                first = json.loads(records[0])
                molecules = first["seconds"] * first["samples_per_second"]
                line += f"; at the script's speed {epoch * molecules * config.reference_ms / 1000.0:.0f} s"
            print(line)


if __name__ == "__main__":
    main()

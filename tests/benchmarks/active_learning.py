"""Do the molecules on which an ensemble disagrees teach more than others? Errors after both kinds of choice.

For each seed, an ensemble is trained on molecules that are drawn at random. Of the rest of the training split, whose
labels are there but not looked at, some are chosen by :mod:`train.select_molecules`, and as many are drawn at random.
Two models are trained anew, on the first molecules and either of these; the errors are those of the test split.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import tyro
from matplotlib.figure import Figure

from tests.benchmarks.learning_curve import LearningCurveConfig, preprocess_rows, write_rows
from tests.benchmarks.runs import METRICS, Run, flags_of, report, train_all


@dataclass(frozen=True)
class ActiveLearningConfig(LearningCurveConfig):
    """Data and runs; halvings have no meaning here."""

    runs_dir: str = "runs/active-learning"
    first: int = 300
    """Molecules of the ensemble's training."""
    more: int = 200
    """Molecules that are added."""
    members: int = 3
    """Of the ensemble."""


def select(config: ActiveLearningConfig, ensemble: Path, rest: np.ndarray) -> np.ndarray:
    """The rows of ``rest`` that the ensemble would have computed next."""
    pool, chosen = ensemble.with_name(f"{ensemble.name}-pool.npz"), ensemble.with_name(f"{ensemble.name}-chosen.xyz")
    write_rows(config.train_efd, rest, pool)
    words = ["--run", str(ensemble), "--candidates", str(pool), "--select", str(config.more), "--output", str(chosen)]
    subprocess.run([sys.executable, "-m", "train.select_molecules", *words], check=True, stdout=subprocess.DEVNULL)
    frames: list[Any] = ase.io.read(chosen, index=":")
    rows = [int(frame.info["source"].split()[-1]) for frame in frames]
    return np.asarray(np.sort(rest)[rows])


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Each error after either choice, one line for each seed."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    names = list(results)
    for axis, (metric, (title, factor)) in zip(axes, METRICS.items(), strict=False):
        values = np.array([[record["metrics"][metric] * factor for record in results[name]] for name in names])
        axis.plot(range(len(names)), values, "o-", color="C0", alpha=0.5)
        axis.set(title=title, xlim=(-0.5, len(names) - 0.5))
        axis.set_xticks(range(len(names)), names, fontsize=7)
    for axis in axes[len(METRICS) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, select, train again, evaluate."""
    config = tyro.cli(ActiveLearningConfig, description=__doc__)
    with np.load(config.train_efd, allow_pickle=False) as content:
        count = len(content["N"])
    folder = Path(config.runs_dir)
    runs: dict[str, list[Run]] = {}
    for seed in config.seeds:
        order = np.random.default_rng(seed).permutation(count)
        known, rest = order[: config.first], order[config.first :]
        cache = preprocess_rows(config, known, folder / "data" / f"first-seed{seed}")
        flags = flags_of(config.flags, seed=10 * seed, epochs=config.epochs, members=config.members)
        ensemble = Run(folder / f"first-seed{seed}", cache, flags)
        train_all([ensemble], jobs=1)
        choices = {"selected": select(config, ensemble.folder, rest), "random": rest[: config.more]}
        for name, added in choices.items():
            cache = preprocess_rows(config, np.concatenate([known, added]), folder / "data" / f"{name}-seed{seed}")
            flags = flags_of(config.flags, seed=seed, epochs=config.epochs)
            runs.setdefault(f"{config.first} + {config.more} {name}", []).append(
                Run(folder / f"{name}-seed{seed}", cache, flags)
            )
    report("training molecules", runs, config, draw)


if __name__ == "__main__":
    main()

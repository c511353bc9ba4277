"""Errors against the number of training molecules: what more data would buy.

Every run has about as many steps as one on the whole training split, so that smaller sets do not also train less. Each
seed has its own subsets, each a part of the next larger one; the elements of the validation and test splits have to
occur in all of them.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter, StrMethodFormatter

from tests.benchmarks.runs import METRICS, Run, RunsConfig, flags_of, report

SAMPLE = "shared/sample"


@dataclass(frozen=True)
class LearningCurveConfig(RunsConfig):
    """Data and runs."""

    train_efd: str = f"{SAMPLE}/mixed-efd-train.npz"
    """As in preprocessing, and so are the others."""

    train_esp: str = f"{SAMPLE}/mixed-esp-train.npz"
    valid_efd: str = f"{SAMPLE}/mixed-efd-valid.npz"
    valid_esp: str = f"{SAMPLE}/mixed-esp-valid.npz"
    test_efd: str = f"{SAMPLE}/mixed-efd-test.npz"
    test_esp: str = f"{SAMPLE}/mixed-esp-test.npz"

    preprocess_flags: str = ""
    """Other flags of preprocessing, in one text: --preprocess-flags="--max-buckets 2"."""

    runs_dir: str = "runs/learning-curve"
    """Folder of the runs, which are taken up where they are; their subsets and shards are in its data/."""

    halvings: int = 3
    """How often the training split is halved."""

    first_halving: int = 0
    """Halvings of the largest subset; 1 leaves out the whole split, whose runs may be there already."""


def preprocess(config: LearningCurveConfig, size: int, seed: int) -> str:
    """Shards of a subset; returns their folder."""
    with np.load(config.train_efd, allow_pickle=False) as content:
        chosen = np.random.default_rng(seed).permutation(len(content["N"]))[:size]
    return preprocess_rows(config, chosen, Path(config.runs_dir) / "data" / f"{size}-seed{seed}")


def preprocess_rows(config: LearningCurveConfig, chosen: np.ndarray, folder: Path) -> str:
    """Shards of these rows of the training split; returns their folder."""
    files = {}
    for kind, path in {"efd": config.train_efd, "esp": config.train_esp}.items():
        files[f"train_{kind}"] = folder / f"{kind}.npz"
        write_rows(path, chosen, files[f"train_{kind}"])
    evaluated = {name: getattr(config, name) for name in ("valid_efd", "valid_esp", "test_efd", "test_esp")}
    cache = folder / "cache"
    flags = flags_of(config.preprocess_flags, cache_dir=cache, **files, **evaluated)
    subprocess.run([sys.executable, "-m", "preprocess", *flags], check=True, stdout=subprocess.DEVNULL)
    return str(cache)


def write_rows(path: str, chosen: np.ndarray, output: Path) -> None:
    """Write these rows of a file, in its order."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with np.load(path, allow_pickle=False) as content:
        count = len(content["N"])
        rows = {key: values[np.sort(chosen)] for key, values in content.items() if values.shape[:1] == (count,)}
    np.savez(output, **rows)  # type: ignore[arg-type]  # its stub takes arrays for allow_pickle


def draw(results: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """Each error against the number of molecules."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    sizes = sorted(results)
    for axis, (metric, (title, factor)) in zip(axes, METRICS.items(), strict=False):
        values = np.array([[record["metrics"][metric] * factor for record in results[size]] for size in sizes])
        axis.plot(sizes, values, "o", color="C0", markersize=4)
        axis.plot(sizes, values.mean(axis=1), "-", color="C0")
        slope = np.polyfit(np.log(sizes), np.log(values.mean(axis=1)), 1)[0]
        axis.set(title=f"{title}; ∝ n^{slope:.2f}", xscale="log", yscale="log", xticks=sizes)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatter(StrMethodFormatter("{x:.3g}"))
    for axis in axes[len(METRICS) :]:
        axis.set_axis_off()
    figure.supxlabel("n, training molecules")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train all, then evaluate all, and print the table."""
    config = tyro.cli(LearningCurveConfig, description=__doc__)
    with np.load(config.train_efd, allow_pickle=False) as content:
        whole = len(content["N"])
    runs: dict[int, list[Run]] = {}
    for halving in reversed(range(config.first_halving, config.halvings + 1)):
        size = whole >> halving
        for seed in config.seeds:
            longer = whole / size
            numbers = {"seed": seed, "epochs": round(config.epochs * longer), "warmup_epochs": round(longer)}
            flags = flags_of(config.flags, **numbers)
            folder = Path(config.runs_dir) / f"{size}-seed{seed}"
            runs.setdefault(size, []).append(Run(folder, preprocess(config, size, seed), flags))
    report("training molecules", runs, config, draw)


if __name__ == "__main__":
    main()

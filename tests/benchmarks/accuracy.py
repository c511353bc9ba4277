"""What the default recipe reaches on the test split: mean and spread over seeds, by the number of charges per atom.

The recipe is chosen by the validation split; the test split is evaluated once, when all is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

from tests.benchmarks.runs import ESP, Run, RunsConfig, flags_of, report


@dataclass(frozen=True)
class AccuracyConfig(RunsConfig):
    """Runs to compare."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    runs_dir: str = "runs/accuracy"
    """Folder of the runs, which are taken up where they are."""

    n_dcm: tuple[int, ...] = (1, 2, 3, 4)
    """Charges per atom."""


def draw(results: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """ESP error against the number of charges, with what fitted charges reach."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    counts = sorted(results)
    for n_dcm in counts:
        values = [record["metrics"][ESP] for record in results[n_dcm]]
        label = "model, each seed" if n_dcm == counts[0] else ""
        axis.plot([n_dcm] * len(values), values, "o", color="C0", label=label)
    baselines = [results[n][0]["baselines"] for n in counts]
    fitted = [one["distributed_esp_rmse_kcal_per_mol_e"] for one in baselines]
    axis.plot(counts, fitted, "_", color="C3", markersize=24, label="charges fitted to each molecule")
    centred = baselines[0]["atom_centred_esp_rmse_kcal_per_mol_e"]
    axis.axhline(centred, color="0.5", linestyle=":", label="fitted, one on each atom")
    axis.set(xlabel="distributed charges per atom", ylabel="ESP RMSE, kcal/mol/e", yscale="log", xticks=counts)
    axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train all, then evaluate all, and print the table."""
    config = tyro.cli(AccuracyConfig, description=__doc__)
    runs: dict[int, list[Run]] = {}
    for n_dcm in config.n_dcm:
        for seed in config.seeds:
            flags = flags_of(config.flags, n_dcm=n_dcm, seed=seed, epochs=config.epochs)
            run = Run(Path(config.runs_dir) / f"n{n_dcm}-seed{seed}", config.cache_dir, flags)
            runs.setdefault(n_dcm, []).append(run)
    report("charges per atom", runs, config, draw)


if __name__ == "__main__":
    main()

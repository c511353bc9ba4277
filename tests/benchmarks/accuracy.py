"""What the default recipe reaches on the test split: mean and spread over seeds, by the number of charges per atom.

Each run is an ordinary one in --runs-dir, so that this can be stopped and started again, and looked into. The recipe is
chosen by the validation split; the test split is evaluated once, when all is trained.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

METRICS = {
    "energy_mae_ev": ("E, meV", 1000.0),
    "forces_mae_ev_per_angstrom": ("F, meV/Å", 1000.0),
    "dipole_mae_debye": ("D of PhysNet, D", 1.0),
    "dipole_dcm_mae_debye": ("D of DCMNet, D", 1.0),
    "esp_rmse_kcal_per_mol_e": ("ESP, kcal/mol/e", 1.0),
}


@dataclass(frozen=True)
class AccuracyConfig:
    """Runs to compare."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    runs_dir: str = "runs/accuracy"
    """Folder of the runs."""

    n_dcm: tuple[int, ...] = (1, 2, 3, 4)
    """Charges per atom."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each."""

    epochs: int = 60
    """Epochs of each run."""

    flags: str = ""
    """Other flags of training, in one text."""

    split: str = "test"
    """Split that is evaluated."""

    output: str = ""
    """Stem of a JSON file and a picture."""


def run(config: AccuracyConfig, n_dcm: int, seed: int) -> Path:
    """Train, or take up, one run; returns its folder."""
    name = f"n{n_dcm}-seed{seed}"
    flags = ["--cache-dir", config.cache_dir, "--runs-dir", config.runs_dir, "--name", name, "--no-plot-results"]
    flags += ["--n-dcm", str(n_dcm), "--seed", str(seed), "--epochs", str(config.epochs), *shlex.split(config.flags)]
    subprocess.run([sys.executable, "-m", "train", *flags], check=True, stdout=subprocess.DEVNULL)
    return Path(config.runs_dir) / name


def evaluation(config: AccuracyConfig, folder: Path) -> dict[str, Any]:
    """Errors and limits of a run."""
    flags = ["--run", str(folder), "--split", config.split, "--cache-dir", config.cache_dir, "--no-plot-results"]
    subprocess.run([sys.executable, "-m", "train.evaluate", *flags], check=True, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = json.loads((folder / f"evaluation-{config.split}.json").read_text())
    record["seconds"] = sum(json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    return record


def row(n_dcm: int, records: list[dict[str, Any]]) -> str:
    """A line of the table."""
    cells = [str(n_dcm)]
    for metric, (_, factor) in METRICS.items():
        values = np.array([record["metrics"][metric] for record in records]) * factor
        cells.append(f"{values.mean():.3g} ± {values.std(ddof=1):.1g}" if len(values) > 1 else f"{values[0]:.3g}")
    limit = np.mean([record["limits"]["distributed_esp_rmse_kcal_per_mol_e"] for record in records])
    cells += [f"{limit:.3g}", f"{np.mean([record['seconds'] for record in records]):.0f}"]
    return "| " + " | ".join(cells) + " |"


def draw(results: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """ESP error against the number of charges, with what fitted charges reach."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axis = figure.subplots()
    name = "esp_rmse_kcal_per_mol_e"
    counts = sorted(results)
    for n_dcm in counts:
        values = [record["metrics"][name] for record in results[n_dcm]]
        label = "model, each seed" if n_dcm == counts[0] else ""
        axis.plot([n_dcm] * len(values), values, "o", color="C0", label=label)
    limits = [results[n][0]["limits"] for n in counts]
    fitted = [limit["distributed_esp_rmse_kcal_per_mol_e"] for limit in limits]
    axis.plot(counts, fitted, "_", color="C3", markersize=24, label="charges fitted to each molecule")
    centred = limits[0]["atom_centred_esp_rmse_kcal_per_mol_e"]
    axis.axhline(centred, color="0.5", linestyle=":", label="fitted, one on each atom")
    axis.set(xlabel="distributed charges per atom", ylabel="ESP RMSE, kcal/mol/e", yscale="log", xticks=counts)
    axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train all, then evaluate all, and print the table."""
    config = tyro.cli(AccuracyConfig, description=__doc__)
    folders = {n: [run(config, n, seed) for seed in config.seeds] for n in config.n_dcm}
    results = {n: [evaluation(config, folder) for folder in runs] for n, runs in folders.items()}
    titles = ["charges per atom", *(title for title, _ in METRICS.values()), "ESP of fitted charges", "s of training"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for n_dcm, records in results.items():
        print(row(n_dcm, records))
    if config.output:
        Path(config.output).with_suffix(".json").write_text(json.dumps(results, indent=1))
        draw(results, Path(config.output).with_suffix(".png"))


if __name__ == "__main__":
    main()

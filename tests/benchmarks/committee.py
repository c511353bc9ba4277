"""Errors of several separately trained runs, and of their mean, on molecules with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import ase
import numpy as np
import tyro

from shared.elements import VAN_DER_WAALS_RADII
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from tests.benchmarks.runs import METRICS, table
from train.inference.predictor import Predictor


@dataclass(frozen=True)
class CommitteeConfig:
    """Runs and a pair of files in the input format, in its units."""

    runs: Annotated[tuple[str, ...], tyro.conf.arg(help="Folders of the runs.")]
    efd: str
    esp: str


def errors(predictor: Predictor, config: CommitteeConfig) -> dict[str, float]:
    """The metrics of an evaluation, for the grid points outside of the van der Waals radii."""
    with np.load(config.efd, allow_pickle=False) as content:
        efd = dict(content)
    with np.load(config.esp, allow_pickle=False) as content:
        esp = dict(content)
    molecules = [ase.Atoms(z[:n], r[:n]) for z, r, n in zip(efd["Z"], efd["R"], efd["N"], strict=True)]
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    forces = []
    for row, one in enumerate(predictor.predict(molecules, batch_size=32, full_batches=True)):
        found["energy_mae_ev"].append(abs(one.energy - float(efd["E"][row])))
        forces.append(np.abs(one.forces - efd["F"][row, : len(molecules[row])]).ravel())
        for name, dipole in (("dipole_mae_debye", one.dipole), ("dipole_dcm_mae_debye", one.dipole_dcm)):
            found[name].append(float(np.abs(dipole / DEBYE_IN_E_ANGSTROM - efd["Dxyz"][row]).mean()))
        points, values = (esp[name][row, : esp["n_grid"][row]] for name in ("vdw_surface", "esp"))
        distances = np.linalg.norm(points[:, None] - molecules[row].positions, axis=-1)
        outside = (distances > VAN_DER_WAALS_RADII[molecules[row].numbers]).all(axis=1)
        difference = predictor.potential(one, points[outside]) - values[outside]
        found["esp_rmse_kcal_per_mol_e"].append(float((difference**2).mean()))
    means = {name: float(np.mean(values)) for name, values in found.items() if values}
    means["forces_mae_ev_per_angstrom"] = float(np.concatenate(forces).mean())
    means["esp_rmse_kcal_per_mol_e"] = float(np.sqrt(means["esp_rmse_kcal_per_mol_e"])) * HARTREE_IN_KCAL_PER_MOL
    return means


def main() -> None:
    """Print a row for each run, and one for all together."""
    config = tyro.cli(CommitteeConfig, description=__doc__)
    models = {run: Predictor(run) for run in config.runs} | {f"mean of {len(config.runs)}": Predictor(config.runs)}
    rows = []
    for name, predictor in models.items():
        found = errors(predictor, config)
        rows.append([name, *(f"{found[metric] * factor:.4g}" for metric, (_, factor) in METRICS.items())])
    print(table(["run", *(title for title, _ in METRICS.values())], rows))


if __name__ == "__main__":
    main()

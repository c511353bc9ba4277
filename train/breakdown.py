"""Errors of a split taken apart: by element, by distance from the molecule, by molecule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.batch import Batch
from shared.elements import VAN_DER_WAALS_RADII, symbol
from shared.units import HARTREE_IN_KCAL_PER_MOL
from train.prediction import Prediction

SHELLS = (0.0, 1.2, 1.4, 1.6, 1.8, 2.0, np.inf)
"""Bounds of the distance shells, in van der Waals radii (Alvarez 2013) of the atom that is nearest so measured."""


@dataclass
class Breakdown:
    """Sums by atomic number (0-118) and by shell, added batch by batch."""

    atoms: np.ndarray = field(default_factory=lambda: np.zeros(len(VAN_DER_WAALS_RADII)))
    forces: np.ndarray = field(default_factory=lambda: np.zeros(len(VAN_DER_WAALS_RADII)))
    monopole: np.ndarray = field(default_factory=lambda: np.zeros(len(VAN_DER_WAALS_RADII)))
    points_by_element: np.ndarray = field(default_factory=lambda: np.zeros((2, len(VAN_DER_WAALS_RADII))))
    points_by_shell: np.ndarray = field(default_factory=lambda: np.zeros((2, len(SHELLS) - 1)))
    esp_squares_by_shell: np.ndarray = field(default_factory=lambda: np.zeros(len(SHELLS) - 1))

    def add(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch of the host, cleaned or not; what is padding does not count."""
        real = batch.molecule_mask[:, None] & (batch.atomic_numbers > 0)
        numbers = np.asarray(batch.atomic_numbers)
        kinds = numbers[real]
        _accumulate(self.atoms, kinds, 1.0)
        _accumulate(self.forces, kinds, np.abs(prediction.forces - batch.forces).mean(axis=-1)[real])
        _accumulate(self.monopole, kinds, np.abs(prediction.dcm_charges.sum(axis=-1) - prediction.charges)[real])
        for i in np.flatnonzero(batch.molecule_mask):
            kept = batch.esp_mask[i]
            if not kept.any():
                continue
            own = numbers[i][real[i]]
            distances = np.linalg.norm(batch.grid[i][kept][:, None] - batch.positions[i][real[i]][None], axis=-1)
            multiples = distances / VAN_DER_WAALS_RADII[own]
            nearest = multiples.argmin(axis=1)
            squares = ((prediction.esp[i] - batch.esp[i])[kept] * HARTREE_IN_KCAL_PER_MOL) ** 2
            _accumulate(self.points_by_element[0], own[nearest], 1.0)
            _accumulate(self.points_by_element[1], own[nearest], squares)
            shells = np.digitize(multiples.min(axis=1), SHELLS) - 1
            _accumulate(self.points_by_shell[0], shells, 1.0)
            _accumulate(self.points_by_shell[1], shells, squares)
            references = (batch.esp[i][kept] * HARTREE_IN_KCAL_PER_MOL) ** 2
            _accumulate(self.esp_squares_by_shell, shells, references)

    def as_record(self) -> dict[str, Any]:
        """For the JSON file: only what occurs, names with their units."""
        by_element = {}
        for z in np.flatnonzero(self.atoms):
            points, squares = self.points_by_element[:, z]
            by_element[symbol(int(z))] = {
                "atoms": int(self.atoms[z]),
                "forces_mae_ev_per_angstrom": self.forces[z] / self.atoms[z],
                "monopole_mae_e": self.monopole[z] / self.atoms[z],
                "esp_points": int(points),
                "esp_rmse_kcal_per_mol_e": float(np.sqrt(squares / points)) if points else None,
            }
        by_shell = [
            {
                "from_radii": SHELLS[i],
                "to_radii": SHELLS[i + 1] if np.isfinite(SHELLS[i + 1]) else None,
                "esp_points": int(points),
                "esp_rmse_kcal_per_mol_e": float(np.sqrt(squares / points)),
                "esp_spread_kcal_per_mol_e": float(np.sqrt(references / points)),
            }
            for i, (points, squares, references) in enumerate(
                zip(*self.points_by_shell, self.esp_squares_by_shell, strict=True)
            )
            if points
        ]
        return {"by_element": by_element, "by_distance_shell": by_shell}


def describe_breakdown(record: dict[str, Any]) -> str:
    """Two small tables for people."""
    lines = ["  element    atoms  forces, meV/Å  ESP around it, kcal/mol/e"]
    for name, entry in record["by_element"].items():
        esp = entry["esp_rmse_kcal_per_mol_e"]
        shown = "-" if esp is None else f"{esp:.3g}"
        lines.append(f"  {name:<8}{entry['atoms']:>8,}{entry['forces_mae_ev_per_angstrom'] * 1000:>15.4g}{shown:>27}")
    lines.append("  radii from the atoms   points  ESP RMSE  of a spread of, kcal/mol/e")
    for shell in record["by_distance_shell"]:
        bounds = (
            f"{shell['from_radii']:g} - {shell['to_radii']:g}" if shell["to_radii"] else f"{shell['from_radii']:g} -"
        )
        rmse, spread = shell["esp_rmse_kcal_per_mol_e"], shell["esp_spread_kcal_per_mol_e"]
        lines.append(f"  {bounds:<18}{shell['esp_points']:>11,}{rmse:>10.3g}{spread:>14.3g}")
    return "\n".join(lines)


def _accumulate(sums: np.ndarray, where: np.ndarray, values: np.ndarray | float) -> None:
    """``sums[where] += values``, repeated places added up."""
    np.add.at(sums, where, values)

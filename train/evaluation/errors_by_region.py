"""Errors of a split by element and by distance from the molecule, beside their baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII, symbol
from train.data.batch import Batch, known_targets
from train.evaluation.baselines import Baselines, normalise
from train.evaluation.grid_regions import SHELLS, PointSquares, locate_points, shell_name
from train.model.prediction import Prediction


def _by_element() -> np.ndarray:
    return np.zeros(len(VAN_DER_WAALS_RADII))


@dataclass
class RegionErrors:
    """Sums of errors by atomic number (0-118) and by distance shell, added batch by batch."""

    atoms: np.ndarray = field(default_factory=_by_element)
    with_forces: np.ndarray = field(default_factory=_by_element)
    forces: np.ndarray = field(default_factory=_by_element)
    forces_reference: np.ndarray = field(default_factory=_by_element)
    monopole: np.ndarray = field(default_factory=_by_element)
    esp: PointSquares = field(default_factory=PointSquares)
    esp_reference: PointSquares = field(default_factory=PointSquares)

    def add(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch of the host, cleaned or not; padding and forces that are not known do not count."""
        real = batch.molecule_mask[:, None] & (batch.atomic_numbers > 0)
        kinds = np.asarray(batch.atomic_numbers)[real]
        np.add.at(self.atoms, kinds, 1.0)
        known = np.asarray(known_targets(batch).forces)
        with_forces = np.asarray(batch.atomic_numbers)[known]
        np.add.at(self.with_forces, with_forces, 1.0)
        np.add.at(self.forces, with_forces, np.abs(prediction.forces - batch.forces).mean(axis=-1)[known])
        np.add.at(self.forces_reference, with_forces, np.abs(batch.forces).mean(axis=-1)[known])
        np.add.at(self.monopole, kinds, np.abs(prediction.dcm_charges.sum(axis=-1) - prediction.charges)[real])
        for points in locate_points(batch):
            i = points.molecule
            self.esp.add(points, np.asarray(prediction.esp[i] - batch.esp[i]))
            self.esp_reference.add(points, np.asarray(batch.esp[i]))

    def as_record(self, baselines: Baselines) -> dict[str, Any]:
        """Return the errors of the elements and shells that occur, for the JSON file; names have their units."""
        rmse, spread = self.esp.element_rmse(), self.esp_reference.element_rmse()
        by_element = {}
        for z in np.flatnonzero(self.atoms):
            name = symbol(int(z))
            by_element[name] = {
                "atoms": int(self.atoms[z]),
                **self._forces_entry(int(z)),
                "monopole_mae_e": self.monopole[z] / self.atoms[z],
                "esp_points": int(self.esp.by_element[0, z]),
                **_esp_entry(rmse.get(name), baselines.esp_by_element.get(name), spread.get(name)),
            }
        rmse, spread = self.esp.shell_rmse(), self.esp_reference.shell_rmse()
        by_shell = [
            {
                "from_radii": SHELLS[i],
                "to_radii": SHELLS[i + 1] if np.isfinite(SHELLS[i + 1]) else None,
                "esp_points": int(self.esp.by_shell[0, i]),
                **_esp_entry(rmse[name], baselines.esp_by_shell.get(name), spread[name]),
            }
            for i in range(len(SHELLS) - 1)
            if (name := shell_name(i)) in rmse
        ]
        return {"by_element": by_element, "by_distance_shell": by_shell}

    def _forces_entry(self, atomic_number: int) -> dict[str, float | None]:
        """Return the errors of an element's forces; None where no molecule with the element has forces."""
        number = self.with_forces[atomic_number]
        forces, spread = (
            sums[atomic_number] / number if number else None for sums in (self.forces, self.forces_reference)
        )
        return {
            "forces_mae_ev_per_angstrom": forces,
            "forces_spread_ev_per_angstrom": spread,
            "forces_normalised_error": normalise(forces, 0.0, spread),
        }


def _esp_entry(rmse: float | None, fitted: float | None, spread: float | None) -> dict[str, float | None]:
    """Return the errors of the ESP; None where no point counts, or none in the molecules with fitted charges."""
    return {
        "esp_rmse_kcal_per_mol_e": rmse,
        "esp_fitted_charges_kcal_per_mol_e": fitted,
        "esp_spread_kcal_per_mol_e": spread,
        "esp_normalised_error": normalise(rmse, fitted, spread),
    }


def describe_regions(record: dict[str, Any]) -> str:
    """Return tables by element and by distance; empty where there are neither forces nor an ESP."""
    if not (record["by_distance_shell"] or any(map(_has_forces, record["by_element"].values()))):
        return ""
    esp = f"{'fitted':>10}{'spread':>8}{'%':>8}"
    lines = [f"  {'element':<8}{'atoms':>8}{'forces, meV/Å':>15}{'%':>8}{'ESP nearest to it, kcal/mol/e':>31}{esp}"]
    for name, entry in record["by_element"].items():
        forces = f"{_milli(entry['forces_mae_ev_per_angstrom']):>15}{_percent(entry['forces_normalised_error']):>8}"
        lines.append(f"  {name:<8}{entry['atoms']:>8,}{forces}{_esp_cells(entry, 31)}")
    if record["by_distance_shell"]:
        lines.append(f"  {'radii from the atoms':<20}{'points':>9}{'ESP, kcal/mol/e':>17}{esp}")
    for shell in record["by_distance_shell"]:
        upper = f" {shell['to_radii']:g}" if shell["to_radii"] else ""
        bounds = f"{shell['from_radii']:g} -{upper}"
        lines.append(f"  {bounds:<18}{shell['esp_points']:>11,}{_esp_cells(shell, 17)}")
    lines.append("  fitted: ESP RMSE of fitted charges; %: normalised error")
    return "\n".join(lines)


def _has_forces(entry: dict[str, Any]) -> bool:
    return entry["forces_mae_ev_per_angstrom"] is not None


def _esp_cells(entry: dict[str, Any], width: int) -> str:
    names = ("esp_rmse_kcal_per_mol_e", "esp_fitted_charges_kcal_per_mol_e", "esp_spread_kcal_per_mol_e")
    rmse, fitted, spread = ("-" if entry[name] is None else f"{entry[name]:.3g}" for name in names)
    return f"{rmse:>{width}}{fitted:>10}{spread:>8}{_percent(entry['esp_normalised_error']):>8}"


def _milli(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.4g}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"

"""Errors of single molecules: the worst ones by name and row, and means for each type of molecule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.formula import Formula

from shared.elements import symbol
from shared.text import shown
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets
from train.model.prediction import Prediction

ERRORS = {
    "energy_error_ev": "energy error, eV",
    "forces_mae_ev_per_angstrom": "forces MAE, eV/Å",
    "dipole_error_debye": "dipole error (PhysNet), D",
    "dipole_dcm_error_debye": "dipole error (DCMNet), D",
    "esp_rmse_kcal_per_mol_e": "ESP RMSE, kcal/mol/e",
}
"""Errors of one molecule: prediction minus reference, the mean over its forces' components, the length of the dipoles'
difference, the root mean square over its grid points; NaN if there is no reference."""

WORST = 10
_WIDTH = 20
_SHOWN = 5


@dataclass
class MoleculeErrors:
    """Errors of all molecules of a split, added batch by batch."""

    names: list[str] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)

    def add(self, batch: Batch, prediction: Prediction, rows: np.ndarray, names: list[str]) -> None:
        """Add the molecules of a batch of the host.

        Args:
            batch: its real molecules come first.
            prediction: of the batch.
            rows: (n,) rows of the molecules in the split's input files.
            names: n names, perhaps empty.
        """
        n = len(rows)
        atoms = (np.asarray(batch.atomic_numbers) > 0)[:n]
        with_forces = np.asarray(known_targets(batch).forces)[:n].any(axis=1)
        points = np.asarray(batch.esp_mask)[:n]
        forces = np.abs(prediction.forces - batch.forces)[:n].mean(axis=-1)
        forces = np.where(atoms, forces, 0.0).sum(axis=1) / atoms.sum(axis=1)
        squares = np.square(prediction.esp - batch.esp)[:n]
        count = points.sum(axis=1)
        with np.errstate(invalid="ignore"):
            esp = np.sqrt(np.where(points, squares, 0.0).sum(axis=1) / count)
        debye = 1.0 / DEBYE_IN_E_ANGSTROM
        columns = (
            (prediction.energy - batch.energy)[:n],
            np.where(with_forces, forces, np.nan),
            np.linalg.norm(prediction.dipole - batch.dipole, axis=-1)[:n] * debye,
            np.linalg.norm(prediction.dipole_dcm - batch.dipole, axis=-1)[:n] * debye,
            esp * HARTREE_IN_KCAL_PER_MOL,
        )
        self.errors.append(np.stack(columns, axis=1).astype(np.float64))
        self.rows.extend(rows.tolist())
        self.names.extend(names)
        for i in range(n):
            self.formulas.append(formula(np.asarray(batch.atomic_numbers)[i][atoms[i]]))

    def as_record(self) -> dict[str, Any]:
        """Return means by type of molecule, and the worst molecules by ESP and by forces, for the JSON file."""
        errors = np.concatenate(self.errors)
        types = np.array(molecule_types(self.names, self.formulas))
        by_type = {
            str(kind): {"molecules": int(mine.sum()), **_means(errors[mine])}
            for kind in np.unique(types)
            for mine in [types == kind]
        }
        worst = {}
        for column, name in enumerate(ERRORS):
            if name.startswith(("forces", "esp")):
                order = np.argsort(-errors[:, column], kind="stable")[:WORST]  # NaN comes last
                worst[name] = [self._entry(int(i), errors[i]) for i in order if np.isfinite(errors[i, column])]
        return {"by_type": by_type, "worst": worst}

    def _entry(self, i: int, errors: np.ndarray) -> dict[str, Any]:
        values = {name: _number(value) for name, value in zip(ERRORS, errors, strict=True)}
        return {"row": self.rows[i], "name": self.names[i], "formula": self.formulas[i], **values}


def formula(atomic_numbers: np.ndarray) -> str:
    """Return the formula of atomic numbers (N,), in Hill's order."""
    return str(Formula.from_list([symbol(int(z)) for z in atomic_numbers]).format("hill"))


def molecule_types(names: list[str], formulas: list[str]) -> list[str]:
    """Return the molecules' names if they name types, otherwise formulas: names that all differ name no types."""
    named = all(names) and len(set(names)) <= len(names) / 2
    return names if named else formulas


def describe_molecules(record: dict[str, Any]) -> str:
    """Return tables of the types and molecules with the largest ESP errors, or else force errors; perhaps empty."""
    worst = record["worst"]["esp_rmse_kcal_per_mol_e"] or record["worst"]["forces_mae_ev_per_angstrom"]
    if not worst:
        return ""
    types = worst_first(record["by_type"])
    lines = []
    if len(types) > 1:
        lines.append(
            f"  molecules of type   number   F, meV/Å   ESP, kcal/mol/e  (the {min(_SHOWN, len(types))} worst)"
        )
        for kind, entry in types[:_SHOWN]:
            lines.append(f"  {shown(kind, _WIDTH):<20}{entry['molecules']:>6,}{_cells(entry)}")
    lines.append("  worst molecule      row in input   F, meV/Å   ESP, kcal/mol/e")
    lines.extend(
        f"  {shown(entry['name'] or entry['formula'], _WIDTH):<20}{entry['row']:>12,}{_cells(entry)}"
        for entry in worst[:_SHOWN]
    )
    return "\n".join(lines)


def worst_first(by_type: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Sort types of molecules by falling error of the ESP, then those without ESP by that of forces."""
    names = ("esp_rmse_kcal_per_mol_e", "forces_mae_ev_per_angstrom")
    return sorted(by_type.items(), key=lambda item: tuple(-(item[1][name] or 0.0) for name in names))


def _cells(entry: dict[str, Any]) -> str:
    forces, esp = entry["forces_mae_ev_per_angstrom"], entry["esp_rmse_kcal_per_mol_e"]
    force = "-" if forces is None else f"{forces * 1000:.4g}"
    return f"{force:>11}{'-' if esp is None else f'{esp:.3g}':>18}"


def _means(errors: np.ndarray) -> dict[str, float | None]:
    """Return mean absolute errors over the molecules that have a reference; for the ESP the root mean square."""
    means: dict[str, float | None] = {}
    for column, name in enumerate(ERRORS):
        known = errors[:, column][np.isfinite(errors[:, column])]
        if not len(known):
            mean = None
        elif name.startswith("esp"):
            mean = float(np.sqrt(np.square(known).mean()))
        else:
            mean = float(np.abs(known).mean())
        means[name.replace("_error_", "_mae_")] = mean
    return means


def _number(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None

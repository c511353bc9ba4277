"""Errors of every molecule by itself: the worst ones by name and row, and what each kind of molecule's are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.formula import Formula

from shared.batch import Batch
from shared.elements import symbol
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.prediction import Prediction

ERRORS = {
    "energy_error_ev": "energy error, eV",
    "forces_mae_ev_per_angstrom": "forces MAE, eV/Å",
    "dipole_error_debye": "dipole error (PhysNet), D",
    "dipole_dcm_error_debye": "dipole error (DCMNet), D",
    "esp_rmse_kcal_per_mol_e": "ESP RMSE, kcal/mol/e",
}
"""Of one molecule: prediction minus reference, the mean over its forces' components, the length of the dipoles'
difference, the root mean square over its grid points (NaN if none counts)."""

WORST = 10
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
            batch: with its real molecules first.
            prediction: of the batch.
            rows: (n,) their rows in the split's input files.
            names: n names, perhaps empty.
        """
        n = len(rows)
        atoms = (np.asarray(batch.atomic_numbers) > 0)[:n]
        points = np.asarray(batch.esp_mask)[:n]
        forces = np.abs(prediction.forces - batch.forces)[:n].mean(axis=-1)
        squares = np.square(prediction.esp - batch.esp)[:n]
        count = points.sum(axis=1)
        with np.errstate(invalid="ignore"):
            esp = np.sqrt(np.where(points, squares, 0.0).sum(axis=1) / count)
        debye = 1.0 / DEBYE_IN_E_ANGSTROM
        columns = (
            (prediction.energy - batch.energy)[:n],
            np.where(atoms, forces, 0.0).sum(axis=1) / atoms.sum(axis=1),
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
        """For the JSON file: means by type of molecule, and the worst molecules by ESP and by forces."""
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
                # Molecules without a grid point that counts have no ESP error: they come last.
                order = np.argsort(-np.nan_to_num(errors[:, column], nan=-1.0), kind="stable")[:WORST]
                worst[name] = [self._entry(int(i), errors[i]) for i in order]
        return {"by_type": by_type, "worst": worst}

    def _entry(self, i: int, errors: np.ndarray) -> dict[str, Any]:
        values = {name: _number(value) for name, value in zip(ERRORS, errors, strict=True)}
        return {"row": self.rows[i], "name": self.names[i], "formula": self.formulas[i], **values}


def formula(atomic_numbers: np.ndarray) -> str:
    """Of a molecule's atomic numbers (N,), in Hill's order."""
    return str(Formula.from_list([symbol(int(z)) for z in atomic_numbers]).format("hill"))


def molecule_types(names: list[str], formulas: list[str]) -> list[str]:
    """Names where they name kinds of molecules, else formulas: names that all differ say nothing of kinds."""
    named = all(names) and len(set(names)) <= len(names) / 2
    return names if named else formulas


def describe_molecules(record: dict[str, Any]) -> str:
    """The types and the molecules with the largest errors of the ESP, for people."""
    types = sorted(record["by_type"].items(), key=lambda item: -(item[1]["esp_rmse_kcal_per_mol_e"] or 0.0))
    lines = []
    if len(types) > 1:
        lines.append(
            f"  molecules of type   number   F, meV/Å   ESP, kcal/mol/e  (the {min(_SHOWN, len(types))} worst)"
        )
        for kind, entry in types[:_SHOWN]:
            forces = entry["forces_mae_ev_per_angstrom"] * 1000
            lines.append(f"  {kind:<20}{entry['molecules']:>6,}{forces:>11.4g}{_shown(entry):>18}")
    lines.append("  worst molecule      row in input   F, meV/Å   ESP, kcal/mol/e")
    for entry in record["worst"]["esp_rmse_kcal_per_mol_e"][:_SHOWN]:
        forces = entry["forces_mae_ev_per_angstrom"] * 1000
        lines.append(f"  {entry['name'] or entry['formula']:<20}{entry['row']:>12,}{forces:>11.4g}{_shown(entry):>18}")
    return "\n".join(lines)


def _shown(entry: dict[str, Any]) -> str:
    esp = entry["esp_rmse_kcal_per_mol_e"]
    return "-" if esp is None else f"{esp:.3g}"


def _means(errors: np.ndarray) -> dict[str, float | None]:
    """Mean absolute errors of some molecules; of the ESP the root mean square."""
    esp = errors[:, -1][np.isfinite(errors[:, -1])]
    means = {
        name.replace("_error_", "_mae_"): _number(np.abs(errors[:, column]).mean())
        for column, name in enumerate(ERRORS)
        if not name.startswith("esp")
    }
    return {**means, "esp_rmse_kcal_per_mol_e": _number(np.sqrt(np.square(esp).mean())) if esp.size else None}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None

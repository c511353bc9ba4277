"""Errors of single molecules: the worst ones by name and row, and means for each type of molecule."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.elements import formula
from shared.text import shown
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets
from train.data.known_molecules import MOST_NAMED_TYPES, NEW_FORMULA, NEW_GRAPH, NOT_KNOWN, names_are_types
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

_SQUARED = np.array([name.startswith("esp") for name in ERRORS])

WORST = 10
_WIDTH = 20
_SHOWN = 5


@dataclass
class _Sums:
    """Errors of the molecules of one type."""

    molecules: int = 0
    unseen: int = 0
    known: np.ndarray = field(default_factory=lambda: np.zeros(len(ERRORS), int))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(len(ERRORS)))  # of magnitudes; of squares for the ESP

    def add(self, errors: np.ndarray, unseen: bool) -> None:
        """Add the errors (5,) of a molecule."""
        known = np.isfinite(errors)
        self.molecules += 1
        self.unseen += unseen
        self.known += known
        self.sums += np.where(known, np.where(_SQUARED, np.square(errors), np.abs(errors)), 0.0)

    def means(self) -> dict[str, float | None]:
        """Return mean absolute errors over the molecules that have a reference; for the ESP the root mean square."""
        means: dict[str, float | None] = {}
        for name, squared, known, total in zip(ERRORS, _SQUARED, self.known, self.sums, strict=True):
            mean = float(total / known) if known else None
            means[name.replace("_error_", "_mae_")] = math.sqrt(mean) if squared and mean is not None else mean
        return means


@dataclass
class MoleculeErrors:
    """Errors of all molecules of a split, added batch by batch, of which only the worst are kept one by one."""

    _by_formula: dict[str, _Sums] = field(default_factory=dict)
    _by_name: dict[str, _Sums] = field(default_factory=dict)
    _names_may_be_types: bool = True
    _worst: dict[str, list[tuple[float, int, dict[str, Any]]]] = field(
        default_factory=lambda: {name: [] for name in ERRORS if name.startswith(("forces", "esp"))}
    )
    _molecules: int = 0
    _novelty_known: bool = True

    def add(self, batch: Batch, prediction: Prediction, rows: np.ndarray, names: list[str], novelty: int) -> None:
        """Add the molecules of a batch of the host.

        Args:
            batch: its real molecules come first.
            prediction: of the batch.
            rows: (n,) rows of the molecules in the split's input files.
            names: n names, perhaps empty.
            novelty: what all of them are to the training, see KnownMolecules.novelty, or NOT_KNOWN.
        """
        self._novelty_known &= novelty != NOT_KNOWN
        unseen = novelty in (NEW_GRAPH, NEW_FORMULA)
        atoms = np.asarray(batch.atomic_numbers) > 0
        for i, errors in enumerate(_errors(batch, prediction, len(rows))):
            kind = formula(np.asarray(batch.atomic_numbers)[i][atoms[i]])
            self._by_formula.setdefault(kind, _Sums()).add(errors, unseen)
            if self._names_may_be_types:
                self._by_name.setdefault(names[i], _Sums()).add(errors, unseen)
                if not names[i] or len(self._by_name) > MOST_NAMED_TYPES:
                    self._names_may_be_types = False
                    self._by_name.clear()
            values = dict(zip(ERRORS, map(_number, errors), strict=True))
            entry = {"row": int(rows[i]), "name": names[i], "formula": kind, **values}
            for name, worst in self._worst.items():
                value = values[name]
                if value is not None:
                    # Of equal ones, the first in the split.
                    bisect.insort(worst, (-value, self._molecules, entry), key=lambda one: one[:2])
                    del worst[WORST:]
            self._molecules += 1

    def as_record(self) -> dict[str, Any]:
        """Return means by type of molecule, and the worst molecules by ESP and by forces, for the JSON file."""
        named = self._names_may_be_types and names_are_types(len(self._by_name), self._molecules)
        types = self._by_name if named else self._by_formula
        by_type = {
            kind: {
                "molecules": sums.molecules,
                "unseen": sums.unseen if self._novelty_known else None,
                **sums.means(),
            }
            for kind, sums in sorted(types.items())
        }
        return {"by_type": by_type, "worst": {name: [one[2] for one in worst] for name, worst in self._worst.items()}}


def _errors(batch: Batch, prediction: Prediction, n: int) -> np.ndarray:
    """Return the errors (n, 5) of a batch's molecules, in float64."""
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
    return np.stack(columns, axis=1).astype(np.float64)


def molecule_types(names: list[str], formulas: list[str]) -> list[str]:
    """Return the molecules' names if they name types, otherwise formulas: names that all differ name no types."""
    return names if all(names) and names_are_types(len(set(names)), len(names)) else formulas


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


def _number(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None

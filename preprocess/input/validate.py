"""Checks of loaded molecules and grids. Only real atoms and grid points count: padding may hold anything."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np

from preprocess.input.pairs import Pair
from preprocess.input.reader import Grids, Molecules
from shared.elements import MAX_ATOMIC_NUMBER, symbol
from shared.errors import UserError
from shared.input.layout import PAIRING_TOLERANCE, WHOLE_CHARGE


class PairingError(UserError):
    """The error of a row that is another molecule in the ESP file than in the file of energies."""

    def __init__(self, pair: Pair, message: str) -> None:
        super().__init__(message)
        self.pair = pair

    def __reduce__(self) -> tuple[type[PairingError], tuple[Pair, str]]:
        return PairingError, (self.pair, str(self))  # from a worker process


def check_molecules(molecules: Molecules) -> None:
    """Check counts, elements, finite values, and the pairing of the two files.

    Raises:
        UserError: naming file, key, row and value.
    """
    efd, esp = molecules.pair.efd_shown, molecules.pair.esp_shown
    rows = np.arange(molecules.start, molecules.start + len(molecules))
    _check_counts(efd, molecules.atomic_numbers, molecules.n_atoms, rows)
    _check_range(esp, "n_grid", molecules.n_grid, 0, molecules.grid_width, "grid points", molecules.esp_row)
    real = atom_mask(molecules.n_atoms, molecules.positions.shape[1])
    for key, name, values, mask in (
        ("R", "", molecules.positions, real[..., None]),
        ("F", "forces", molecules.forces, real[..., None]),
        ("E", "energy", molecules.energy, None),
        ("Dxyz", "dipole", molecules.dipole, None),
        ("quadrupole", "quadrupole", molecules.quadrupole, None),
        ("Q", "", molecules.total_charge, None),
    ):
        lacking = _lacking(values, mask) if name in molecules.may_lack else None
        _check_finite(efd, key, values, mask, rows, lacking)
    _check_whole(efd, molecules.total_charge, rows)
    if molecules.esp_positions is not None:
        _check_esp_geometry(molecules, esp, real)


def _lacking(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the rows (n,) that are NaN as a whole: these frames lack the quantity."""
    nan = np.isnan(values) if mask is None else np.isnan(values) | ~mask
    return nan.reshape(len(values), -1).all(axis=1)


def _check_whole(path: str, charges: np.ndarray, rows: np.ndarray) -> None:
    off = np.abs(charges - np.rint(charges)) > WHOLE_CHARGE
    if off.any():
        row = int(np.argmax(off))
        raise UserError(
            f"{path}: row {rows[row]} of 'Q' is {charges[row]:.6g}, no total charge of a molecule (a whole number); "
            "correct it, or leave 'Q' out (then all are 0)"
        )


def _check_esp_geometry(molecules: Molecules, esp: str, real: np.ndarray) -> None:
    assert molecules.esp_atomic_numbers is not None
    assert molecules.esp_n_atoms is not None
    assert molecules.esp_positions is not None
    _check_counts(esp, molecules.esp_atomic_numbers, molecules.esp_n_atoms, molecules.esp_row)
    esp_real = atom_mask(molecules.esp_n_atoms, molecules.esp_positions.shape[1])
    _check_finite(esp, "R", molecules.esp_positions, esp_real[..., None], molecules.esp_row)
    _check_pairing(molecules, molecules.esp_atomic_numbers, molecules.esp_n_atoms, molecules.esp_positions, real)


def check_grids(molecules: Molecules, grids: Grids) -> None:
    """Check that every real grid point has finite values.

    Raises:
        UserError: naming file, key, row and value.
    """
    real = atom_mask(molecules.n_grid, grids.esp.shape[1])
    esp = molecules.pair.esp_shown
    _check_finite(esp, "esp", grids.esp, real, molecules.esp_row)
    _check_finite(esp, "vdw_surface", grids.points, real[..., None], molecules.esp_row)


def check_elements_known(pair: Pair, split: str, first_row_with: Mapping[int, int], trained: Container[int]) -> None:
    """Check that every element of a split occurs in the training split, which alone gives it parameters.

    Args:
        pair: the files.
        split: the split that is checked.
        first_row_with: element -> a row that holds it.
        trained: elements of the training split.

    Raises:
        UserError: naming file, row and element.
    """
    hint = "" if pair.split else " (or divide in another way: --split-by frame, --split-seed)"
    for number, row in first_row_with.items():
        if number not in trained:
            raise UserError(
                f"{pair.efd_shown}: row {row} of 'Z' holds {symbol(number)} (Z = {number}), which no training molecule "
                f"has; add such molecules to the training split or leave these out of {split}{hint}"
            )


def atom_mask(counts: np.ndarray, width: int) -> np.ndarray:
    """Return a mask (n, width), bool, of the first ``counts[i]`` entries of row i."""
    return np.arange(width) < counts[:, None]


def _check_counts(path: str, numbers: np.ndarray, n_atoms: np.ndarray, rows: np.ndarray) -> None:
    width = numbers.shape[1]
    _check_range(path, "N", n_atoms, 1, width, "atoms", rows)
    real = atom_mask(n_atoms, width)
    bad = np.where(real, (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER), numbers != 0)
    if not bad.any():
        return
    row, column = np.argwhere(bad)[0]
    value, count = int(numbers[row, column]), int(n_atoms[row])
    row = rows[row]
    if column >= count:
        raise UserError(f"{path}: row {row} of 'Z' holds {value} at atom {column}, but 'N' counts {count} atoms there")
    raise UserError(
        f"{path}: row {row} of 'Z' holds {value} at atom {column}; atomic numbers are 1 to {MAX_ATOMIC_NUMBER}, "
        "with real atoms first and 0 as padding"
    )


def _check_range(path: str, key: str, values: np.ndarray, low: int, high: int, what: str, rows: np.ndarray) -> None:
    bad = (values < low) | (values > high)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{path}: row {rows[row]} of {key!r} is {values[row]}; the arrays have room for {low} to {high} {what}"
        )


def _check_finite(
    path: str, key: str, values: np.ndarray, mask: np.ndarray | None, rows: np.ndarray, but: np.ndarray | None = None
) -> None:
    # Larger numbers would become infinite when the shards narrow them to float32. NaN fails too.
    bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if mask is not None:
        bad &= mask
    if but is not None:
        bad[but] = False
    if bad.any():
        where = np.argwhere(bad)[0]
        row, *inner = (int(i) for i in where)
        index = (int(rows[row]), *inner)
        raise UserError(
            f"{path}: {key!r} is {values[tuple(where)]} in row {rows[row]} (index {index}); "
            "remove the molecule from both files or correct the value"
        )


def _check_pairing(
    molecules: Molecules, esp_numbers: np.ndarray, esp_n_atoms: np.ndarray, esp_positions: np.ndarray, real: np.ndarray
) -> None:
    pair, start = molecules.pair, molecules.start
    differs = molecules.n_atoms != esp_n_atoms
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp_shown}: row {start + row} has {esp_n_atoms[row]} atoms, but {pair.efd_shown} has "
            f"{molecules.n_atoms[row]} there; rows are paired by index, so sort both files alike",
        )
    width = real.shape[1]
    numbers, esp_numbers = molecules.atomic_numbers[:, :width], esp_numbers[:, :width]
    differs = ((numbers != esp_numbers) & real).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp_shown}: row {start + row} has atomic numbers {_listed(esp_numbers[row])}, but "
            f"{pair.efd_shown} has {_listed(numbers[row])} there; rows are paired by index, so sort both files alike",
        )
    shift = np.where(real[..., None], molecules.positions - esp_positions, 0.0)
    distance = np.abs(shift).max(axis=(1, 2), initial=0.0)
    differs = distance > PAIRING_TOLERANCE
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp_shown}: row {start + row}'s positions differ from those of {pair.efd_shown} by up to "
            f"{distance[row]:.3g} Å ({int(differs.sum())} of {len(differs)} rows from row {start} "
            "on differ); pair the rows, and give both files' R in one unit",
        )


def _listed(numbers: np.ndarray) -> str:
    return "[" + ", ".join(str(int(z)) for z in numbers if z) + "]"

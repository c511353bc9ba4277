"""Checks of loaded molecules and grids. Only real atoms and grid points count: padding may hold anything."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np

from preprocess.load import Grids, Molecules, Pair
from shared.elements import MAX_ATOMIC_NUMBER, symbol
from shared.errors import UserError

PAIRING_TOLERANCE_ANGSTROM = 1e-3
"""Largest difference between the two files' positions of one atom: float32 text and unit round trips pass."""


class PairingError(UserError):
    """A row of the ESP file is another molecule than the EFD file's."""

    def __init__(self, pair: Pair, message: str) -> None:
        super().__init__(message)
        self.pair = pair

    def __reduce__(self) -> tuple[type[PairingError], tuple[Pair, str]]:
        return PairingError, (self.pair, str(self))  # from a worker process


def check_molecules(molecules: Molecules) -> None:
    """Counts, elements, finite values, and the pairing of the two files.

    Raises:
        UserError: naming file, key, row and value.
    """
    efd, esp = molecules.pair.efd, molecules.pair.esp
    start = molecules.start
    _check_counts(efd, molecules.atomic_numbers, molecules.n_atoms, start)
    _check_counts(esp, molecules.esp_atomic_numbers, molecules.esp_n_atoms, start)
    _check_range(esp, "n_grid", molecules.n_grid, 0, molecules.grid_width, "grid points", start)
    real = atom_mask(molecules.n_atoms, molecules.positions.shape[1])
    for key, values, mask in (
        ("R", molecules.positions, real[..., None]),
        ("F", molecules.forces, real[..., None]),
        ("E", molecules.energy, None),
        ("Dxyz", molecules.dipole, None),
        ("Q", molecules.total_charge, None),
    ):
        _check_finite(efd, key, values, mask, start)
    esp_real = atom_mask(molecules.esp_n_atoms, molecules.esp_positions.shape[1])
    _check_finite(esp, "R", molecules.esp_positions, esp_real[..., None], start)
    _check_pairing(molecules, real)


def check_grids(molecules: Molecules, grids: Grids) -> None:
    """Finite values at every real grid point.

    Raises:
        UserError: naming file, key, row and value.
    """
    real = atom_mask(molecules.n_grid, molecules.grid_width)
    _check_finite(molecules.pair.esp, "esp", grids.esp, real, molecules.start)
    _check_finite(molecules.pair.esp, "vdw_surface", grids.points, real[..., None], molecules.start)


def check_elements_known(pair: Pair, first_row_with: Mapping[int, int], trained: Container[int]) -> None:
    """Every element of a validation or test molecule occurs in the training split, which alone gives it parameters.

    Args:
        pair: the files.
        first_row_with: element -> a row that holds it.
        trained: elements of the training split.

    Raises:
        UserError: naming file, row and element.
    """
    for number, row in first_row_with.items():
        if number not in trained:
            raise UserError(
                f"{pair.efd}: row {row} of 'Z' holds {symbol(number)} (Z = {number}), which no training molecule "
                f"has; add such molecules to the training split or leave these out of {pair.split}"
            )


def atom_mask(counts: np.ndarray, width: int) -> np.ndarray:
    """(n, width) bool: the first ``counts[i]`` entries of row i."""
    return np.arange(width) < counts[:, None]


def _check_counts(path: Path, numbers: np.ndarray, n_atoms: np.ndarray, start: int) -> None:
    width = numbers.shape[1]
    _check_range(path, "N", n_atoms, 1, width, "atoms", start)
    real = atom_mask(n_atoms, width)
    bad = np.where(real, (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER), numbers != 0)
    if not bad.any():
        return
    row, column = np.argwhere(bad)[0]
    value, count = int(numbers[row, column]), int(n_atoms[row])
    row += start
    if column >= count:
        raise UserError(f"{path}: row {row} of 'Z' holds {value} at atom {column}, but 'N' counts {count} atoms there")
    raise UserError(
        f"{path}: row {row} of 'Z' holds {value} at atom {column}; atomic numbers are 1 to {MAX_ATOMIC_NUMBER}, "
        "with real atoms first and 0 as padding"
    )


def _check_range(path: Path, key: str, values: np.ndarray, low: int, high: int, what: str, start: int) -> None:
    bad = (values < low) | (values > high)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{path}: row {start + row} of {key!r} is {values[row]}; the arrays have room for {low} to {high} {what}"
        )


def _check_finite(path: Path, key: str, values: np.ndarray, mask: np.ndarray | None, start: int) -> None:
    # Not just finite: a larger number would become infinite when the shards narrow it to float32. NaN fails too.
    bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if mask is not None:
        bad &= mask
    if bad.any():
        where = np.argwhere(bad)[0]
        row, *inner = (int(i) for i in where)
        index = (start + row, *inner)
        raise UserError(
            f"{path}: {key!r} is {values[tuple(where)]} in row {start + row} (index {index}); "
            "remove the molecule from both files or mend the value"
        )


def _check_pairing(molecules: Molecules, real: np.ndarray) -> None:
    pair, start = molecules.pair, molecules.start
    differs = molecules.n_atoms != molecules.esp_n_atoms
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp}: row {start + row} has {molecules.esp_n_atoms[row]} atoms, but {pair.efd} has "
            f"{molecules.n_atoms[row]} there; rows are paired by index, so sort both files alike",
        )
    width = real.shape[1]
    numbers, esp_numbers = molecules.atomic_numbers[:, :width], molecules.esp_atomic_numbers[:, :width]
    differs = ((numbers != esp_numbers) & real).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp}: row {start + row} has atomic numbers {_listed(esp_numbers[row])}, but {pair.efd} has "
            f"{_listed(numbers[row])} there; rows are paired by index, so sort both files alike",
        )
    shift = np.where(real[..., None], molecules.positions - molecules.esp_positions, 0.0)
    distance = np.sqrt((shift**2).sum(-1)).max(axis=1, initial=0.0)
    differs = distance > PAIRING_TOLERANCE_ANGSTROM
    if differs.any():
        row = int(np.argmax(differs))
        raise PairingError(
            pair,
            f"{pair.esp}: row {start + row}'s positions differ from those of {pair.efd} by up to {distance[row]:.3g} Å "
            f"({int(differs.sum())} of {len(differs)} rows from row {start} on differ); pair the rows, and give both "
            "files' R in Å",
        )


def _listed(numbers: np.ndarray) -> str:
    return "[" + ", ".join(str(int(z)) for z in numbers if z) + "]"

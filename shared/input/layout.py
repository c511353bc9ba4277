"""The layout of a user's NPZ file: the member taken for each quantity, its shape, and the members that are left alone.

The names are those of the predecessor's files of every age, see docs/data.md. A member that is not needed is named
with the reason and never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from shared.errors import UserError
from shared.input.npz import NpzFile
from shared.input.npz_rows import NpzRows
from shared.input.quadrupoles import TensorForm, find_form
from shared.input.records import RECORD_KEY

Quantity = Literal[
    "positions",
    "atomic_numbers",
    "n_atoms",
    "energy",
    "forces",
    "dipole",
    "quadrupole",
    "total_charge",
    "name",
    "grid",
    "esp",
    "n_grid",
    "esp_mask",
    "grid_origin",
]

ALIASES: dict[Quantity, tuple[str, ...]] = {
    "positions": ("R",),
    "atomic_numbers": ("Z",),
    "n_atoms": ("N",),
    "energy": ("E", "energy"),
    "forces": ("F", "forces"),
    "dipole": ("Dxyz", "dipole", "D"),
    "quadrupole": ("quadrupole", "Q"),
    "total_charge": ("Q",),
    "name": ("name",),
    "grid": ("vdw_surface", "vdw_grid", "esp_grid"),
    "esp": ("esp",),
    "n_grid": ("n_grid",),
    "esp_mask": ("espMask", "esp_mask"),
    "grid_origin": ("grid_origin",),
}
"""Names of each quantity; the first that the file holds in a fitting shape is taken."""

CONVERTED_KEY = "_converted"
"""Member of files that this project converted from another format (JSON: what was understood of the sources), in which
NaN marks what a frame lacks."""

_ROWS_LOOKED_AT = 4096
WHOLE_CHARGE = 0.01
"""Largest deviation, e, of a total charge from a whole number."""

PAIRING_TOLERANCE = 1e-3
"""Largest difference, Å, between two files' positions of one atom: float32 text, unit round trips and six decimals of
cubes pass."""


class Column(NamedTuple):
    """A member taken for a quantity."""

    key: str
    per_file: bool
    """Whether one value holds for all rows: ``Z`` of shape (A,), a scalar ``N``."""


@dataclass(frozen=True)
class Layout:
    """Members of one file by quantity, and its sizes."""

    file: NpzFile
    columns: dict[Quantity, Column]
    rows: int
    width: int = 0
    """Padded number of atoms; 0 where the file holds no geometries."""

    grid_width: int = 0
    """Padded number of grid points."""

    left_alone: dict[str, str] = field(default_factory=dict)
    """Member -> why it is not used."""

    quadrupole_form: TensorForm | None = None
    """How the quadrupole is stored; None where the file holds none."""

    def __contains__(self, quantity: Quantity) -> bool:
        return quantity in self.columns

    def key(self, quantity: Quantity) -> str:
        """Return the member's name, for messages too."""
        return self.columns[quantity].key if quantity in self.columns else ALIASES[quantity][0]

    @property
    def row_keys(self) -> list[str]:
        """Return the members that are read row by row."""
        return [column.key for column in self.columns.values() if not column.per_file]

    @property
    def is_converted(self) -> bool:
        """Return whether NaN marks what a frame lacks."""
        return CONVERTED_KEY in self.file

    @cached_property
    def constants(self) -> dict[Quantity, np.ndarray]:
        """Return the values of the members that hold one for all rows.

        Raises:
            UserError: the file is damaged.
        """
        return {name: read_member(self.file, column.key) for name, column in self.columns.items() if column.per_file}


def read_member(file: NpzFile, key: str) -> np.ndarray:
    """Read a small member whole, compared with its CRC-32.

    Raises:
        UserError: the file is damaged.
    """
    shape, rows = file.shape(key), NpzRows(file)
    try:
        values, checksum = rows.read(key, 0, shape[0] if shape else 1)
    finally:
        rows.close()
    file.check_sums([checksum])
    return values.reshape(shape)


def understand_efd(file: NpzFile, needs_energy: bool = True) -> Layout:
    """Find geometry and targets in a file.

    Args:
        file: opened.
        needs_energy: refuse files without one.

    Raises:
        UserError: R, Z or E is missing, or what is needed has another shape, kind or meaning.
    """
    columns: dict[Quantity, Column] = {}
    left_alone: dict[str, str] = {}
    rows, width = _find_geometry(file, columns)
    if rows == 0:
        raise UserError(f"{file.shown}: the file holds no molecule")
    if needs_energy:
        file.require(*ALIASES["energy"])
    targets: dict[Quantity, tuple[int, ...]] = {"energy": (rows,), "forces": (rows, width, 3)}
    for quantity, shape in targets.items():
        for key in _present(file, quantity)[:1]:
            file.check(key, shape, "float")
            columns[quantity] = Column(key, False)
    _find_dipole(file, rows, width, columns, left_alone)
    form = _find_quadrupole(file, rows, width, columns, left_alone)
    _find_charge(file, rows, width, columns, left_alone)
    for key in _present(file, "name"):
        if not file.is_plain(key):
            left_alone[key] = f"pickled objects, never loaded; to have names, save {key}.astype(str)"
        elif _without_last_one(file.shape(key), 1) != (rows,) or file.dtype(key).kind not in "US":
            left_alone[key] = f"{_described(file, key)}, not a text for each molecule"
        else:
            columns["name"] = Column(key, False)
    return Layout(file, columns, rows, width, 0, left_alone | _unused(file, columns, left_alone), form)


def understand_esp(file: NpzFile) -> Layout:
    """Find the ESP and its grid in a file, and the geometries if it has them.

    Raises:
        UserError: the ESP or its grid is missing, or what is needed has another shape or kind.
    """
    columns: dict[Quantity, Column] = {}
    left_alone: dict[str, str] = {}
    width = 0
    geometries = None
    if any(_present(file, quantity) for quantity in ("positions", "atomic_numbers")):
        geometries, width = _find_geometry(file, columns)
    esp, grid = file.require(*ALIASES["esp"]), file.require(*ALIASES["grid"])
    file.refuse_objects(esp, "float")
    file.refuse_objects(grid, "float")
    shape, points = _without_last_one(file.shape(esp), 2), file.shape(grid)
    if len(shape) != 2 or points != (*shape, 3):
        raise UserError(f"{file.shown}: {esp!r} has shape {shape} and {grid!r} {points}, expected (n, G) and (n, G, 3)")
    rows, grid_width = shape
    if geometries not in (None, rows):
        raise UserError(f"{file.shown}: {esp!r} has {rows} rows and 'R' {geometries}; give both of the same molecules")
    file.check(esp, (rows, grid_width), "float")
    file.check(grid, (rows, grid_width, 3), "float")
    columns |= {"esp": Column(esp, False), "grid": Column(grid, False)}
    left_alone |= {key: f"another grid, {grid} is taken" for key in _present(file, "grid") if key != grid}
    for key in _present(file, "n_grid"):
        per_file = _is_scalar(file.shape(key), rows)
        file.check(key, file.shape(key) if per_file else (rows,), "int")
        columns["n_grid"] = Column(key, per_file)
    for key in _present(file, "esp_mask")[:1]:
        if file.shape(key) != (rows, grid_width) or file.dtype(key).kind not in "biu":
            raise UserError(
                f"{file.shown}: {key!r} has shape {file.shape(key)} and dtype {file.dtype(key)}, expected "
                f"({rows}, {grid_width}) booleans"
            )
        columns["esp_mask"] = Column(key, False)
    for key in _present(file, "grid_origin"):
        if file.is_plain(key) and file.shape(key) == (rows, 3) and file.dtype(key).kind in "fiu":
            columns["grid_origin"] = Column(key, False)
        else:
            left_alone[key] = "not the (n, 3) origins of cubes"
    return Layout(file, columns, rows, width, grid_width, left_alone | _unused(file, columns, left_alone))


def holds_esp(file: NpzFile) -> bool:
    """Return whether a file of energies holds the ESP too, or a part of it."""
    return bool(_present(file, "esp") or _present(file, "grid"))


def _present(file: NpzFile, quantity: Quantity) -> list[str]:
    return [key for key in ALIASES[quantity] if key in file]


def _find_geometry(file: NpzFile, columns: dict[Quantity, Column]) -> tuple[int, int]:
    """Fill in R, Z and N; return the numbers of rows and of padded atoms."""
    positions, numbers = file.require(*ALIASES["positions"]), file.require(*ALIASES["atomic_numbers"])
    shape = file.shape(positions)
    file.check(positions, (None, None, 3), "float")
    rows, width = shape[:2]
    if width == 0:
        raise UserError(f"{file.shown}: {positions!r} has shape {shape}: no room for atoms")
    per_file = file.shape(numbers) == (width,)
    file.check(numbers, (width,) if per_file else (rows, width), "int")
    columns["positions"], columns["atomic_numbers"] = Column(positions, False), Column(numbers, per_file)
    for key in _present(file, "n_atoms"):
        one = _is_scalar(file.shape(key), rows)
        file.check(key, file.shape(key) if one else (rows,), "int")
        columns["n_atoms"] = Column(key, one)
    return rows, width


def _find_dipole(
    file: NpzFile, rows: int, width: int, columns: dict[Quantity, Column], left_alone: dict[str, str]
) -> None:
    for key in _present(file, "dipole"):
        found = _without_last_one(file.shape(key), 2)
        if "dipole" in columns:
            left_alone[key] = f"{columns['dipole'].key} is taken"
        elif found == (rows, 3) and file.is_plain(key):
            file.check(key, (rows, 3), "float")
            columns["dipole"] = Column(key, False)
        elif not file.is_plain(key):
            left_alone[key] = "pickled objects, never loaded"
        elif found in ((rows,), (rows, 1)):
            left_alone[key] = f"the dipole's length of shape {file.shape(key)}, not its vector"
        elif found == (rows, width, 3):
            left_alone[key] = f"dipoles of single atoms of shape {file.shape(key)}, not of the molecule"
        else:
            left_alone[key] = f"of shape {file.shape(key)}, not the dipole's vector"
    present = [key for key in _present(file, "dipole") if key in left_alone]
    if present and "dipole" not in columns:
        key = present[0]
        raise UserError(
            f"{file.shown}: {key!r} is {left_alone[key]}; give the vector (n, 3) as 'Dxyz', or leave {key!r} out to "
            "train without dipoles"
        )


def _find_quadrupole(
    file: NpzFile, rows: int, width: int, columns: dict[Quantity, Column], left_alone: dict[str, str]
) -> TensorForm | None:
    """Take a member of tensors for the quadrupole; return how they are stored, None if there is none."""
    form = None
    for key in _present(file, "quadrupole"):
        shape = file.shape(key)
        tensors = shape in ((rows, 3, 3), (rows, 6)) and file.is_plain(key) and file.dtype(key).kind in "fiu"
        if key == "Q" and (not tensors or shape == (rows, width)):
            continue  # charges
        if form is not None:
            left_alone[key] = f"{columns['quadrupole'].key} is taken"
        elif not file.is_plain(key):
            left_alone[key] = "pickled objects, never loaded"
        elif not tensors:
            left_alone[key] = f"{_described(file, key)}, not the tensors (n, 3, 3) of quadrupoles"
        else:
            file.check(key, shape, "float")
            found = find_form(_first_known_rows(file, key, rows))
            if isinstance(found, str):
                left_alone[key] = found
            else:
                form, columns["quadrupole"] = found, Column(key, False)
    return form


def _find_charge(
    file: NpzFile, rows: int, width: int, columns: dict[Quantity, Column], left_alone: dict[str, str]
) -> None:
    """Take Q for the total charge only where it can be one."""
    for key in _present(file, "total_charge"):
        if key in left_alone or ("quadrupole" in columns and columns["quadrupole"].key == key):
            continue
        shape = file.shape(key)
        found = _without_last_one(shape, 1)
        if not file.is_plain(key):
            left_alone[key] = "pickled objects, never loaded; the total charges are taken as 0"
        elif found == (rows,) and file.dtype(key).kind in "fiu":
            values = _first_rows(file, key, min(rows, _ROWS_LOOKED_AT)).reshape(-1).astype(np.float64)
            off = np.abs(values - np.rint(values)) > WHOLE_CHARGE
            if off.any():
                row = int(np.argmax(off))
                left_alone[key] = f"{values[row]:.4g} in row {row} is no total charge; the total charges are taken as 0"
            else:
                file.check(key, (rows,), "float")
                columns["total_charge"] = Column(key, False)
        elif shape[:1] != (rows,) or file.dtype(key).kind not in "fiu":
            raise UserError(
                f"{file.shown}: {key!r} is {_described(file, key)}, expected ({rows},) numbers: the total charge of "
                f"each molecule; give it so, or leave {key!r} out (then it is 0)"
            )
        elif shape == (rows, width):
            left_alone[key] = "charges of the atoms, not the total charge (which is taken as 0)"
        elif shape[1:] in ((5,), (9,)):
            left_alone[key] = "a quadrupole, not the total charge (which is taken as 0)"
        else:
            left_alone[key] = f"{_described(file, key)}, perhaps charges of atoms, not the total charge (taken as 0)"


def _described(file: NpzFile, key: str) -> str:
    return f"of shape {file.shape(key)} and dtype {file.dtype(key)}"


def _first_rows(file: NpzFile, key: str, count: int) -> np.ndarray:
    rows = NpzRows(file)
    try:
        return rows.read(key, 0, count)[0]
    finally:
        rows.close()


def _first_known_rows(file: NpzFile, key: str, count: int) -> np.ndarray:
    """Return the first piece of a member of ``count`` rows in which a number is not 0; the last piece if none is."""
    rows = NpzRows(file)
    try:
        for start in range(0, count, _ROWS_LOOKED_AT):
            values = rows.read(key, start, min(start + _ROWS_LOOKED_AT, count))[0]
            if np.nan_to_num(values).any():
                break
    finally:
        rows.close()
    return values


def _is_scalar(shape: tuple[int, ...], rows: int) -> bool:
    """Return whether a shape is one number for all rows; in a file of one row, (1,) is that row's."""
    return shape == () or (shape == (1,) and rows != 1)


def _without_last_one(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Return a shape without a last axis of 1 that is one too many: (n, G) for (n, G, 1)."""
    return shape[:-1] if len(shape) == axes + 1 and shape[-1] == 1 else shape


def _unused(file: NpzFile, columns: Mapping[Quantity, Column], known: Mapping[str, str]) -> dict[str, str]:
    """Return the other members of the file, with the reason why each is not used."""
    used = {column.key for column in columns.values()} | set(known) | {RECORD_KEY, CONVERTED_KEY}
    return {
        key: "not needed" if file.is_plain(key) else "pickled objects, never loaded"
        for key in file.keys
        if key not in used
    }

"""Reading of rows of the members that a layout names, for all shapes that the layout accepts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.input.layout import Layout, Quantity
from shared.input.quadrupoles import quadrupoles_of

Read = Callable[[str, int, int], np.ndarray]
"""Function that reads rows of a member: key, first row, row after the last."""


def read_numbers(read: Read, layout: Layout, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Read atomic numbers (n, W) and numbers of atoms (n,), int64; without ``N``, all that are not 0 are atoms.

    Integers are not narrowed: a value that does not fit must reach the check that names it.
    """
    n = stop - start
    if layout.columns["atomic_numbers"].per_file:
        numbers = np.broadcast_to(layout.constants["atomic_numbers"].astype(np.int64), (n, layout.width))
    else:
        numbers = read(layout.key("atomic_numbers"), start, stop).reshape(n, layout.width)
    numbers = numbers.astype(np.int64, copy=False)
    if "n_atoms" not in layout:
        return numbers, (numbers != 0).sum(axis=1)
    if layout.columns["n_atoms"].per_file:
        return numbers, np.full(n, layout.constants["n_atoms"].reshape(-1)[0], np.int64)
    return numbers, read(layout.key("n_atoms"), start, stop).reshape(n).astype(np.int64)


def read_atoms(
    read: Read, layout: Layout, quantity: Quantity, start: int, stop: int, n_atoms: np.ndarray
) -> np.ndarray:
    """Read an array (n, A, 3), float64, cut to the A atoms of the largest molecule: files pad to sixty and more."""
    n, real = stop - start, int(np.clip(n_atoms.max(initial=1), 1, layout.width))
    return read(layout.key(quantity), start, stop).reshape(n, layout.width, 3)[:, :real].astype(np.float64)


def read_values(read: Read, layout: Layout, quantity: Quantity, start: int, stop: int, axes: int = 0) -> np.ndarray:
    """Read values (n,), float64, or (n, 3) with ``axes`` 3; NaN where the file lacks the quantity."""
    shape = (stop - start, axes) if axes else (stop - start,)
    if quantity not in layout:
        return np.full(shape, np.nan)
    return read(layout.key(quantity), start, stop).reshape(shape).astype(np.float64)


def read_quadrupoles(read: Read, layout: Layout, start: int, stop: int) -> np.ndarray:
    """Read traceless quadrupoles (n, 3, 3), float64, in the file's unit; NaN where the file has none."""
    if layout.quadrupole_form is None:
        return np.full((stop - start, 3, 3), np.nan)
    return quadrupoles_of(read(layout.key("quadrupole"), start, stop), layout.quadrupole_form)


def read_names(read: Read, layout: Layout, start: int, stop: int) -> np.ndarray:
    """Read names (n,), UTF-8 bytes, empty where the file has none."""
    n = stop - start
    names = read(layout.key("name"), start, stop).reshape(n) if "name" in layout else np.zeros(n, "S1")
    encoded = np.char.encode(names, "utf-8") if names.dtype.kind == "U" else names
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")

"""Which points of a padded grid are real, where the file does not say: what no physical grid holds is padding.

Padding, of grids without ``n_grid`` or ``espMask``:

- *sentinel*: a coordinate of 1e5 or more (the predecessor's own test; it fills with 1e6);
- *nan*: NaN coordinates whose ESP is NaN or 0;
- *repeated*: identical points with one value at the end of a row. The first of them is real where the last point was
  repeated: its value is not 0, and its three coordinates are not one number;
- *far*: farther than 50 Å from every atom, unless most of the row is: then units or frames are wrong, not the points.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from shared.jit import jit

SENTINEL = 1e5
"""Coordinate, in the file's unit, from which on a point is padding."""

FAR_ANGSTROM = 50.0

KINDS = ("sentinel", "nan", "repeated", "far")
_SENTINEL, _NAN, _REPEATED, _FAR = 1, 2, 3, 4


class RealPoints(NamedTuple):
    """The real points of some rows."""

    mask: np.ndarray  # (n, G) bool
    dropped: np.ndarray  # (n, 4) points taken for padding, by KINDS
    inner: np.ndarray  # (n,) points dropped with real ones after them


class PointCounts(NamedTuple):
    """Counts of what was found in the grids of some rows."""

    points: int = 0  # real ones
    without_esp: int = 0  # rows
    zero_esp: int = 0  # of these, rows that have points, all with ESP 0
    inner_rows: int = 0  # rows with padding among real points
    sentinel: int = 0
    nan: int = 0
    repeated: int = 0
    far: int = 0
    masked: int = 0  # by n_grid or espMask


def total(counts: Iterable[PointCounts]) -> PointCounts:
    """Sum the counts of several parts."""
    return PointCounts(*(sum(column) for column in zip(PointCounts(), *counts, strict=True)))


def find_real_points(
    points: np.ndarray, esp: np.ndarray, positions: np.ndarray, n_atoms: np.ndarray, scale: float
) -> RealPoints:
    """Find the real points of each row.

    Args:
        points: (n, G, 3) as stored.
        esp: (n, G) as stored.
        positions: (n, A, 3) in Å.
        n_atoms: (n,).
        scale: Å per unit of ``points``.
    """
    kinds = np.zeros(esp.shape, np.int8)
    _classify(plain(points), plain(esp), positions.astype(np.float64), n_atoms, scale, kinds)
    mask = kinds == 0
    width = esp.shape[1]
    last = np.where(mask.any(axis=1), width - 1 - np.argmax(mask[:, ::-1], axis=1), -1)
    before = ~mask & (np.arange(width) < last[:, None])
    dropped = np.stack([(kinds == kind).sum(axis=1) for kind in (_SENTINEL, _NAN, _REPEATED, _FAR)], axis=1)
    return RealPoints(mask, dropped, before.sum(axis=1))


@jit()
def _classify(
    points: np.ndarray, esp: np.ndarray, positions: np.ndarray, n_atoms: np.ndarray, scale: float, kinds: np.ndarray
) -> None:
    for row in range(esp.shape[0]):
        end = -1
        for g in range(esp.shape[1]):
            x, y, z, v = points[row, g, 0], points[row, g, 1], points[row, g, 2], esp[row, g]
            if abs(x) >= SENTINEL or abs(y) >= SENTINEL or abs(z) >= SENTINEL:
                kinds[row, g] = 1
            elif (x != x or y != y or z != z) and (v != v or v == 0.0):
                kinds[row, g] = 2
            else:
                end = g
        if end < 0:
            continue
        start = end
        while start > 0 and kinds[row, start - 1] == 0 and _same(points, esp, row, start - 1, end):
            start -= 1
        v = esp[row, end]
        x, y, z = points[row, end, 0], points[row, end, 1], points[row, end, 2]
        no_value = v == 0.0 or v != v
        if start < end or (x == y and y == z and no_value):
            # A real point has a value, and three coordinates: where it has not (0 or NaN; 0, 0, 0), all are padding.
            first = start if no_value or (x == y and y == z) else start + 1
            for g in range(first, end + 1):
                kinds[row, g] = 3
            end = first - 1
        real, far = 0, 0
        for g in range(end + 1):
            if kinds[row, g] == 0:
                real += 1
                if _is_far(points, row, g, positions, n_atoms[row], scale):
                    far += 1
        if far > 0 and 2 * far <= real:
            for g in range(end + 1):
                if kinds[row, g] == 0 and _is_far(points, row, g, positions, n_atoms[row], scale):
                    kinds[row, g] = 4


@jit()
def _same(points: np.ndarray, esp: np.ndarray, row: int, a: int, b: int) -> bool:
    for axis in range(3):
        if points[row, a, axis] != points[row, b, axis]:
            return False
    return esp[row, a] == esp[row, b] or (esp[row, a] != esp[row, a] and esp[row, b] != esp[row, b])


@jit()
def _is_far(points: np.ndarray, row: int, g: int, positions: np.ndarray, n_atoms: int, scale: float) -> bool:
    for atom in range(min(n_atoms, positions.shape[1])):
        squares = 0.0
        for axis in range(3):
            difference = points[row, g, axis] * scale - positions[row, atom, axis]
            squares += difference * difference
        if not squares > FAR_ANGSTROM * FAR_ANGSTROM:  # NaN is not far
            return False
    return True


def gather_points(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Move the points of a mask to the front of each row, in their order; rows that need no change are not touched.

    Args:
        values: (n, G) or (n, G, 3).
        mask: (n, G).
    """
    count = mask.sum(axis=1)
    scattered = np.flatnonzero((mask != (np.arange(mask.shape[1]) < count[:, None])).any(axis=1))
    if not len(scattered):
        return values
    moved = values.copy()
    for row in scattered:
        moved[row, : count[row]] = values[row, mask[row]]
    return moved


def plain(values: np.ndarray) -> np.ndarray:
    """Return float32 or float64 in the machine's byte order: the types that the kernels are compiled for."""
    if values.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return values
    return values.astype(np.float32 if values.dtype.kind == "f" and values.dtype.itemsize <= 4 else np.float64)

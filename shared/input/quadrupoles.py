"""Quadrupoles as files store them: full or as six numbers, traceless or as second moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.multipoles import traceless

_ASYMMETRY = 1e-3
"""Largest asymmetry over the norm, the median one for smaller tensors: of symmetric molecules they are noise alone."""
_TRACE = 0.05
"""Largest trace over the norm of a traceless tensor, which may be rounded; that of second moments is about 1."""

_FULL = (0, 1, 2, 3, 4, 5, 6, 7, 8)
_DIAGONAL_FIRST = (0, 3, 4, 3, 1, 5, 4, 5, 2)  # of xx, yy, zz, xy, xz, yz
_BY_ROWS = (0, 1, 2, 1, 3, 4, 2, 4, 5)  # of xx, xy, xz, yy, yz, zz


class TensorForm(NamedTuple):
    """How tensors are stored."""

    order: tuple[int, ...]  # place of xx, xy, xz, yx, ... among the numbers of a row
    is_traceless: bool  # otherwise they are second moments, Σ q x xᵀ


def find_form(values: np.ndarray) -> TensorForm | str:
    """Return how the first rows (n, 3, 3) or (n, 6) of a file store tensors, or why they are none.

    Six numbers are in that order, of the usual two, in which they are traceless, else xx, yy, zz, xy, xz, yz.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    known = np.isfinite(rows).all(axis=1)
    rows = rows[known & (rows != 0).any(axis=1)]
    if not len(rows):
        return "0 in all rows, perhaps not computed" if known.any() else "not a number in any row"
    orders = (_FULL,) if rows.shape[1] == 9 else (_DIAGONAL_FIRST, _BY_ROWS)
    for order in orders:
        tensors = rows[:, order].reshape(-1, 3, 3)
        size = np.linalg.norm(tensors, axis=(1, 2))
        asymmetry = np.abs(tensors - tensors.transpose(0, 2, 1)).max(axis=(1, 2))
        if (asymmetry > _ASYMMETRY * np.maximum(size, np.median(size))).any():
            return "not symmetric, so no quadrupole"
        if np.median(np.abs(np.trace(tensors, axis1=1, axis2=2)) / size) < _TRACE:
            return TensorForm(order, True)
    return TensorForm(orders[0], False)


def quadrupoles_of(values: np.ndarray, form: TensorForm) -> np.ndarray:
    """Return traceless quadrupoles ½ Σ q (3 x xᵀ - |x|² 1), (n, 3, 3) float64, in the file's unit, of its rows."""
    tensors = values.reshape(len(values), -1)[:, form.order].reshape(-1, 3, 3).astype(np.float64)
    return traceless(tensors) * (1.0 if form.is_traceless else 1.5)

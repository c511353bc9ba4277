"""Padding of grids to a bucket's shape, in one pass of a compiled kernel that scales, centres, narrows and checks."""

from __future__ import annotations

import numpy as np

from preprocess.input.grid_points import plain
from shared.jit import jit

_LARGEST = float(np.finfo(np.float32).max)


@jit()
def _pad_grids(
    points: np.ndarray,
    esp: np.ndarray,
    rows: np.ndarray,
    n_grid: np.ndarray,
    centers: np.ndarray,
    scale: float,
    esp_scale: float,
    out_points: np.ndarray,
    out_esp: np.ndarray,
) -> bool:
    valid = True
    for i in range(rows.size):
        row = rows[i]
        n = n_grid[row]
        cx, cy, cz = centers[row, 0], centers[row, 1], centers[row, 2]
        for g in range(n):
            # Centred in float64 before it becomes float32: far from the origin float32 would lose the digits.
            x = np.float64(points[row, g, 0]) * scale - cx
            y = np.float64(points[row, g, 1]) * scale - cy
            z = np.float64(points[row, g, 2]) * scale - cz
            v = np.float64(esp[row, g]) * esp_scale
            # One comparison for NaN, infinity and what float32 cannot hold; without a branch, for the vector units.
            largest = max(max(abs(x), abs(y)), max(abs(z), abs(v)))
            valid &= (largest <= _LARGEST) & (x == x) & (y == y) & (z == z) & (v == v)
            out_points[i, g, 0] = x
            out_points[i, g, 1] = y
            out_points[i, g, 2] = z
            out_esp[i, g] = v
        out_points[i, n:] = 0.0
        out_esp[i, n:] = 0.0
    return valid


def pad_grids(
    points: np.ndarray,
    esp: np.ndarray,
    rows: np.ndarray,
    n_grid: np.ndarray,
    centers: np.ndarray,
    scale: float,
    width: int,
    esp_scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return grid points (Å, relative to ``centers``) and ESP of some rows, padded with zeros to ``width`` points.

    Args:
        points: (n, G, 3) in units of 1 / ``scale`` Å; only the first ``n_grid`` are read.
        esp: (n, G).
        rows: (m,) rows to take.
        n_grid: (n,) real grid points, at most ``width``.
        centers: (n, 3) in Å.
        scale: Å per unit of ``points``.
        width: padded points.
        esp_scale: Hartree/e per unit of ``esp``.

    Returns:
        (m, width, 3) float32, (m, width) float32, and whether every real value is finite in float32.
    """
    out_points = np.empty((len(rows), width, 3), np.float32)
    out_esp = np.empty((len(rows), width), np.float32)
    if not len(rows):
        return out_points, out_esp, True
    valid = _pad_grids(plain(points), plain(esp), rows, n_grid, centers, scale, esp_scale, out_points, out_esp)
    return out_points, out_esp, bool(valid)

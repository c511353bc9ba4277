"""Linear algebra of some hundred unknowns without BLAS, whose threads would wait for those of the callers."""

from __future__ import annotations

import numpy as np

from shared.jit import jit


@jit(fastmath=True)
def times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the product of a matrix (n, m) and a vector (m,)."""
    out = np.empty(len(matrix))
    for i in range(len(matrix)):
        total = 0.0
        for k in range(len(vector)):
            total += matrix[i, k] * vector[k]
        out[i] = total
    return out


@jit(fastmath=True)
def cholesky(rows: np.ndarray) -> np.ndarray:
    """Return the lower Cholesky factor (n, n) of 1 + rows rows^T, rows (n, m)."""
    n, length = rows.shape
    factor = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(length):
                total += rows[i, k] * rows[j, k]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                factor[i, i] = np.sqrt(total + 1.0)
            else:
                factor[i, j] = total / factor[j, j]
    return factor


@jit(fastmath=True)
def solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve factor factor^T x = right (n,), with the factor of :func:`cholesky`."""
    n, x = len(right), right.copy()
    for i in range(n):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        x[i] /= factor[i, i]
        for k in range(i):
            x[k] -= factor[i, k] * x[i]
    return x

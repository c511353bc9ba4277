"""The permutation of the rows of one file that gives those of another."""

from __future__ import annotations

import numpy as np

_TOLERANCE_ANGSTROM = 1e-3
_ROUNDS = 8


def find_permutation(
    numbers_a: np.ndarray, positions_a: np.ndarray, numbers_b: np.ndarray, positions_b: np.ndarray
) -> np.ndarray | None:
    """Find the permutation p with a[i] == b[p[i]], positions within 1e-3 Å, or None if there is none.

    Atoms must have the same order in both, real ones first; padding may hold anything and have different widths.
    Rows that agree (copies of a geometry) are assigned to each other in some order.

    Args:
        numbers_a: (n, atoms), 0 = padding.
        positions_a: (n, atoms, 3) in Å.
        numbers_b: (n, atoms), 0 = padding.
        positions_b: (n, atoms, 3) in Å.

    Returns:
        (n,) int64, or None. Memory is that of the input, time n log n.
    """
    if len(numbers_a) != len(numbers_b):
        return None
    width = max(int((numbers > 0).sum(axis=1).max(initial=1)) for numbers in (numbers_a, numbers_b))
    a, b = flatten(numbers_a, positions_a, width), flatten(numbers_b, positions_b, width)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    assigned = np.full(len(a), -1, dtype=np.int64)
    left_a, left_b = np.arange(len(a)), np.arange(len(b))
    generator = np.random.default_rng(0)
    for _ in range(_ROUNDS):
        if len(left_a) == 0:
            break
        # Sorted by a random projection, equal rows have equal ranks, except where rounding exchanges near neighbours.
        direction = generator.normal(size=a.shape[1])
        by_a, by_b = left_a[np.argsort(a[left_a] @ direction)], left_b[np.argsort(b[left_b] @ direction)]
        same = same_geometry(a[by_a], b[by_b])
        assigned[by_a[same]] = by_b[same]
        left_a, left_b = by_a[~same], by_b[~same]
    return assigned if _assign_nearest(a, b, left_a, left_b, assigned) else None


def flatten(numbers: np.ndarray, positions: np.ndarray, width: int) -> np.ndarray:
    """Return positions and atomic numbers as rows (n, width * 4), padding 0."""
    n, atoms = numbers.shape
    flat = np.zeros((n, width, 4))
    kept = min(width, atoms)
    real = numbers[:, :kept] > 0
    flat[:, :kept, :3] = np.where(real[..., None], positions[:, :kept], 0.0)
    flat[:, :kept, 3] = numbers[:, :kept]
    return flat.reshape(n, width * 4)


def same_geometry(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return whether flattened rows agree (n,): the same elements, every atom within 1e-3 Å."""
    difference = (a - b).reshape(len(a), -1, 4)
    return np.asarray((np.linalg.norm(difference, axis=2) <= _TOLERANCE_ANGSTROM).all(axis=1))


def _assign_nearest(a: np.ndarray, b: np.ndarray, left_a: np.ndarray, left_b: np.ndarray, assigned: np.ndarray) -> bool:
    """Assign to each remaining row its nearest partner, each only once; return False if some row has none."""
    if len(left_a) == 0:
        return True
    from scipy.spatial import cKDTree  # its import costs more than all the rest

    farthest = _TOLERANCE_ANGSTROM * np.sqrt(a.shape[1])
    while len(left_a):
        # Without the bound a row without a partner would be compared with all others.
        distance, nearest = cKDTree(b[left_b]).query(a[left_a], distance_upper_bound=farthest)
        if not np.isfinite(distance).all():
            return False
        taken, first = np.unique(nearest, return_index=True)
        same = same_geometry(a[left_a[first]], b[left_b[taken]])
        if not same.any():
            return False
        assigned[left_a[first[same]]] = left_b[taken[same]]
        left_a, left_b = np.delete(left_a, first[same]), np.delete(left_b, taken[same])
    return True

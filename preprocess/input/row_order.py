"""Matching of the rows of one file with those of another, by geometry."""

from __future__ import annotations

import numpy as np

from shared.input.layout import PAIRING_TOLERANCE


def find_rows(
    numbers: np.ndarray, positions: np.ndarray, other_numbers: np.ndarray, other_positions: np.ndarray
) -> np.ndarray:
    """Find each molecule among others, atoms in the same order, every coordinate within 1e-3 Å.

    Real atoms come first; padding may hold anything and have different widths.

    Args:
        numbers: (n, atoms), 0 = padding.
        positions: (n, atoms, 3) in Å.
        other_numbers: (m, atoms), 0 = padding.
        other_positions: (m, atoms, 3) in Å.

    Returns:
        (n,) int64 index of the nearest other, the first of several that are equal; -1 where there is none. Memory is
        that of the input, time n log n.
    """
    from scipy.spatial import cKDTree  # its import costs more than all the rest

    width = max(int((array > 0).sum(axis=1).max(initial=1)) for array in (numbers, other_numbers))
    a, b = _flatten(numbers, positions, width), _flatten(other_numbers, other_positions, width)
    found = np.full(len(a), -1, np.int64)
    known_a, known_b = np.isfinite(a).all(axis=1), np.flatnonzero(np.isfinite(b).all(axis=1))
    if not known_a.any() or not len(known_b):
        return found
    # Copies would all be in one leaf of the tree.
    _, first = np.unique(b[known_b].view(f"V{b.itemsize * b.shape[1]}")[:, 0], return_index=True)
    others = known_b[np.sort(first)]
    bound = np.nextafter(PAIRING_TOLERANCE, 1)  # the bound itself is excluded
    _, nearest = cKDTree(b[others]).query(a[known_a], p=np.inf, distance_upper_bound=bound)
    found[known_a] = np.append(others, -1)[nearest]
    return found


def _flatten(numbers: np.ndarray, positions: np.ndarray, width: int) -> np.ndarray:
    """Return positions and atomic numbers as rows (n, width * 4), padding 0."""
    n, atoms = numbers.shape
    flat = np.zeros((n, width, 4))
    kept = min(width, atoms)
    real = numbers[:, :kept] > 0
    flat[:, :kept, :3] = np.where(real[..., None], positions[:, :kept], 0.0)
    flat[:, :kept, 3] = numbers[:, :kept]
    return flat.reshape(n, width * 4)

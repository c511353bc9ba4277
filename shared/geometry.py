"""Distances in a molecule: atoms that are too close, and bonds."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from shared.elements import COVALENT_RADII, symbol

SHORTEST_DISTANCE = 0.4
"""Least distance of two atoms of a molecule, Å: the shortest bond, of H2, has 0.74."""

SHORTEST_PREDICTED = 0.2
"""Least distance for which a model is asked, Å: atoms that collide come nearer than those of any molecule."""

BOND_FACTOR = 1.3
"""Largest distance of two bonded atoms over the sum of their covalent radii."""

_OVERLAP = 0.6
"""Distance over the sum of covalent radii below which no sampled geometry has two atoms."""


def overlap(numbers: np.ndarray, positions: np.ndarray) -> bool:
    """Return whether two atoms are closer than 0.6 times the sum of their covalent radii.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Å.
    """
    least = _OVERLAP * (COVALENT_RADII[numbers][:, None] + COVALENT_RADII[numbers])
    np.fill_diagonal(least, 0.0)
    return bool((np.linalg.norm(positions[:, None] - positions, axis=-1) < least).any())


def describe_close_atoms(numbers: np.ndarray, positions: np.ndarray, shortest: float = SHORTEST_DISTANCE) -> str:
    """Return what is wrong if two atoms are closer than ``shortest``, else an empty text.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Å, finite.
        shortest: least distance in Å.
    """
    pairs = cKDTree(positions).query_pairs(shortest, output_type="ndarray")
    if not len(pairs):
        return ""
    distances = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    first, second = pairs[np.argmin(distances)]
    atoms = " and ".join(f"{atom} ({symbol(int(numbers[atom]))})" for atom in sorted((int(first), int(second))))
    apart = f"{distances.min():.2g} Å apart" if distances.min() else "at the same place"
    more = f", and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
    return f"atoms {atoms} are {apart}{more}: no molecule has atoms closer than {shortest} Å (a line twice?)"


def distances_and_bonds(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of all pairs, infinite for padding and an atom to itself, and which of them are bonds.

    Args:
        numbers: (..., A) atomic numbers, 0 = padding.
        positions: (..., A, 3) in Å.

    Returns:
        (..., A, A) in Å, and (..., A, A) bool.
    """
    real = numbers > 0
    pairs = real[..., :, None] & real[..., None, :] & ~np.eye(numbers.shape[-1], dtype=bool)
    difference = np.where(pairs[..., None], positions[..., :, None, :] - positions[..., None, :, :], np.inf)
    distances = np.sqrt((difference**2).sum(axis=-1))
    radii = COVALENT_RADII[numbers]
    return distances, distances <= BOND_FACTOR * (radii[..., :, None] + radii[..., None, :])


def count_fragments(numbers: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Return how many parts each molecule (...,) has that no bonds hold together.

    Args:
        numbers: (..., A) atomic numbers, 0 = padding.
        bonds: (..., A, A) bool.
    """
    atoms = numbers.shape[-1]
    reached = bonds | np.eye(atoms, dtype=bool)
    for _ in range(max(1, int(np.ceil(np.log2(max(atoms, 2)))))):
        as_numbers = reached.astype(np.float32)
        reached = as_numbers @ as_numbers > 0
    # An atom stands for its part if none before it belongs to the same one.
    first = ~(np.tril(np.ones((atoms, atoms), bool), -1) & reached).any(axis=-1)
    return np.asarray((first & (numbers > 0)).sum(axis=-1))

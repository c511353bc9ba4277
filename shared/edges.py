"""Edge lists of many molecules at once: numba kernels, parallel over molecules.

An edge (dst, src) is a directed pair of distinct atoms of one molecule with ``|r_src - r_dst| < cutoff``.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np


class EdgeList(NamedTuple):
    """Edges of n molecules, padded to a common length: see the drawing in :mod:`shared.schema`."""

    dst: np.ndarray  # (n, edges) int32, sorted within a molecule
    src: np.ndarray  # (n, edges) int32
    n_edges: np.ndarray  # (n,) int32


def count_edges(positions: np.ndarray, n_atoms: np.ndarray, cutoff: float) -> np.ndarray:
    """Number of edges of every molecule.

    Args:
        positions: (n, atoms, 3) in Å; only the first ``n_atoms[i]`` rows of molecule i are read.
        n_atoms: (n,) real atoms.
        cutoff: Å.

    Returns:
        (n,) int32.
    """
    _check(positions, n_atoms, cutoff)
    return _count(np.ascontiguousarray(positions), n_atoms.astype(np.int64), float(cutoff) ** 2)


def build_edges(positions: np.ndarray, n_atoms: np.ndarray, cutoff: float, capacity: int | None = None) -> EdgeList:
    """Edge lists of every molecule, padded to ``capacity`` edges (the longest list if not given).

    Args:
        positions: (n, atoms, 3) in Å; only the first ``n_atoms[i]`` rows of molecule i are read.
        n_atoms: (n,) real atoms.
        cutoff: Å; pairs at exactly this distance are left out.
        capacity: padded length; padding is (atoms - 1, atoms - 1).

    Raises:
        ValueError: a shape is wrong, or a molecule has more edges than ``capacity``.
    """
    counts = count_edges(positions, n_atoms, cutoff)
    longest = int(counts.max(initial=0))
    capacity = longest if capacity is None else capacity
    if longest > capacity:
        raise ValueError(f"molecule {int(counts.argmax())} has {longest} edges, more than the capacity {capacity}")
    padding = positions.shape[1] - 1
    dst = np.full((len(counts), capacity), padding, dtype=np.int32)
    src = np.full((len(counts), capacity), padding, dtype=np.int32)
    _fill(np.ascontiguousarray(positions), n_atoms.astype(np.int64), float(cutoff) ** 2, dst, src)
    return EdgeList(dst, src, counts)


def _check(positions: np.ndarray, n_atoms: np.ndarray, cutoff: float) -> None:
    if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[1] < 1:
        raise ValueError(f"positions must have shape (n, atoms, 3), received {positions.shape}")
    if n_atoms.shape != positions.shape[:1]:
        raise ValueError(f"n_atoms must have shape {positions.shape[:1]}, received {n_atoms.shape}")
    if n_atoms.size and not 0 <= int(n_atoms.min()) <= int(n_atoms.max()) <= positions.shape[1]:
        raise ValueError(f"n_atoms must lie in 0 … {positions.shape[1]}, received {n_atoms.min()} … {n_atoms.max()}")
    if not cutoff > 0:
        raise ValueError(f"cutoff must be positive, received {cutoff}")


@numba.njit(cache=True, inline="always")
def _squared_distance(positions: np.ndarray, molecule: int, i: int, j: int) -> float:
    # In float64 whatever the input: the comparison with the cutoff must not depend on the storage type.
    dx = np.float64(positions[molecule, i, 0]) - np.float64(positions[molecule, j, 0])
    dy = np.float64(positions[molecule, i, 1]) - np.float64(positions[molecule, j, 1])
    dz = np.float64(positions[molecule, i, 2]) - np.float64(positions[molecule, j, 2])
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True, parallel=True)
def _count(positions: np.ndarray, n_atoms: np.ndarray, squared_cutoff: float) -> np.ndarray:
    counts = np.zeros(positions.shape[0], dtype=np.int32)
    for molecule in numba.prange(positions.shape[0]):
        count = 0
        for i in range(n_atoms[molecule]):
            for j in range(i):
                if _squared_distance(positions, molecule, i, j) < squared_cutoff:
                    count += 2
        counts[molecule] = count
    return counts


@numba.njit(cache=True, parallel=True)
def _fill(positions: np.ndarray, n_atoms: np.ndarray, squared_cutoff: float, dst: np.ndarray, src: np.ndarray) -> None:
    for molecule in numba.prange(positions.shape[0]):
        edge = 0
        for i in range(n_atoms[molecule]):
            for j in range(n_atoms[molecule]):
                if i != j and _squared_distance(positions, molecule, i, j) < squared_cutoff:
                    dst[molecule, edge] = i
                    src[molecule, edge] = j
                    edge += 1

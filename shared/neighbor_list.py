"""Edge lists of many molecules at once, by numba kernels that release the interpreter's lock to other threads.

An edge (dst, src) is a directed pair of distinct atoms of one molecule with ``|r_src - r_dst| < cutoff``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from shared.jit import jit


class EdgeList(NamedTuple):
    """Edges of n molecules, padded to a common length: see the drawing in :mod:`shared.schema`."""

    dst: np.ndarray  # (n, edges) int32, sorted within a molecule
    src: np.ndarray  # (n, edges) int32
    n_edges: np.ndarray  # (n,) int32


def count_edges(positions: np.ndarray, n_atoms: np.ndarray, cutoff: float, threads: int = 1) -> np.ndarray:
    """Count the edges of every molecule.

    Args:
        positions: (n, atoms, 3) in Å; only the first ``n_atoms[i]`` rows of molecule i are read.
        n_atoms: (n,) real atoms.
        cutoff: Å.
        threads: that share the molecules.

    Returns:
        (n,) int32.
    """
    _check(positions, n_atoms, cutoff)
    positions, n_atoms = np.ascontiguousarray(positions), n_atoms.astype(np.int64)
    counts = np.empty(len(n_atoms), dtype=np.int32)

    def count(start: int, stop: int) -> None:
        _count(positions, n_atoms, float(cutoff) ** 2, counts, start, stop)

    _share(count, len(n_atoms), threads)
    return counts


def build_edges(
    positions: np.ndarray, n_atoms: np.ndarray, cutoff: float, capacity: int | None = None, threads: int = 1
) -> EdgeList:
    """Build the edge lists of every molecule, padded to ``capacity`` edges (the longest list if not given).

    Args:
        positions: (n, atoms, 3) in Å; only the first ``n_atoms[i]`` rows of molecule i are read.
        n_atoms: (n,) real atoms.
        cutoff: Å; pairs at exactly this distance are left out.
        capacity: padded length; padding is (atoms - 1, atoms - 1).
        threads: that share the molecules.

    Raises:
        ValueError: a shape is wrong, or a molecule has more edges than ``capacity``.
    """
    if capacity is None:
        capacity = int(count_edges(positions, n_atoms, cutoff, threads).max(initial=0))
    _check(positions, n_atoms, cutoff)
    positions, n_atoms = np.ascontiguousarray(positions), n_atoms.astype(np.int64)
    counts = np.empty(len(n_atoms), dtype=np.int32)
    dst = np.empty((len(n_atoms), capacity), dtype=np.int32)
    src = np.empty_like(dst)

    def fill(start: int, stop: int) -> None:
        _fill(positions, n_atoms, float(cutoff) ** 2, dst, src, counts, start, stop)

    _share(fill, len(n_atoms), threads)
    longest = int(counts.max(initial=0))
    if longest > capacity:
        raise ValueError(f"molecule {int(counts.argmax())} has {longest} edges, more than the capacity {capacity}")
    return EdgeList(dst, src, counts)


def _share(work: Callable[[int, int], None], n: int, threads: int) -> None:
    if threads == 1 or n < threads:
        work(0, n)
        return
    # Several times as many pieces as threads: molecules differ in size.
    bounds = np.linspace(0, n, 8 * threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1].tolist(), bounds[1:].tolist()))


def _check(positions: np.ndarray, n_atoms: np.ndarray, cutoff: float) -> None:
    if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[1] < 1:
        raise ValueError(f"positions must have shape (n, atoms, 3), received {positions.shape}")
    if n_atoms.shape != positions.shape[:1]:
        raise ValueError(f"n_atoms must have shape {positions.shape[:1]}, received {n_atoms.shape}")
    if n_atoms.size and not 0 <= int(n_atoms.min()) <= int(n_atoms.max()) <= positions.shape[1]:
        raise ValueError(f"n_atoms must be in 0 … {positions.shape[1]}, received {n_atoms.min()} … {n_atoms.max()}")
    if not cutoff > 0:
        raise ValueError(f"cutoff must be positive, received {cutoff}")


@jit(inline="always")
def _squared_distances(positions: np.ndarray, molecule: int, n: int, i: int, axes: np.ndarray, out: np.ndarray) -> None:
    """Write squared distances of atom i to all, infinite to itself, to ``out``; ``axes`` is filled at atom 0."""
    # In float64 whatever the input: the comparison with the cutoff must not depend on the storage type.
    if i == 0:
        for j in range(n):
            for axis in range(3):
                axes[axis, j] = positions[molecule, j, axis]
    x, y, z = axes[0, i], axes[1, i], axes[2, i]
    for j in range(n):
        dx, dy, dz = axes[0, j] - x, axes[1, j] - y, axes[2, j] - z
        out[j] = dx * dx + dy * dy + dz * dz
    out[i] = np.inf


@jit()
def _count(
    positions: np.ndarray, n_atoms: np.ndarray, squared_cutoff: float, counts: np.ndarray, start: int, stop: int
) -> None:
    axes, squared = np.empty((3, positions.shape[1])), np.empty(positions.shape[1])
    for molecule in range(start, stop):
        n = n_atoms[molecule]
        count = 0
        for i in range(n):
            _squared_distances(positions, molecule, n, i, axes, squared)
            for j in range(n):
                count += int(squared[j] < squared_cutoff)
        counts[molecule] = count


@jit()
def _fill(
    positions: np.ndarray,
    n_atoms: np.ndarray,
    squared_cutoff: float,
    dst: np.ndarray,
    src: np.ndarray,
    counts: np.ndarray,
    start: int,
    stop: int,
) -> None:
    capacity, padding = dst.shape[1], positions.shape[1] - 1
    axes, squared = np.empty((3, positions.shape[1])), np.empty(positions.shape[1])
    close = np.empty(positions.shape[1], dtype=np.int32)
    for molecule in range(start, stop):
        n = n_atoms[molecule]
        edge = 0
        for i in range(n):
            _squared_distances(positions, molecule, n, i, axes, squared)
            # Without a branch on the distance, which the processor could not predict: written always, kept if close.
            found = 0
            for j in range(n):
                close[found] = j
                found += int(squared[j] < squared_cutoff)
            for k in range(min(found, max(capacity - edge, 0))):
                dst[molecule, edge + k] = i
                src[molecule, edge + k] = close[k]
            edge += found
        counts[molecule] = edge
        for k in range(edge, capacity):
            dst[molecule, k] = padding
            src[molecule, k] = padding

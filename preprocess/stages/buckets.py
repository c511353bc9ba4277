"""Choice of buckets: at most K shapes (atoms, grid points) that waste the least work on padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shared.buckets import FrameShape

GRID_MULTIPLE = 8
"""Bucket sizes in grid points are multiples of this, the width of a float32 vector register."""

EDGE_COST = 700.0
ATOM_COST = 1000.0
"""Cost of an edge and of an atom in a training step, in units of one (grid point, atom) pair. Only their rough size
matters: ``tests.benchmarks.padding_cost`` measures them and has given 2,500 and 10,500 for an older step, 390 and 1,360
for this one; with either the mixed molecules are split between the same numbers of atoms."""

BUCKET_COST = 0.02
"""Share of the unbucketed cost that another bucket has to save: it costs a compilation, and a last batch that is not
full."""

_MOST_ATOM_LEVELS = 48
_MOST_GRID_LEVELS = 64
"""Most different sizes of each kind for an exact search; more sizes are rounded up to as many levels."""


@dataclass(frozen=True)
class Plan:
    """Bucket shapes in ascending order: each one holds all molecules that the ones before it hold."""

    shapes: list[FrameShape]

    def assign(self, n_atoms: np.ndarray, n_grid: np.ndarray) -> np.ndarray:
        """Return the first bucket (n,) that each molecule fits into; -1 where there is none."""
        fits = np.stack([(n_atoms <= shape.atoms) & (n_grid <= shape.grid) for shape in self.shapes])
        return np.where(fits.any(axis=0), fits.argmax(axis=0), -1)


def sample_cost(atoms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the cost of one molecule padded to these sizes, in units of one (grid point, atom) pair.

    Every pair of atoms counts as an edge, as in molecules smaller than the cutoff: buckets do not depend on the
    cutoffs.
    """
    return atoms * (grid + ATOM_COST + EDGE_COST * (atoms - 1))


def choose_buckets(
    sizes: Mapping[tuple[int, int], int], training: Mapping[tuple[int, int], int], max_buckets: int, min_size: int
) -> Plan:
    """Choose the chain of at most ``max_buckets`` shapes of least padded cost over all molecules.

    A chain is ascending in both sizes; a molecule belongs to the first shape that holds it. The best chain is found
    exactly by dynamic programming over the numbers of molecules below each (atoms, grid points). (Shapes of which
    neither holds the other would leave molecules for a larger third; grids grow with their molecules, so such pairs
    gain next to nothing.) A further bucket has to save BUCKET_COST of the cost without buckets.

    Args:
        sizes: (atoms, grid points) -> molecules, of all splits.
        training: (atoms, grid points) -> molecules, of the training split: every bucket holds at least ``min_size``
            of its molecules, so that it fills its batches (a single bucket may hold fewer).
        max_buckets: most shapes.
        min_size: fewest training molecules of a bucket.
    """
    atoms, grid, every = _levels(sizes)
    of_training = _counts(training, atoms, grid)
    # Molecules that fit into each shape: a shape's own are those minus the ones of the shape before it.
    below, below_training = (counts.cumsum(axis=0).cumsum(axis=1) for counts in (every, of_training))
    cost = sample_cost(atoms[:, None].astype(float), grid[None, :].astype(float))
    shape = cost.shape
    best = np.where((below_training >= min_size) & (below > 0), cost * below, np.inf)
    best[-1, -1] = cost[-1, -1] * below[-1, -1]
    totals, origins = [float(best[-1, -1])], []
    for _ in range(max_buckets - 1):
        following = np.full(shape, np.inf)
        origin = np.zeros(shape, dtype=np.int64)
        for i, j in np.ndindex(shape):
            own = below[i, j] - below[: i + 1, : j + 1]
            own_training = below_training[i, j] - below_training[: i + 1, : j + 1]
            total = np.where(own_training >= min_size, best[: i + 1, : j + 1] + cost[i, j] * own, np.inf)
            where = int(total.argmin())
            following[i, j] = total.flat[where]
            origin[i, j] = np.ravel_multi_index(np.unravel_index(where, total.shape), shape)
        best = following
        totals.append(float(best[-1, -1]))
        origins.append(origin)
    count = int(np.argmin(np.array(totals) + BUCKET_COST * totals[0] * np.arange(max_buckets))) + 1
    place = (shape[0] - 1, shape[1] - 1)
    chain = [place]
    for origin in reversed(origins[: count - 1]):
        place = np.unravel_index(origin[place], shape)
        chain.append(place)
    return Plan([FrameShape(int(atoms[i]), int(grid[j])) for i, j in reversed(chain)])


def _levels(sizes: Mapping[tuple[int, int], int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sizes that a shape may have, ascending, and the molecules of each (atoms, grid) rounded up to them."""
    table = np.array([[a, g, n] for (a, g), n in sorted(sizes.items())], dtype=np.int64)
    rounded = np.maximum(-(-table[:, 1] // GRID_MULTIPLE) * GRID_MULTIPLE, GRID_MULTIPLE)
    atoms = _thinned(table[:, 0], table[:, 2], _MOST_ATOM_LEVELS)
    grid = _thinned(rounded, table[:, 2], _MOST_GRID_LEVELS)
    return atoms, grid, _counts(sizes, atoms, grid)


def _thinned(values: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` of the values, about equally many molecules apart, with the largest."""
    levels, inverse = np.unique(values, return_inverse=True)
    if len(levels) <= most:
        return levels
    share = np.cumsum(np.bincount(inverse, weights)) / weights.sum()
    chosen = np.searchsorted(share, np.arange(1, most + 1) / most - 1e-12)
    return levels[np.unique(np.append(np.minimum(chosen, len(levels) - 1), len(levels) - 1))]


def _counts(sizes: Mapping[tuple[int, int], int], atoms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    counts = np.zeros((len(atoms), len(grid)), dtype=np.int64)
    for (a, g), n in sizes.items():
        counts[np.searchsorted(atoms, a), np.searchsorted(grid, max(g, 1))] += n
    return counts

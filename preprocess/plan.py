"""Choosing buckets: at most K shapes (atoms, grid points) that waste the least work on padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.buckets import FrameShape

GRID_MULTIPLE = 8
"""Bucket sizes in grid points are multiples of this, the width of a float32 vector register."""

EDGE_COST = 700.0
ATOM_COST = 1000.0
"""Cost of an edge and of an atom in a training step, in units of one (grid point, atom) pair: measured on CO2
(6 edges, 3 atoms, 440 points: the ESP takes 10-20 % of a step). Only their rough size matters."""

BUCKET_COST = 0.03
"""Share of the whole cost that another bucket has to save: it is compiled once more, and fills one more last batch."""


@dataclass(frozen=True)
class Plan:
    """Bucket shapes, and the bucket of every molecule."""

    shapes: list[FrameShape]
    bucket: np.ndarray  # (n,) int64


def choose_buckets(n_atoms: np.ndarray, n_grid: np.ndarray, max_buckets: int, min_size: int) -> Plan:
    """Split molecules into at most ``max_buckets`` groups of least padded cost, none smaller than ``min_size``.

    A further group has to save BUCKET_COST of the whole.
    Molecules are put in order of (atoms, grid points), or of (grid points, atoms), and the best contiguous
    groups are found exactly by dynamic programming; the cheaper of the two orders wins.

    Args:
        n_atoms: (n,) real atoms.
        n_grid: (n,) real grid points.
        max_buckets: most groups.
        min_size: fewest molecules of a group (a single group may be smaller).
    """
    grid = np.maximum(-(-n_grid // GRID_MULTIPLE) * GRID_MULTIPLE, GRID_MULTIPLE)
    cells, inverse, counts = np.unique(
        np.stack([n_atoms, grid], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    by_atoms = np.lexsort((cells[:, 1], cells[:, 0]))
    by_grid = np.lexsort((cells[:, 0], cells[:, 1]))
    candidates = []
    for order in (by_atoms, by_grid):
        cost, stops = _partition(cells[order], counts[order], max_buckets, min_size)
        candidates.append((cost, order, stops))
    _, order, stops = min(candidates, key=lambda candidate: candidate[0])
    shapes, of_cell = [], np.empty(len(cells), dtype=np.int64)
    start = 0
    for index, stop in enumerate(stops):
        members = order[start:stop]
        atoms, points = cells[members].max(axis=0)
        shapes.append(FrameShape(int(atoms), int(points)))
        of_cell[members] = index
        start = stop
    return Plan(shapes, of_cell[inverse.reshape(-1)])


def sample_cost(atoms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Cost of one molecule padded to these sizes, in units of one (grid point, atom) pair."""
    return atoms * (grid + ATOM_COST + EDGE_COST * (atoms - 1))


def _partition(cells: np.ndarray, counts: np.ndarray, max_groups: int, min_size: int) -> tuple[float, list[int]]:
    """Cheapest split of ordered cells into contiguous groups: its cost and the end of every group."""
    n = len(cells)
    before = np.concatenate([[0], np.cumsum(counts)])
    # best[k, j]: least cost of the first j cells in k groups; origin[k, j]: where the last group starts.
    best = np.full((max_groups + 1, n + 1), np.inf)
    origin = np.zeros((max_groups + 1, n + 1), dtype=np.int64)
    best[0, 0] = 0.0
    for stop in range(1, n + 1):
        # Sizes of a group that runs from each start up to stop: maxima accumulated backwards.
        sizes = np.maximum.accumulate(cells[:stop][::-1], axis=0)[::-1]
        members = before[stop] - before[:stop]
        cost = sample_cost(sizes[:, 0], sizes[:, 1]) * members
        cost = np.where((members >= min_size) | (members == before[-1]), cost, np.inf)
        totals = best[:-1, :stop] + cost
        origin[1:, stop] = totals.argmin(axis=1)
        best[1:, stop] = totals.min(axis=1)
    with_overhead = best[:, n] + BUCKET_COST * np.arange(max_groups + 1) * best[1, n]
    groups = int(with_overhead.argmin())
    cost = float(with_overhead[groups])
    stops: list[int] = []
    stop = n
    for k in range(groups, 0, -1):
        stops.append(stop)
        stop = int(origin[k, stop])
    return cost, stops[::-1]

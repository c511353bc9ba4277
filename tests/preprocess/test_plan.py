"""Buckets against an exhaustive search over every contiguous partition."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from preprocess.plan import Plan, choose_buckets
from shared.buckets import FrameShape


def padded_cost(atoms: int, grid: int) -> float:
    """Work of one molecule: grid points x atoms, 1000 an atom, 700 a directed pair of atoms."""
    return atoms * grid + 1000.0 * atoms + 700.0 * atoms * (atoms - 1)


def rounded(grid: int) -> int:
    """Grid points rounded up to a multiple of eight, at least eight."""
    return max(8, (grid + 7) // 8 * 8)


def plan_cost(plan: Plan, whole: float) -> float:
    """Work of a plan and 3 % of the unbucketed work for each bucket."""
    work = sum(padded_cost(plan.shapes[b].atoms, plan.shapes[b].grid) for b in plan.bucket)
    return work + 0.03 * whole * len(plan.shapes)


def exhaustive_cost(sizes: list[tuple[int, int]], max_buckets: int, min_size: int) -> float:
    """Least cost over all contiguous partitions in both orders; equal sizes stay together."""
    whole = len(sizes) * padded_cost(max(a for a, _ in sizes), max(rounded(g) for _, g in sizes))
    best = np.inf
    for key in (lambda s: (s[0], rounded(s[1])), lambda s: (rounded(s[1]), s[0])):
        ordered = sorted(sizes, key=key)
        for groups in range(1, max_buckets + 1):
            for cuts in combinations(range(1, len(ordered)), groups - 1):
                if any(key(ordered[c]) == key(ordered[c - 1]) for c in cuts):
                    continue
                edges = [0, *cuts, len(ordered)]
                parts = [ordered[a:b] for a, b in pairwise(edges)]
                if groups > 1 and min(map(len, parts)) < min_size:
                    continue
                work = sum(len(p) * padded_cost(max(a for a, _ in p), max(rounded(g) for _, g in p)) for p in parts)
                best = min(best, work + 0.03 * whole * groups)
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("max_buckets", "min_size"), [(1, 1), (2, 1), (3, 1), (3, 3), (4, 2), (3, 100)])
def test_plan_is_the_best_of_all_partitions(seed: int, max_buckets: int, min_size: int) -> None:
    """Every molecule fits its bucket, the limits hold, and no contiguous partition costs less."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    n_atoms, n_grid = rng.integers(1, 15, n), rng.integers(0, 700, n)
    plan = choose_buckets(n_atoms, n_grid, max_buckets, min_size)
    assert 1 <= len(plan.shapes) <= max_buckets
    counts = np.bincount(plan.bucket, minlength=len(plan.shapes))
    assert len(plan.shapes) == 1 or counts.min() >= min_size
    for atoms, grid, bucket in zip(n_atoms, n_grid, plan.bucket, strict=True):
        assert atoms <= plan.shapes[bucket].atoms
        assert grid <= plan.shapes[bucket].grid
    sizes = [(int(a), int(g)) for a, g in zip(n_atoms, n_grid, strict=True)]
    whole = n * padded_cost(int(n_atoms.max()), rounded(int(n_grid.max())))
    assert plan_cost(plan, whole) == pytest.approx(exhaustive_cost(sizes, max_buckets, min_size))


def test_two_clear_groups_get_two_tight_buckets() -> None:
    """Small and large molecules are not padded to one another, even where a third bucket is allowed."""
    plan = choose_buckets(np.array([3] * 20 + [30] * 20), np.array([100] * 20 + [500] * 20), 3, 10)
    assert plan.shapes == [FrameShape(3, 104), FrameShape(30, 504)]
    assert plan.bucket.tolist() == [0] * 20 + [1] * 20


def test_equal_molecules_get_one_bucket() -> None:
    """A data set of one molecule compiles once."""
    plan = choose_buckets(np.full(50, 3), np.full(50, 440), 3, 1)
    assert plan.shapes == [FrameShape(3, 440)]


def test_too_few_molecules_for_a_bucket_share_one() -> None:
    """A single bucket may be smaller than the least size."""
    plan = choose_buckets(np.array([2, 40]), np.array([10, 900]), 3, 256)
    assert plan.shapes == [FrameShape(40, 904)]

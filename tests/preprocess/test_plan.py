"""Buckets against an exhaustive search over every chain of shapes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from preprocess.stages.buckets import ATOM_COST, BUCKET_COST, EDGE_COST, Plan, choose_buckets
from shared.buckets import FrameShape

Sizes = list[tuple[int, int]]


def padded_cost(atoms: int, grid: int) -> float:
    """Work of one molecule: grid points x atoms, so much an atom, and so much a directed pair of atoms."""
    return atoms * grid + ATOM_COST * atoms + EDGE_COST * atoms * (atoms - 1)


def rounded(grid: int) -> int:
    """Grid points rounded up to a multiple of eight, at least eight."""
    return max(8, (grid + 7) // 8 * 8)


def chain_cost(sizes: Sizes, training: Sizes, chain: Sizes, min_size: int) -> float:
    """Work of a chain of shapes and the cost of its further buckets; infinite where one holds too little."""
    work, left, left_training = 0.0, Counter(sizes), Counter(training)
    for atoms, grid in chain:
        own = [size for size in left if size[0] <= atoms and size[1] <= grid]
        members = sum(left.pop(size) for size in own)
        trained = sum(left_training.pop(size, 0) for size in own)
        if len(chain) > 1 and trained < min_size:
            return np.inf
        work += members * padded_cost(atoms, grid)
    assert not left
    whole = len(sizes) * padded_cost(*largest(sizes))
    return work + BUCKET_COST * whole * (len(chain) - 1)


def largest(sizes: Sizes) -> tuple[int, int]:
    """The shape that holds every molecule."""
    return max(a for a, _ in sizes), max(rounded(g) for _, g in sizes)


def exhaustive_cost(sizes: Sizes, training: Sizes, max_buckets: int, min_size: int) -> float:
    """Least cost over all chains of shapes that occur."""
    shapes = sorted({(a, rounded(g)) for a, _ in sizes for _, g in sizes})
    last = largest(sizes)
    best = np.inf
    for count in range(max_buckets):
        for rest in combinations([shape for shape in shapes if shape != last], count):
            chain = [*rest, last]
            if all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(chain)):
                best = min(best, chain_cost(sizes, training, chain, min_size))
    return best


def chosen(sizes: Sizes, training: Sizes, max_buckets: int, min_size: int) -> Plan:
    """The plan for molecules of these sizes."""
    return choose_buckets(Counter(sizes), Counter(training), max_buckets, min_size)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("max_buckets", "min_size"), [(1, 1), (2, 1), (3, 1), (3, 3), (4, 2), (3, 100)])
def test_plan_is_the_best_of_all_chains(seed: int, max_buckets: int, min_size: int) -> None:
    """Every molecule fits its bucket, the limits hold, and no chain costs less."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    sizes = list(zip(rng.integers(1, 15, n).tolist(), rng.integers(0, 700, n).tolist(), strict=True))
    training = sizes[: max(1, n - 2)]
    plan = chosen(sizes, training, max_buckets, min_size)
    assert 1 <= len(plan.shapes) <= max_buckets
    atoms, grid = np.array(sizes).T
    bucket = plan.assign(atoms, grid)
    assert (bucket >= 0).all()
    for a, g, b in zip(atoms, grid, bucket, strict=True):
        assert a <= plan.shapes[b].atoms
        assert g <= plan.shapes[b].grid
        assert not any(a <= shape.atoms and g <= shape.grid for shape in plan.shapes[:b])
    in_training = np.bincount(bucket[: len(training)], minlength=len(plan.shapes))
    assert len(plan.shapes) == 1 or in_training.min() >= min_size
    chain = [(shape.atoms, shape.grid) for shape in plan.shapes]
    cost = chain_cost(sizes, training, chain, min_size)
    assert cost == pytest.approx(exhaustive_cost(sizes, training, max_buckets, min_size))


def test_two_clear_groups_get_two_tight_buckets() -> None:
    """Small and large molecules are not padded to one another, even where a third bucket is allowed."""
    sizes = [(3, 100)] * 20 + [(30, 500)] * 20
    plan = chosen(sizes, sizes, 3, 10)
    assert plan.shapes == [FrameShape(3, 104), FrameShape(30, 504)]
    assert plan.assign(*np.array(sizes).T).tolist() == [0] * 20 + [1] * 20


def test_equal_molecules_get_one_bucket() -> None:
    """A data set of one molecule compiles once."""
    assert chosen([(3, 440)] * 50, [(3, 440)] * 50, 3, 1).shapes == [FrameShape(3, 440)]


def test_too_few_molecules_for_a_bucket_share_one() -> None:
    """A single bucket may be smaller than the least size."""
    assert chosen([(2, 10), (40, 900)], [(2, 10), (40, 900)], 3, 256).shapes == [FrameShape(40, 904)]


def test_a_bucket_of_validation_molecules_alone_is_not_made() -> None:
    """The least size counts training molecules."""
    sizes = [(3, 100)] * 50 + [(30, 500)] * 50
    assert chosen(sizes, sizes[50:], 3, 10).shapes == [FrameShape(30, 504)]


def test_what_fits_nowhere_is_told() -> None:
    """Appended molecules may be larger than every bucket."""
    plan = Plan([FrameShape(3, 104), FrameShape(9, 400)])
    assert plan.assign(np.array([3, 9, 10, 3]), np.array([104, 400, 8, 401])).tolist() == [0, 1, -1, -1]


def test_many_different_sizes_are_planned_in_time() -> None:
    """Thousands of sizes are rounded up to levels: near the best, and every molecule fits."""
    rng = np.random.default_rng(0)
    atoms = rng.integers(2, 200, 20_000)
    grid = atoms * 40 + rng.integers(0, 3000, 20_000)
    sizes = list(zip(atoms.tolist(), grid.tolist(), strict=True))
    plan = chosen(sizes, sizes, 4, 128)
    assert len(plan.shapes) == 4
    assert (plan.assign(atoms, grid) >= 0).all()
    chain = [(shape.atoms, shape.grid) for shape in plan.shapes]
    assert chain_cost(sizes, sizes, chain, 128) < 0.6 * chain_cost(sizes, sizes, chain[-1:], 128)

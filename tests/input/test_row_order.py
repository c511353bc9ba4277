"""Rows of two files that hold the same molecules in another order, against every pair of rows compared in turn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from preprocess.input.row_order import find_rows


def rows_to_pair(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and positions of n molecules of one to five atoms, padding NaN; the last three repeat the first."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(1, 9, (n, 5))
    numbers[np.arange(5) >= generator.integers(1, 6, n)[:, None]] = 0
    positions = np.where((numbers > 0)[..., None], generator.normal(size=(n, 5, 3)), np.nan)
    numbers[-3:], positions[-3:] = numbers[:3], positions[:3]
    return numbers, positions


def agrees(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], i: int, j: int) -> bool:
    """Row i of a is row j of b, atom by atom."""
    one, other = ([(z, r) for z, r in zip(*(x[row] for x in rows), strict=True) if z] for rows, row in ((a, i), (b, j)))
    pairs = list(itertools.zip_longest(one, other, fillvalue=(0, np.zeros(3))))
    return all(y == z and np.linalg.norm(q - r) <= 1e-3 for (y, q), (z, r) in pairs)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 5e-4])
@pytest.mark.parametrize("padding", [(0, 0), (0, 4), (7, 2)])
def test_rows_are_found(noise: float, padding: tuple[int, int]) -> None:
    """Against every pair of rows compared in turn; padding widths differ, rows are repeated and rounded."""
    numbers, positions = rows_to_pair(60)
    generator = np.random.default_rng(1)
    order = generator.permutation(60)
    moved = positions[order] + noise * generator.uniform(-1, 1, positions.shape)
    a = np.pad(numbers, ((0, 0), (0, padding[0]))), np.pad(positions, ((0, 0), (0, padding[0]), (0, 0)))
    b = np.pad(numbers[order], ((0, 0), (0, padding[1]))), np.pad(moved, ((0, 0), (0, padding[1]), (0, 0)))
    found = find_rows(*a, *b)
    for i in range(60):
        partners = [j for j in range(60) if agrees(a, b, i, j)]
        assert found[i] in partners
        assert noise or found[i] == min(partners)  # the first of several that are equal
        assert len(partners) == 1 + (i < 3 or i >= 57)


def test_rows_without_a_partner() -> None:
    """Another molecule, another element, another count, an atom moved, numbers that are none."""
    numbers, positions = rows_to_pair(40)
    other_numbers, other_positions = numbers.copy(), positions.copy()
    other_positions[8, 0, 0] += 0.01
    other_numbers[9, 0] += 1
    other_numbers[10, -1], other_positions[10, -1] = (0, np.nan) if numbers[10, -1] else (1, 5.0)
    other_positions[11, 0, 0] = np.nan
    found = find_rows(numbers, positions, other_numbers, other_positions)
    assert set(np.flatnonzero(found < 0)) == {8, 9, 10, 11}
    assert (find_rows(numbers, positions, *rows_to_pair(40, seed=5)) < 0).all()
    assert (find_rows(numbers[:5], positions[:5], numbers[5:6], positions[5:6]) < 0).all()


def test_rows_of_many() -> None:
    """A hundred thousand rows, rounded, half of them copies of one: no comparison of all with all."""
    generator = np.random.default_rng(0)
    positions = generator.normal(size=(100_000, 3, 3))
    positions[50_000:] = positions[0]
    numbers = np.full((100_000, 3), 8)
    order = generator.permutation(100_000)
    found = find_rows(numbers, positions, numbers, positions[order].astype(np.float32))
    np.testing.assert_array_equal(order[found[1:50_000]], np.arange(1, 50_000))
    assert set(order[found[50_000:]]) <= {0, *range(50_000, 100_000)}

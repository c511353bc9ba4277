"""Edges of a batch against loops over the molecules' lists; padding lies beyond the cutoff, also of a full molecule."""

from __future__ import annotations

import numpy as np
import pytest

from train.model.graph import batch_edges, batch_pairs, pair_distances

POSITIONS = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
DST = np.array([[0, 0, 1, 2, 2], [1, 2, 2, 2, 2], [2, 2, 2, 2, 2]])
SRC = np.array([[1, 2, 2, 0, 1], [2, 1, 2, 2, 2], [2, 2, 2, 2, 2]])
N_EDGES = np.array([5, 2, 0])
CUTOFF = 4.0


@pytest.mark.parametrize("poison", [None, -7, 1_000_000])
def test_edges_are_those_of_the_lists(poison: int | None) -> None:
    """In the order of the lists, from src to dst; the second and third molecules have padding, and no padded atom."""
    real = np.arange(5) < N_EDGES[:, None]
    dst, src = (values if poison is None else np.where(real, values, poison) for values in (DST, SRC))
    edges = batch_edges(POSITIONS, dst, src, N_EDGES, CUTOFF)
    lengths = np.linalg.norm(edges.displacements, axis=1)
    for b in range(3):
        for e in range(5):
            place = 5 * b + e
            if e < N_EDGES[b]:
                assert (edges.dst_idx[place], edges.src_idx[place]) == (3 * b + DST[b, e], 3 * b + SRC[b, e])
                expected = POSITIONS[b, SRC[b, e]] - POSITIONS[b, DST[b, e]]
                np.testing.assert_allclose(edges.displacements[place], expected, rtol=1e-5)
            else:
                assert lengths[place] >= CUTOFF
                assert edges.dst_idx[place] // 3 == edges.src_idx[place] // 3 == b
    assert (np.diff(edges.dst_idx) >= 0).all()


@pytest.mark.parametrize("poison", [None, -7, 1_000_000])
def test_pairs_are_each_edge_once(poison: int | None) -> None:
    """Of lists with both directions: all three pairs of a molecule, one pair and padding, none."""
    dst = np.array([[0, 0, 1, 1, 2, 2, 2], [1, 2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2]])
    src = np.array([[1, 2, 0, 2, 0, 1, 2], [2, 1, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2]])
    n_edges = np.array([6, 2, 0])
    if poison is not None:
        real = np.arange(7) < n_edges[:, None]
        dst, src = np.where(real, dst, poison), np.where(real, src, poison + 1)
    pairs = batch_pairs(POSITIONS, dst, src, n_edges, CUTOFF)
    expected = [[(0, 1), (0, 2), (1, 2)], [(1, 2)], []]
    lengths = np.linalg.norm(pairs.displacements, axis=1)
    for b, places in enumerate(np.arange(12).reshape(3, 4)):
        for place, pair in zip(places, expected[b], strict=False):
            assert (pairs.first_idx[place] - 3 * b, pairs.second_idx[place] - 3 * b) == pair
            displacement = POSITIONS[b, pair[1]] - POSITIONS[b, pair[0]]
            np.testing.assert_allclose(pairs.displacements[place], displacement, rtol=1e-5)
        padding = places[len(expected[b]) :]
        assert (lengths[padding] >= CUTOFF).all()
        assert (pairs.first_idx[padding] // 3 == b).all()
        assert (pairs.second_idx[padding] // 3 == b).all()


def test_pairs_are_those_of_distinct_real_atoms() -> None:
    mask = np.array([[True, True, True], [True, True, False], [False, False, False]])
    distances, pairs = map(np.asarray, pair_distances(np.where(mask[..., None], POSITIONS, np.nan), mask))
    for b, i, j in np.ndindex(3, 3, 3):
        assert pairs[b, i, j] == (mask[b, i] and mask[b, j] and i != j)
        expected = np.linalg.norm(POSITIONS[b, i] - POSITIONS[b, j]) if pairs[b, i, j] else 1.0
        np.testing.assert_allclose(distances[b, i, j], expected, rtol=1e-5)

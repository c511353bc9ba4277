"""Edge lists against a brute-force search and against vesin, an unrelated neighbour-list library."""

from __future__ import annotations

import numpy as np
import pytest
import vesin
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.neighbor_list import EdgeList, build_edges, count_edges


def random_molecules(
    rng: np.random.Generator, counts: list[int], atoms: int, dtype: str = "float64", poison: float = np.nan
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a box that holds pairs on both sides of the cutoffs used here; ``poison`` in the padding."""
    positions = rng.uniform(-4.0, 4.0, (len(counts), atoms, 3)).astype(dtype)
    n_atoms = np.array(counts)
    positions[np.arange(atoms) >= n_atoms[:, None]] = poison
    return positions, n_atoms


def brute_force(positions: np.ndarray, n_atoms: int, cutoff: float) -> list[tuple[int, int]]:
    """(dst, src) of every directed pair closer than the cutoff, sorted by dst, then src."""
    real = positions[:n_atoms].astype(np.float64)
    distance = np.linalg.norm(real[:, None] - real[None], axis=-1)
    return [(i, j) for i in range(n_atoms) for j in range(n_atoms) if i != j and distance[i, j] < cutoff]


def real_pairs(edges: EdgeList, row: int) -> list[tuple[int, int]]:
    """The unpadded pairs of one molecule, in the order of the list."""
    n = edges.n_edges[row]
    return list(zip(edges.dst[row, :n].tolist(), edges.src[row, :n].tolist(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30, 0.0])
def test_lists_are_those_of_a_brute_force_search(dtype: str, poison: float) -> None:
    """Same pairs in the same order whatever stands in the padding."""
    positions, n_atoms = random_molecules(np.random.default_rng(1), [1, 2, 5, 12, 9, 12], 12, dtype, poison)
    edges = build_edges(positions, n_atoms, 4.0)
    expected = [brute_force(p, n, 4.0) for p, n in zip(positions, n_atoms, strict=True)]
    assert [real_pairs(edges, row) for row in range(len(n_atoms))] == expected
    assert edges.n_edges.tolist() == [len(pairs) for pairs in expected]
    assert 0 < len(expected[3]) < 12 * 11


@pytest.mark.parametrize("cutoff", [2.0, 4.0, 6.0, 20.0])
def test_lists_are_those_of_vesin(cutoff: float) -> None:
    """Same sets of pairs as vesin's full list."""
    positions, n_atoms = random_molecules(np.random.default_rng(2), [2, 7, 20, 20], 20)
    edges = build_edges(positions, n_atoms, cutoff)
    neighbours = vesin.NeighborList(cutoff=cutoff, full_list=True)
    for row, n in enumerate(n_atoms):
        i, j = neighbours.compute(
            points=positions[row, :n].copy(), box=np.zeros((3, 3)), periodic=False, quantities="ij"
        )
        assert sorted(real_pairs(edges, row)) == sorted(zip(i.tolist(), j.tolist(), strict=True))


def test_padding_is_the_last_atom_and_keeps_dst_sorted() -> None:
    """int32 arrays of one length; behind the real edges stands atoms - 1; dst never falls."""
    positions, n_atoms = random_molecules(np.random.default_rng(3), [3, 8, 1], 8)
    longest = int(count_edges(positions, n_atoms, 5.0).max())
    edges = build_edges(positions, n_atoms, 5.0, capacity=longest + 5)
    assert edges.dst.shape == edges.src.shape == (3, longest + 5)
    assert {array.dtype for array in edges} == {np.dtype("int32")}
    assert (np.diff(edges.dst, axis=1) >= 0).all()
    for row, n in enumerate(edges.n_edges):
        assert (edges.dst[row, n:] == 7).all()
        assert (edges.src[row, n:] == 7).all()
        assert (edges.dst[row, :n] != edges.src[row, :n]).all()


def test_default_capacity_is_the_longest_list() -> None:
    """Nothing is wasted on the molecule with most edges."""
    positions, n_atoms = random_molecules(np.random.default_rng(4), [4, 9], 9)
    edges = build_edges(positions, n_atoms, 5.0)
    assert edges.dst.shape[1] == edges.n_edges.max() > edges.n_edges.min()


@pytest.mark.parametrize("cutoff", [1.0, 6.0, 10.0])
@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 0.6, 0.8]])
def test_cutoff_is_sharp_to_a_millionth(cutoff: float, axis: list[float]) -> None:
    """A pair a millionth of an ångström inside is listed both ways, one outside is not."""
    pair = np.zeros((2, 2, 3))
    pair[0, 1] = np.array(axis) * (cutoff - 1e-6)
    pair[1, 1] = np.array(axis) * (cutoff + 1e-6)
    edges = build_edges(pair, np.array([2, 2]), cutoff)
    assert edges.n_edges.tolist() == [2, 0]
    assert real_pairs(edges, 0) == [(0, 1), (1, 0)]


def test_pair_at_exactly_the_cutoff_is_left_out() -> None:
    """3-4-5 triangle: the distance is exact in binary."""
    pair = np.array([[[0.0, 0, 0], [3.0, 4.0, 0]]])
    edges = build_edges(pair, np.array([2]), 5.0)
    assert edges.n_edges.tolist() == count_edges(pair, np.array([2]), 5.0).tolist() == [0]
    assert edges.dst.shape == (1, 0)


def test_molecules_without_edges_give_lists_of_no_length() -> None:
    """Single atoms, distant pairs and empty rows have no edge; no atom is its own neighbour."""
    positions = np.zeros((3, 2, 3))
    positions[1, 1, 0] = 100.0
    edges = build_edges(positions, np.array([1, 2, 0]), 6.0)
    assert edges.n_edges.tolist() == [0, 0, 0]
    assert edges.dst.shape == edges.src.shape == (3, 0)


def test_no_molecules() -> None:
    """An empty set of molecules has empty lists."""
    edges = build_edges(np.zeros((0, 4, 3)), np.zeros(0, int), 6.0)
    assert edges.dst.shape == (0, 0)
    assert edges.n_edges.shape == (0,)


def test_too_small_a_capacity_names_the_molecule() -> None:
    """No edge is dropped in silence."""
    positions = np.zeros((2, 3, 3))
    positions[:, :, 0] = [[0, 50, 100], [0, 1, 2]]
    with pytest.raises(ValueError, match="molecule 1 has 6 edges, more than the capacity 5"):
        build_edges(positions, np.array([3, 3]), 4.0, capacity=5)


@pytest.mark.parametrize(
    ("shape", "n_atoms", "cutoff"),
    [
        ((2, 3), [1, 1], 5.0),
        ((2, 3, 2), [1, 1], 5.0),
        ((2, 3, 3), [1], 5.0),
        ((2, 3, 3), [1, 4], 5.0),
        ((2, 3, 3), [-1, 1], 5.0),
        ((2, 3, 3), [1, 1], 0.0),
        ((2, 3, 3), [1, 1], float("nan")),
    ],
)
def test_wrong_arguments_are_refused(shape: tuple[int, ...], n_atoms: list[int], cutoff: float) -> None:
    """Shapes, atom counts and cutoffs that make no sense never reach the kernel."""
    with pytest.raises(ValueError, match="must"):
        build_edges(np.zeros(shape), np.array(n_atoms), cutoff)


@settings(deadline=None, max_examples=30, database=None)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_any_molecules_at_any_cutoff(seed: int, counts: list[int]) -> None:
    """Random sizes, padding and cutoff agree with the brute-force search."""
    rng = np.random.default_rng(seed)
    positions, n_atoms = random_molecules(rng, counts, 8 + int(rng.integers(3)))
    cutoff = float(rng.uniform(0.5, 12.0))
    edges = build_edges(positions, n_atoms, cutoff)
    for row, n in enumerate(counts):
        assert real_pairs(edges, row) == brute_force(positions[row], n, cutoff)

"""Kinds of molecules: frames with the same bonds, in any geometry, are one molecule and belong in one split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from shared.elements import COVALENT_RADII
from shared.jit import jit

BOND_FACTORS = (1.15, 1.25, 1.35, 1.45)
"""Multiples of the sum of covalent radii up to which two atoms are bonded.

A strained frame has one graph at one factor and another at the next; frames that share any of their graphs are one
molecule. That may join different molecules, which only makes the division coarser, and never separates frames of one.
"""

_ROUNDS = 4


class Kinds(NamedTuple):
    """What distinguishes the molecules of some rows."""

    graphs: np.ndarray  # (n, 4) uint64, hash of the bond graph at each of BOND_FACTORS
    formula: np.ndarray  # (n,) uint64, hash of the elements
    in_parts: np.ndarray  # (n,) bool, more than one fragment at the largest factor
    names: np.ndarray  # (n,) bytes, b"" = none


def describe_kinds(numbers: np.ndarray, n_atoms: np.ndarray, positions: np.ndarray, names: np.ndarray) -> Kinds:
    """Hash the bond graphs of some molecules, whatever the order of their atoms.

    Args:
        numbers: (n, atoms), 0 = padding.
        n_atoms: (n,).
        positions: (n, atoms, 3) in Å.
        names: (n,) bytes.
    """
    graphs = np.zeros((len(numbers), len(BOND_FACTORS)), np.uint64)
    formula, in_parts = np.zeros(len(numbers), np.uint64), np.zeros(len(numbers), np.bool_)
    factors = np.array(BOND_FACTORS)
    _hash(
        numbers.astype(np.int64),
        n_atoms.astype(np.int64),
        positions,
        COVALENT_RADII,
        factors,
        graphs,
        formula,
        in_parts,
    )
    return Kinds(graphs, formula, in_parts, names)


@jit()
def _mix(value: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@jit()
def _bonded(numbers: np.ndarray, positions: np.ndarray, radii: np.ndarray, factor: float, i: int, j: int) -> bool:
    if i == j or numbers[i] >= radii.size or numbers[j] >= radii.size:
        return False
    squares = 0.0
    for axis in range(3):
        difference = positions[i, axis] - positions[j, axis]
        squares += difference * difference
    reach = factor * (radii[numbers[i]] + radii[numbers[j]])
    return squares < reach * reach


@jit()
def _hash(
    numbers: np.ndarray,
    n_atoms: np.ndarray,
    positions: np.ndarray,
    radii: np.ndarray,
    factors: np.ndarray,
    graphs: np.ndarray,
    formula: np.ndarray,
    in_parts: np.ndarray,
) -> None:
    """Hash bond graphs by Weisfeiler and Lehman's colours (1968): each round updates an atom's from its neighbours'."""
    width = numbers.shape[1]
    colour, renewed = np.zeros(width, np.uint64), np.zeros(width, np.uint64)
    reached = np.zeros(width, np.bool_)
    for row in range(numbers.shape[0]):
        n = min(n_atoms[row], width)
        own, where = numbers[row], positions[row]
        formula[row] = np.uint64(n)
        for i in range(n):
            formula[row] += _mix(_mix(np.uint64(own[i]) + np.uint64(1)))
        for index in range(factors.size):
            for i in range(n):
                colour[i] = _mix(np.uint64(own[i]) + np.uint64(1))
            for _ in range(_ROUNDS):
                for i in range(n):
                    total = np.uint64(0)
                    for j in range(n):
                        if _bonded(own, where, radii, factors[index], i, j):
                            total += _mix(colour[j])
                    renewed[i] = _mix(colour[i] * np.uint64(3) + total)
                for i in range(n):
                    colour[i] = renewed[i]
            total = np.uint64(n)
            for i in range(n):
                total += _mix(colour[i])
            graphs[row, index] = _mix(total)
        for i in range(n):
            reached[i] = i == 0
        growing = n > 1
        while growing:
            growing = False
            for i in range(n):
                if not reached[i]:
                    for j in range(n):
                        if reached[j] and _bonded(own, where, radii, factors[-1], i, j):
                            reached[i] = growing = True
                            break
        for i in range(n):
            if not reached[i]:
                in_parts[row] = True


def join_kinds(parts: Sequence[Kinds]) -> np.ndarray:
    """Return a number (n,), uint64, that is equal for rows that are, or might be, one molecule.

    Rows that share a graph, or a formula and a name, are joined. A molecule in parts may be any of its formula: then
    all of that formula are joined.
    """
    graphs = np.concatenate([part.graphs for part in parts])
    formula = np.concatenate([part.formula for part in parts])
    in_parts = np.concatenate([part.in_parts for part in parts])
    width = max(part.names.dtype.itemsize for part in parts)
    names = np.concatenate([part.names.astype(f"S{width}") for part in parts])
    values, graph = np.unique(graphs, return_inverse=True)
    graph = graph.reshape(graphs.shape)
    formulas, of_formula = np.unique(formula, return_inverse=True)
    broken = np.zeros(len(formulas), bool)
    broken[of_formula[in_parts]] = True
    _, of_name = np.unique(names, return_inverse=True)
    named = np.unique(of_formula * (of_name.max() + 1) + of_name, return_inverse=True)[1]
    links = [graph[:, 1:].T]
    size = len(values)
    for place, joins in ((of_formula, broken[of_formula]), (named, names != b"")):
        links.append(np.where(joins, size + place, graph[:, 0])[None])
        size += int(place.max()) + 1
    pairs = np.concatenate([np.stack([graph[:, 0], ends]) for row in links for ends in row], axis=1)
    pairs = np.unique(pairs, axis=1)
    network = coo_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(size, size))
    component = connected_components(network, directed=False)[1]
    # Named by its least hash, so that the name does not depend on the other molecules of the file.
    least = np.full(component.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, component[: len(values)], values)
    return np.asarray(least[component[graph[:, 0]]])

"""Bond graphs of molecules as hashes: frames with the same bonds, in any geometry, are one molecule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.elements import COVALENT_RADII
from shared.jit import jit

BOND_FACTORS = (1.15, 1.25, 1.35, 1.45)
"""Multiples of the sum of covalent radii up to which two atoms are bonded.

A strained frame has one graph at one factor and another at the next; frames that share any of their graphs are one
molecule. That may join different molecules, but hardly ever separates frames of one.
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
        positions.astype(np.float64),
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
def _find_bonds(
    numbers: np.ndarray,
    positions: np.ndarray,
    radii: np.ndarray,
    factors: np.ndarray,
    bonds: np.ndarray,
) -> int:
    """Write the pairs of atoms within the largest factor, and the index of the least, to ``bonds`` (pairs, 3)."""
    count = 0
    for i in range(len(numbers)):
        for j in range(i):
            if numbers[i] >= radii.size or numbers[j] >= radii.size:
                continue
            squares = 0.0
            for axis in range(3):
                difference = positions[i, axis] - positions[j, axis]
                squares += difference * difference
            for index in range(factors.size):
                reach = factors[index] * (radii[numbers[i]] + radii[numbers[j]])
                if squares < reach * reach:
                    bonds[count, 0], bonds[count, 1], bonds[count, 2] = i, j, index
                    count += 1
                    break
    return count


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
    first, colour = np.zeros(width, np.uint64), np.zeros(width, np.uint64)
    mixed, around = np.zeros(width, np.uint64), np.zeros(width, np.uint64)
    reached = np.zeros(width, np.bool_)
    bonds = np.zeros((width * (width - 1) // 2, 3), np.int64)
    for row in range(numbers.shape[0]):
        n = min(n_atoms[row], width)
        count = _find_bonds(numbers[row, :n], positions[row], radii, factors, bonds)
        formula[row] = np.uint64(n)
        for i in range(n):
            first[i] = _mix(np.uint64(numbers[row, i]) + np.uint64(1))
            formula[row] += _mix(first[i])
        for index in range(factors.size):
            colour[:n] = first[:n]
            for _ in range(_ROUNDS):
                for i in range(n):
                    mixed[i], around[i] = _mix(colour[i]), np.uint64(0)
                for bond in range(count):
                    if bonds[bond, 2] <= index:
                        i, j = bonds[bond, 0], bonds[bond, 1]
                        around[i] += mixed[j]
                        around[j] += mixed[i]
                for i in range(n):
                    colour[i] = _mix(colour[i] * np.uint64(3) + around[i])
            total = np.uint64(n)
            for i in range(n):
                total += _mix(colour[i])
            graphs[row, index] = _mix(total)
        for i in range(n):
            reached[i] = i == 0
        growing = n > 1
        while growing:
            growing = False
            for bond in range(count):
                i, j = bonds[bond, 0], bonds[bond, 1]
                if reached[i] != reached[j]:
                    reached[i] = reached[j] = growing = True
        for i in range(n):
            if not reached[i]:
                in_parts[row] = True

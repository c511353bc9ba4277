"""Equivalent atoms against brute force, their charges, and the frames that hold them."""

from __future__ import annotations

import itertools
from decimal import Decimal

import numpy as np
import pytest
from ase.build import molecule

from shared.geometry import distances_and_bonds
from tests.fixed_charges.samples import (
    all_kinds,
    symmetry,
)
from train.fixed_charges.site_orbits import as_model, rounded_charges
from train.fixed_charges.symmetry import automorphism_generators, choose_frame, point_group


def brute_force_classes(numbers: np.ndarray, bonds: np.ndarray) -> set[frozenset[int]]:
    """All permutations, of few atoms."""
    edges = {frozenset(bond) for bond in bonds.tolist()}
    maps = [
        image
        for image in itertools.permutations(range(len(numbers)))
        if (numbers[list(image)] == numbers).all()
        and {frozenset(image[atom] for atom in bond) for bond in edges} == edges
    ]
    return {frozenset(image[atom] for image in maps) for atom in range(len(numbers))}


@pytest.mark.parametrize("name", ["H2O", "CO2", "CH3OH", "C2H4", "H2CO", "HCOOH", "N2", "H"])
def test_equivalent_atoms_are_those_of_all_permutations(name: str) -> None:
    found = symmetry(name)
    assert {frozenset(one) for one in found.classes} == brute_force_classes(found.atomic_numbers, found.bonds)


@pytest.mark.parametrize(
    ("name", "rotations", "reflections"),
    [("CH4", 12, 12), ("C6H6", 12, 12), ("H2O", 2, 2), ("NH3", 3, 3), ("CH3OH", 1, 1), ("H2O2", 2, 0), ("C2H6", 6, 6)],
)
def test_point_groups_have_their_order(name: str, rotations: int, reflections: int) -> None:
    atoms = molecule(name)
    signs = [operation.sign for operation in point_group(atoms.numbers, atoms.positions)]
    assert (signs.count(1), signs.count(-1)) == (rotations, reflections)


def test_neopentane_and_a_chain_have_generators_but_are_not_enumerated() -> None:
    """(3!)⁵ · 4! permutations of the first, and (3!)² 2⁹ or so of the second."""
    for name, classes in (("isobutane", 4), ("trans-butane", 4)):
        atoms = molecule(name)
        _, bonded = distances_and_bonds(atoms.numbers, atoms.positions)
        assert len(automorphism_generators(atoms.numbers, np.argwhere(np.triu(bonded)))) < 14
        assert len(symmetry(name).classes) == classes


@pytest.mark.parametrize("name", ["CH3OH", "C6H6", "CO2", "CH3CH2OH", "CH3CN", "H2O2"])
def test_equivalent_atoms_have_equal_charges_and_the_molecule_its_charge(name: str) -> None:
    found = symmetry(name)
    model = as_model(found, all_kinds(found, 1), 1)
    assert sum(Decimal(repr(one)) for one in model.charges.tolist()) == 1
    for atoms in found.classes:
        own = [
            sorted(charge for charge, frame in zip(model.charges.tolist(), model.frames, strict=True) if frame[0] == a)
            for a in atoms
        ]
        # Where no six decimals sum to 1 e, single charges differ in the last one.
        np.testing.assert_allclose(own, [own[0]] * len(own), atol=1.1e-6)


def test_rounded_charges_sum_exactly_and_stay_equal_where_they_can() -> None:
    random = np.random.default_rng(0)
    for total in (-1, 0, 2):
        for _ in range(50):
            counts = random.integers(1, 13, size=random.integers(1, 6)).tolist()
            charges = random.normal(size=len(counts))
            charges += (total - charges @ counts) / sum(counts)
            found = rounded_charges(charges, counts, total)
            assert sum(Decimal(repr(one)) for one in found.tolist()) == total
            ends = np.cumsum([0, *counts])
            spreads = [np.ptp(found[a:b]) for a, b in itertools.pairwise(ends)]
            can = total * 10**6 % int(np.gcd.reduce(counts)) == 0
            assert max(spreads) <= (0.0 if can else 1.1e-6)
            np.testing.assert_allclose(found, np.repeat(charges, counts), atol=2e-5)


def test_frames_are_of_bonded_atoms_and_never_near_a_line() -> None:
    for name, atom, expected in (
        ("CO2", 0, 2),
        ("CO2", 1, 2),
        ("C2H2", 2, 2),
        ("CH3CN", 2, 2),
        ("CH3CN", 1, 3),
        ("H2O", 0, 3),
        ("CH3OH", 1, 3),
        ("H", 0, 1),
    ):
        found = symmetry(name)
        frame = choose_frame(found, atom, found.positions[None])
        assert len(frame) == expected, (name, frame)
        assert frame[0] == atom
        assert len(frame) < 2 or frame[1] in found.neighbours[atom]
        assert len(frame) < 3 or frame[2] in {*found.neighbours[atom], *found.neighbours[frame[1]]}
    # A sample in which the only angle is open leaves two atoms.
    found = symmetry("H2O")
    line = found.positions.copy()
    line[1:] = line[0] + np.array([[0, 0, 0.96], [0, 0.05, -0.96]])
    assert len(choose_frame(found, 0, np.stack([found.positions, line]))) == 2

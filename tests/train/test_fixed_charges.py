"""Constant charges in local frames: symmetry against brute force, derivatives against differences, known charges."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from scipy import optimize
from scipy.spatial.transform import Rotation

from shared.elements import MASSES
from shared.errors import UserError
from shared.geometry import distances_and_bonds
from train.fixed_charges.charge_errors import Charges, measure
from train.fixed_charges.charge_model import ChargeModel, Kernel, charge_model_from_json, pair_distances
from train.fixed_charges.fitting import fit_molecule
from train.fixed_charges.frames import read_geometries
from train.fixed_charges.geometries import thermal_geometries, thermal_trajectory
from train.fixed_charges.kernels import Surroundings, fit_kernel, with_whole_frames
from train.fixed_charges.orbit_fit import Fitted, Target, fit_orbits, least_squares, potential
from train.fixed_charges.pruning import Stage, choose_stage, count, first_orbits, fit_nuclear_charges, prune, rmse_of
from train.fixed_charges.site_orbits import SiteOrbit, as_model, rounded_charges, site_orbit
from train.fixed_charges.symmetry import Symmetry, automorphism_generators, choose_frame, point_group, symmetry_of
from train.fixed_charges.user_charges import read_charges

COULOMB = 332.0637  # kcal/mol·Å/e², CODATA 2018


def symmetry(name: str) -> Symmetry:
    atoms = molecule(name)
    return symmetry_of(atoms.numbers, atoms.positions)


def shaken(of: Symmetry, count: int, seed: int = 0, size: float = 0.05) -> np.ndarray:
    random = np.random.default_rng(seed)
    return of.positions + size * random.normal(size=(count, *of.positions.shape))


def points_around(geometries: np.ndarray, count: int = 60) -> np.ndarray:
    """Random directions, 3 to 4 Å beyond the atoms' mean."""
    random = np.random.default_rng(9)
    arms = random.normal(size=(len(geometries), count, 3))
    radii = random.uniform(3.0, 4.5, size=(len(geometries), count, 1))
    return geometries.mean(axis=1)[:, None] + radii * arms / np.linalg.norm(arms, axis=-1, keepdims=True)


def target_of(model: ChargeModel, geometries: np.ndarray) -> Target:
    points = points_around(geometries)
    return Target(geometries, points, potential(model.charges, model.sites(geometries), points))


def all_kinds(of: Symmetry, total_charge: int = 0) -> list[SiteOrbit]:
    """A site of each freedom at every class of atoms, with charges of no symmetry."""
    random = np.random.default_rng(4)
    found = []
    for atoms in of.classes:
        frame = choose_frame(of, atoms[0], of.positions[None])
        for freedom in range(4 if len(frame) > 2 else len(frame)):
            local = random.uniform(-0.4, 0.4, 3)
            found.append(site_orbit(of, frame, freedom, random.normal(), local))  # type: ignore[arg-type]
    total = sum(orbit.charge * len(orbit.images) for orbit in found) - total_charge
    return [replace(orbit, charge=orbit.charge - total / count(found)) for orbit in found]


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


def with_a_kernel(model: ChargeModel, seed: int = 1) -> ChargeModel:
    random = np.random.default_rng(seed)
    known = pair_distances(model.positions + 0.05 * random.normal(size=(5, *model.positions.shape)))
    thirds = tuple(
        next(iter({*range(len(model.positions))} - {*frame}), None) if len(frame) == 2 else None
        for frame in model.frames
    )
    return replace(model, kernel=Kernel(known, 0.3, 0.1 * random.normal(size=(5, len(model.charges), 3)), thirds))


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "H"])
def test_derivatives_of_sites_are_those_of_finite_differences(name: str) -> None:
    found = symmetry(name)
    model = as_model(found, all_kinds(found), 0)
    (geometry,) = shaken(found, 1)
    for one in (model, with_a_kernel(model)) if len(geometry) > 1 else (model,):
        steps = 1e-5 * np.eye(geometry.size).reshape(-1, *geometry.shape)
        expected = (one.sites(geometry + steps) - one.sites(geometry - steps)) / 2e-5
        expected = np.moveaxis(expected.reshape(*geometry.shape, -1, 3), (0, 1), (2, 3))
        np.testing.assert_allclose(one.site_derivatives(geometry), expected, atol=1e-8)
        # A translation moves all sites with it.
        moved = one.site_derivatives(geometry).sum(axis=2)
        np.testing.assert_allclose(moved, np.broadcast_to(np.eye(3), moved.shape), atol=1e-10)


def test_a_model_comes_back_from_json() -> None:
    found = symmetry("CH3OH")
    model = with_a_kernel(as_model(found, all_kinds(found), 0))
    again = charge_model_from_json(model.as_json())
    (geometry,) = shaken(found, 1)
    np.testing.assert_allclose(again.sites(geometry), model.sites(geometry), rtol=0, atol=1e-14)
    assert again.frames == model.frames
    # As it was written before kernels had third atoms.
    record = model.as_json()
    del record["kernel"]["thirds"]
    assert model.kernel
    older = replace(model, kernel=replace(model.kernel, thirds=(None,) * len(model.charges)))
    np.testing.assert_allclose(charge_model_from_json(record).sites(geometry), older.sites(geometry), atol=1e-14)


@pytest.mark.parametrize("name", ["H2O", "CH3OH", "CO2"])
def test_the_esp_turns_with_the_molecule_and_does_not_know_equivalent_atoms_apart(name: str) -> None:
    """Of kernels too, which a fit makes symmetric; a methyl group's turn is among the permutations."""
    found = symmetry(name)
    orbits = all_kinds(found)
    geometries = shaken(found, 6)
    target = target_of(with_a_kernel(as_model(found, orbits, 0)), geometries)
    whole = as_model(found, with_whole_frames(orbits, found, geometries), 0)
    with_kernels = fit_kernel(whole, found, [Surroundings(*one) for one in zip(*target, strict=True)])
    assert with_kernels
    (geometry,) = shaken(found, 1, seed=5)
    points = points_around(geometry[None])[0]
    for model in (as_model(found, orbits, 0), with_kernels):
        expected = potential(model.charges, model.sites(geometry), points)
        turn = Rotation.random(random_state=0).as_matrix()
        turned = potential(model.charges, model.sites(geometry @ turn.T + 3.0), points @ turn.T + 3.0)
        np.testing.assert_allclose(turned, expected, rtol=1e-8)
        motions = [(operation.image, operation.sign) for operation in found.operations if operation.sign]
        if name == "CH3OH":
            motions.append(((0, 1, 4, 3, 5, 2), 1))
        for image, sign in motions:
            mirror = np.array([1, 1, sign])
            exchanged = np.empty_like(geometry)
            exchanged[list(image)] = geometry * mirror
            other = potential(model.charges, model.sites(exchanged), points * mirror)
            np.testing.assert_allclose(other, expected, rtol=1e-6, atol=1e-6)


def known_water() -> tuple[Symmetry, list[SiteOrbit]]:
    """A charge at each hydrogen and two beside the oxygen, in the plane."""
    water = symmetry("H2O")
    orbits = [
        site_orbit(water, (1,), 0, 0.4, np.zeros(3)),
        site_orbit(water, (0, 1, 2), 2, -0.4, np.array([0.05, 0.3, 0.0])),
    ]
    return water, orbits


def test_a_known_model_comes_back_from_its_own_esp() -> None:
    water, orbits = known_water()
    target = target_of(as_model(water, orbits, 0), shaken(water, 8))
    start = [replace(orbit, charge=0.1, local=0.5 * orbit.local) for orbit in orbits]
    found = fit_orbits(start, target, water.atomic_numbers, 0)
    assert found.rmse < 0.02  # the penalties'
    for one, other in zip(found.orbits, orbits, strict=True):
        assert one.charge == pytest.approx(other.charge, abs=5e-3)
        np.testing.assert_allclose(one.local, other.local, atol=0.01)


def test_fits_keep_their_bounds_and_the_charge_of_the_molecule() -> None:
    """Of sites that lie farther away than charges may."""
    water, orbits = known_water()
    far = as_model(water, [orbits[0], replace(orbits[1], local=np.array([0.5, 1.5, 0.0]))], 0)
    target = target_of(replace(far, charges=far.charges + 0.25), shaken(water, 3))
    found = fit_orbits(orbits, target, water.atomic_numbers, 1)
    assert sum(orbit.charge * len(orbit.images) for orbit in found.orbits) == pytest.approx(1.0, abs=1e-9)
    assert np.linalg.norm(found.orbits[1].local) <= 0.5 * 1.5  # half the radius of oxygen


def test_charges_are_left_out_until_the_known_ones_remain() -> None:
    water, orbits = known_water()
    model = as_model(water, orbits, 0)
    geometries = shaken(water, 10)
    target, held_out = (target_of(model, part) for part in (geometries[:8], geometries[8:]))
    # A network with two charges at each atom, which are not the known ones.
    charges = np.tile(np.array([[-0.5, -0.3], [0.3, 0.1], [0.3, 0.1]]), (8, 1, 1))
    offsets = 0.05 * np.random.default_rng(0).normal(size=(1, 3, 2, 3))
    start = first_orbits(water, geometries[:8], charges, geometries[:8, :, None] + offsets)
    stages = prune(start, water, target, held_out, 0)
    counts = [stage.charges for stage in stages]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[0] == count(stages[0].orbits) > 10
    assert min(stage.held_out_rmse for stage in stages if stage.charges <= 6) < 0.05
    assert choose_stage(stages, None, 0.05).charges <= 6
    # Nearly monotone, until charges are missing.
    errors = [stage.rmse for stage in stages]
    assert all(after > 0.5 * before - 0.02 for before, after in itertools.pairwise(errors))
    nuclei = fit_nuclear_charges(water, target, 0)
    assert count(nuclei) == 3
    assert rmse_of(nuclei, held_out) > 5.0 * choose_stage(stages, None, 0.05).held_out_rmse


@pytest.mark.parametrize(("name", "charge", "charges"), [("H", 1, 1), ("C2H2", 0, 4)])
def test_an_atom_and_a_line_of_atoms(name: str, charge: int, charges: int) -> None:
    """Of a network that puts all charge on the nuclei."""
    found = symmetry(name)
    geometries = shaken(found, 8, size=0.02) if len(found.positions) > 1 else np.tile(found.positions, (8, 1, 1))
    values = np.where(found.atomic_numbers == 1, 0.2, -0.2)
    values += (charge - values.sum()) / len(values)
    fitted = fit_molecule(found, geometries, np.tile(values[:, None], (8, 1, 1)), geometries[:, :, None], charge)
    assert len(fitted.model.charges) == charges
    assert fitted.model.charges.sum() == pytest.approx(charge)
    assert max(one.esp_rmse_kcal_per_mol_e for one in fitted.errors) < 0.01


def test_a_budget_that_cannot_be_met_shows_what_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    found = symmetry("H2")
    geometries = shaken(found, 5)
    charges, sites = np.tile([[0.1], [-0.1]], (5, 1, 1)), geometries[:, :, None] + 0.1
    with pytest.raises(UserError, match=r"--esp-budget 1e-09: the least error"):
        fit_molecule(found, geometries, charges, sites, 0, budget=1e-9, kernels=False)
    assert re.search(r"charges +ESP RMSE.*\n +\d+ +\d\.\d{3}", capsys.readouterr().out)


def test_a_longer_fit_that_is_worse_on_held_out_geometries_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(orbits: tuple[SiteOrbit, ...], *_: object) -> Fitted:
        return Fitted(tuple(replace(orbit, charge=1.1 * orbit.charge) for orbit in orbits), 0.0)

    monkeypatch.setattr("train.fixed_charges.fitting.fit_orbits", worse)
    found = symmetry("HCl")
    geometries = shaken(found, 8, size=0.02)
    charges = np.where(found.atomic_numbers == 1, 0.2, -0.2)
    fitted = fit_molecule(found, geometries, np.tile(charges[:, None], (8, 1, 1)), geometries[:, :, None], 0)
    assert max(one.esp_rmse_kcal_per_mol_e for one in fitted.errors) < 0.01


def test_the_wanted_number_of_charges() -> None:
    orbits = known_water()[1]
    stages = [
        Stage(tuple(orbits[:1]) * n, 0.1, error) for n, error in ((6, 0.1), (5, 0.105), (4, 0.2), (3, 0.3), (1, 2.0))
    ]
    assert choose_stage(stages, None, None).charges == 10
    assert choose_stage(stages, 8, None).charges == 8
    assert choose_stage(stages, None, 0.35).charges == 6
    with pytest.raises(UserError, match=r"--max-charges 1: at least 2"):
        choose_stage(stages, 1, None)
    with pytest.raises(UserError, match=r"--esp-budget 0\.05: the least error .* is 0\.1 kcal/mol/e, with 12 charges"):
        choose_stage(stages, None, 0.05)


def test_kernels_follow_sites_that_move_with_the_geometry() -> None:
    """Charges beside the hydrogens, whose distance grows with the bond."""
    water, orbits = known_water()
    model = as_model(water, [orbits[1], site_orbit(water, (1, 0, 2), 2, 0.4, np.array([0.1, 0.1, 0.0]))], 0)
    geometries = shaken(water, 50, size=0.04)
    stretched = pair_distances(geometries)[:, :2] - pair_distances(water.positions)[:2]
    sites = model.sites(geometries)
    hydrogens = [place for place, frame in enumerate(model.frames) if frame[0] > 0]
    for place in hydrogens:
        atom = model.frames[place][0]
        away = geometries[:, atom] - geometries[:, 0]
        sites[:, place] += stretched[:, atom - 1, None] * away
    points = points_around(geometries)
    around = [
        Surroundings(*one) for one in zip(geometries, points, potential(model.charges, sites, points), strict=True)
    ]
    found = fit_kernel(model, water, around[:40])
    assert found
    assert mean_error(found, around[40:]) < 0.2 * mean_error(model, around[40:])


def test_kernels_follow_a_bend_away_from_the_line() -> None:
    """Charges between the atoms of CO2 that stay behind where it bends, on the chord."""
    found = symmetry("CO2")
    orbits = [
        site_orbit(found, (0, 1), 1, 0.4, np.array([0.6, 0.0, 0.0])),
        site_orbit(found, (1,), 0, -0.4, np.zeros(3)),
    ]
    model = as_model(found, orbits, 0)
    geometries = shaken(found, 50, size=0.1)
    sites = model.sites(geometries)
    carbon, *oxygens = geometries.swapaxes(0, 1)
    for place, frame in enumerate(model.frames):
        if len(frame) == 2:
            sites[:, place] += 0.3 * (oxygens[0] + oxygens[1] - 2.0 * carbon)
    points = points_around(geometries)
    esp = potential(model.charges, sites, points)
    around = [Surroundings(*one) for one in zip(geometries, points, esp, strict=True)]
    whole = as_model(found, with_whole_frames(orbits, found, geometries), 0)
    bent = fit_kernel(whole, found, around[:40])
    assert bent
    assert mean_error(bent, around[40:]) < 0.1 * mean_error(model, around[40:])
    # A single geometry, and copies of one that are turned, give no kernel.
    turn = Rotation.random(random_state=0).as_matrix()
    turned = Surroundings(geometries[0] @ turn.T, points[0] @ turn.T, esp[0])
    for same in (around[:1], [around[0], turned]):
        assert fit_kernel(whole, found, same) is None


def mean_error(model: ChargeModel, around: Sequence[Surroundings]) -> float:
    errors = [potential(model.charges, model.sites(one.geometry), one.points) - one.esp for one in around]
    return float(np.sqrt(np.mean(np.square(errors))))


def test_errors_are_those_of_sums() -> None:
    """Of two charges and their network, written out."""
    numbers, geometries = np.array([9, 1]), np.array([[[0, 0, 0], [0, 0, 0.92]], [[0, 0, 0], [0, 0, 1.0]]], float)
    points = [np.array([[0, 0, 2.6], [0, 1.89, 0]]), np.array([[0, 0, 2.68]])]
    mine = Charges("mine", np.array([-0.4, 0.4]), geometries)
    network = Charges("network", np.array([[-0.5, 0.5], [-0.6, 0.6]]), geometries)
    esp = [potential(one, at, p) for one, at, p in zip(network.values, geometries, points, strict=True)]
    found = measure(mine, network, numbers, geometries, points, esp)
    axial = COULOMB * np.array([0.1 * (1 / 1.68 - 1 / 2.6), 0.2 * (1 / 1.68 - 1 / 2.68)])
    beside = COULOMB * 0.1 * (1 / np.hypot(1.89, 0.92) - 1 / 1.89)
    expected = np.sqrt(np.mean([*axial**2, beside**2]))
    assert found.esp_rmse_kcal_per_mol_e == pytest.approx(expected, rel=1e-5)
    assert found.by_element == pytest.approx({"H": np.sqrt(np.mean(axial**2)), "F": abs(beside)}, rel=1e-5)
    assert found.by_shell == pytest.approx({"1.4": expected}, rel=1e-5)
    dipoles = np.array([0.1 * 0.92, 0.2 * 1.0])
    assert found.dipole_rmse_debye == pytest.approx(np.sqrt(np.mean(dipoles**2)) * 4.80320, rel=1e-5)
    share = MASSES[9] / MASSES[[9, 1]].sum()
    second = dipoles * np.array([0.92, 1.0]) * (share**2 - (1 - share) ** 2)  # Σ q z² about the centre of mass
    components = second**2 * (1 + 0.25 + 0.25) / 9
    assert found.quadrupole_rmse_e_angstrom2 == pytest.approx(np.sqrt(np.mean(components)), rel=1e-5)
    assert (found.largest_charge_e, found.shortest_distance_angstrom) == (0.4, 0.92)


def test_thermal_geometries_have_the_spread_of_their_modes() -> None:
    """A diatomic molecule whose bond is the only mode: ⟨x²⟩ = kT/k, classical."""
    atoms = molecule("N2")
    stiffness = 20.0
    axis = (atoms.positions[1] - atoms.positions[0]) / np.linalg.norm(atoms.positions[1] - atoms.positions[0])
    block = stiffness * np.outer(axis, axis)
    hessian = np.block([[block, -block], [-block, block]])
    found = thermal_geometries(atoms, hessian, 4000, 300.0, "classical", 0)
    lengths = pair_distances(found)[:, 0]
    assert lengths.mean() == pytest.approx(pair_distances(atoms.positions)[0], abs=2e-3)
    assert lengths.var() == pytest.approx(8.617333e-5 * 300.0 / stiffness, rel=0.06)
    np.testing.assert_array_equal(found[:5], thermal_geometries(atoms, hessian, 4000, 300.0, "classical", 0)[:5])


class Spring(Calculator):
    """A harmonic bond between two atoms, 20 eV/Å²."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]
    length = 1.1

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        arm = atoms.positions[1] - atoms.positions[0]
        stretch = np.linalg.norm(arm) - self.length
        pull = 20.0 * stretch * arm / np.linalg.norm(arm)
        self.results = {"energy": 10.0 * stretch**2, "forces": np.array([pull, -pull])}


def test_a_trajectory_has_the_spread_of_its_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """⟨x²⟩ = kT/k, as of normal modes; which geometries come first is left to chance."""
    monkeypatch.setattr("train.fixed_charges.geometries._FRICTION_PER_FS", 0.1)
    monkeypatch.setattr("train.fixed_charges.geometries._FIRST_PS", 0.05)
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, Spring.length]], calculator=Spring())
    found = thermal_trajectory(atoms, 1.5, 300, 300.0, 0)
    lengths = pair_distances(found)[:, 0]
    assert lengths.mean() == pytest.approx(Spring.length, abs=0.01)
    assert lengths.var() == pytest.approx(8.617333e-5 * 300.0 / 20.0, rel=0.3)
    # The molecule has drifted, and the order is not that of time.
    places = found.mean(axis=1)
    assert np.abs(np.corrcoef(places[:-1, 0], places[1:, 0])[0, 1]) < 0.2
    assert np.linalg.norm(places, axis=1).max() > 0.1
    first, again = (thermal_trajectory(atoms, 0.02, 5, 300.0, 1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(UserError, match=r"--md-ps 0\.001: 2 steps of 0\.5 fs are fewer than --samples 3"):
        thermal_trajectory(atoms, 0.001, 3, 300.0, 0)
    with pytest.raises(UserError, match=r"--temperature 100000 the molecule falls apart"):
        thermal_trajectory(atoms, 0.1, 5, 1e5, 0)


MOL2 = """@<TRIPOS>MOLECULE
water
3 2
SMALL
USER_CHARGES
@<TRIPOS>ATOM
1 O 0.0 0.0 0.0 o 1 WAT -0.80
2 H1 0.0 0.0 1.0 h 1 WAT 0.40
3 H2 0.0 1.0 0.0 h 1 WAT 0.40
@<TRIPOS>BOND
1 1 2 1
"""
CHARMM = "RESI TIP3 0.0\nGROUP\nATOM OH2 OT -0.80 ! oxygen\nATOM H1 HT 0.40\nATOM H2 HT 0.40\nBOND OH2 H1\n"


@pytest.mark.parametrize("text", [MOL2, CHARMM, "atom,charge\nO,-0.8\nH,0.4\nH,0.4\n"])
def test_a_users_charges_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine").write_text(text)
    np.testing.assert_allclose(read_charges(str(tmp_path / "mine"), 3, 0.0), [-0.8, 0.4, 0.4])


@pytest.mark.parametrize(
    ("text", "atoms", "message"),
    [
        ("atom,value\nO,1\n", 1, "no charges found"),
        ("ATOM OH2 OT much\n", 1, "no charges found"),
        (MOL2, 4, "3 charges, but the molecule has 4 atoms"),
        ("atom,charge\nO,-0.8\nH,0.4\nH,0.9\n", 3, r"sum to 0\.5 e"),
        ("atom,charge\nO,nan\n", 1, "sum to nan"),
    ],
)
def test_a_file_that_has_no_such_charges(tmp_path: Path, text: str, atoms: int, message: str) -> None:
    (tmp_path / "mine").write_text(text)
    with pytest.raises(UserError, match=message) as told:
        read_charges(str(tmp_path / "mine"), atoms, 0.0)
    assert "\n" not in str(told.value)


def test_a_missing_file_of_charges(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--compare .*none: No such file"):
        read_charges(str(tmp_path / "none"), 3, 0.0)


def test_frames_and_their_esp_are_read_from_npz(tmp_path: Path) -> None:
    """Padding, points inside the atoms and points that fill rows are left out; the ESP is converted."""
    atoms = molecule("CO2")
    random = np.random.default_rng(0)
    geometries = atoms.positions + 0.02 * random.normal(size=(8, 3, 3))
    grid = np.full((8, 30, 3), 1e6)
    grid[:, :20] = points_around(geometries, 20)
    grid[:, 3] = geometries[:, 0] + 0.5  # inside the carbon atom
    esp = random.normal(size=(8, 30))
    padded = np.zeros((8, 5, 3))
    padded[:, :3] = geometries
    arrays = {"R": padded, "Z": np.tile([*atoms.numbers, 0, 0], (8, 1)), "N": np.full(8, 3)}
    counts = np.arange(19, 27)  # of the last ones, some fill the row
    np.savez(tmp_path / "esp.npz", **arrays, vdw_surface=grid, esp=esp, n_grid=counts)
    found = read_geometries(str(tmp_path / "esp.npz"), 6, 0)
    assert found.points is not None
    assert found.esp is not None
    assert found.geometries.shape == (6, 3, 3)
    np.testing.assert_array_equal(found.atoms.numbers, atoms.numbers)
    for geometry, points, values in zip(found.geometries, found.points, found.esp, strict=True):
        (row,) = np.flatnonzero(np.abs(geometries - geometry).max(axis=(1, 2)) < 1e-12)
        kept = [at for at in range(min(counts[row], 20)) if at != 3]
        np.testing.assert_array_equal(points, grid[row, kept])
        np.testing.assert_allclose(values, esp[row, kept] * 627.5095, rtol=1e-6)
    assert found.atoms.info["charge"] == 0.0
    np.savez(tmp_path / "ions.npz", **arrays, vdw_surface=grid, esp=esp, Q=np.full(8, -1.0))
    assert read_geometries(str(tmp_path / "ions.npz"), 6, 0).atoms.info["charge"] == -1.0
    np.savez(tmp_path / "two.npz", **arrays, vdw_surface=grid, esp=esp, Q=np.arange(8) // 5)
    with pytest.raises(UserError, match=r"two\.npz, frame 5: total charge 1 e, but that of frame 0 is 0 e"):
        read_geometries(str(tmp_path / "two.npz"), 6, 0)
    with pytest.raises(UserError, match=r"two\.npz@9: 0 frames"):
        read_geometries(str(tmp_path / "two.npz@9"), 6, 0)
    np.savez(tmp_path / "none.npz", vdw_surface=grid, esp=esp)
    with pytest.raises(UserError, match=r"none\.npz: no geometries"):
        read_geometries(str(tmp_path / "none.npz"), 6, 0)


def test_least_squares_are_those_of_scipy() -> None:
    """A decay, whose rate would be beyond its limit, and a wave."""
    times, wanted = np.linspace(0.0, 3.0, 200), np.array([1.0, 2.5, 0.7, 3.0])
    limits = np.array([np.inf, 2.0, np.inf, 5.0])

    def model(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[0] * np.exp(-values[1] * times) + values[2] * np.sin(values[3] * times))

    def evaluate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decay, phase = np.exp(-values[1] * times), values[3] * times
        slopes = [decay, -values[0] * times * decay, np.sin(phase), values[2] * times * np.cos(phase)]
        return model(values) - model(wanted), np.stack(slopes, axis=1)

    start = np.array([0.5, 1.0, 0.3, 2.7])
    expected = optimize.least_squares(lambda values: evaluate(values)[0], start, bounds=(-limits, limits), xtol=1e-12)
    found = least_squares(evaluate, start, limits, 50)
    np.testing.assert_allclose(found, expected.x, rtol=1e-2)
    assert found[1] == limits[1]

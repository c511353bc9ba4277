"""Files for GROMACS: sites and charges as its manual has them, by a reader of its own and by OpenMM's."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from shared.errors import UserError
from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import Itp
from train.fixed_charges.gromacs_files import gromacs_itp, largest_departure
from train.fixed_charges.parameters import Angle, Bond, BondedTerms, LennardJones

MODELS = {"H2O": hand_made.water(), "CO2": hand_made.carbon_dioxide(), "C3H8": hand_made.propane()}
GRID = np.random.default_rng(3).uniform(4.0, 6.0, (20, 3))


def potential(charges: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """ESP at points far outside, in e/Å."""
    return (charges / np.linalg.norm(GRID[:, None] - sites, axis=-1)).sum(axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_the_molecule_type_has_the_models_potential(name: str) -> None:
    model = MODELS[name]
    molecule_type = Itp(gromacs_itp(model, "MOL"))
    particles = molecule_type.positions(model.positions)
    np.testing.assert_allclose(particles[: len(model.positions)], model.positions)
    expected = potential(model.charges, model.sites(model.positions))
    np.testing.assert_allclose(potential(molecule_type.charges, particles), expected, rtol=1e-7, atol=1e-9)
    excluded = [list(map(int, row)) for row in molecule_type.sections["exclusions"]]
    pairs = {frozenset((first, other)) for first, *others in excluded for other in others}
    n = len(particles)
    assert pairs == {frozenset(pair) for pair in itertools.combinations(range(1, n + 1), 2)}
    # Sites are massless particles of kind V, without an interaction of their own.
    kinds = {row[0]: row[1:] for row in molecule_type.sections["atomtypes"]}
    for row in molecule_type.sections["atoms"][len(model.positions) :]:
        assert (float(row[7]), kinds[row[1]][3], float(kinds[row[1]][5])) == (0.0, "V", 0.0)


@pytest.mark.parametrize("name", MODELS)
def test_sites_leave_their_frames_by_as_much_as_is_said(name: str) -> None:
    """Not at all on the line of two atoms, whatever the geometry; nor by a turn of the molecule."""
    model = MODELS[name]
    molecule_type = Itp(gromacs_itp(model, "MOL"))
    off = [len(frame) > 1 for frame in model.frames]
    geometries = hand_made.bent(model, 20)
    sites = np.stack([molecule_type.positions(geometry) for geometry in geometries])[:, len(model.positions) :]
    departures = np.linalg.norm(sites - model.sites(geometries)[:, off], axis=-1)
    assert largest_departure(model, geometries) == pytest.approx(departures.max(), abs=1e-8)
    assert (departures.max() < 1e-8) == (name == "CO2")
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert largest_departure(model, (model.positions @ (turn * np.linalg.det(turn)))[None] + 3.0) < 1e-9


def test_a_kernel_is_left_out_and_counted() -> None:
    model = hand_made.with_kernel(MODELS["CO2"])
    molecule_type = Itp(gromacs_itp(model, "MOL"))
    off = [len(frame) > 1 for frame in model.frames]
    here = molecule_type.positions(model.positions)[len(model.positions) :]
    np.testing.assert_allclose(here, model.sites(model.positions)[off], atol=1e-9)
    geometries = hand_made.bent(model, 20)
    sites = np.stack([molecule_type.positions(geometry) for geometry in geometries])[:, len(model.positions) :]
    departure = np.linalg.norm(sites - model.sites(geometries)[:, off], axis=-1).max()
    assert largest_departure(model, geometries) == pytest.approx(departure, abs=1e-8)
    assert departure > 1e-3


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # which OpenMM leaves open
def test_openmms_reader_of_gromacs_files_finds_the_same(tmp_path: Path) -> None:
    """Of sites 3out, which it knows; two molecules interact as the model's charges do."""
    model = hand_made.random_model("H2O", ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1), (2,)))
    bonded = BondedTerms((Bond(0, 1, 0.095, 4e5), Bond(0, 2, 0.096, 5e5)), (Angle(1, 0, 2, 104.0, 400.0),))
    parameters = LennardJones(np.array([0.32, 0.1, 0.1]), np.array([0.6, 0.0, 0.0]))
    topology = "[ defaults ]\n1 2 no 1.0 1.0\n\n" + gromacs_itp(model, "MOL", parameters, bonded)
    (tmp_path / "box.top").write_text(topology + "\n[ system ]\nwater\n\n[ molecules ]\nMOL 2\n")
    system = app.GromacsTopFile(str(tmp_path / "box.top")).createSystem()
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    first, second = model.positions, model.positions + np.array([3.0, 1.0, 0.5])
    sites = np.full((4, 3), np.nan)
    context.setPositions(0.1 * np.vstack([first, sites, second, sites]))
    context.computeVirtualSites()
    state = context.getState(positions=True, energy=True)
    found = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(found[3:7], model.sites(first)[:4], atol=1e-7)
    np.testing.assert_allclose(found[10:], model.sites(second)[:4], atol=1e-7)
    apart = model.sites(first)[:, None] - model.sites(second)[None]
    energy = 1389.35457644382 * (np.outer(model.charges, model.charges) / np.linalg.norm(apart, axis=-1)).sum()
    ratio = (3.2 / np.linalg.norm(first[0] - second[0])) ** 6
    energy += 4.0 * 0.6 * (ratio**2 - ratio)
    length = 0.1 * np.linalg.norm(first[0] - first[1])
    angle = np.degrees(2.0 * np.arcsin(0.05 * np.linalg.norm(first[1] - first[2]) / length))
    inside = 2e5 * (length - 0.095) ** 2 + 2.5e5 * (length - 0.096) ** 2 + 200.0 * np.radians(angle - 104.0) ** 2
    assert state.getPotentialEnergy()._value == pytest.approx(energy + 2.0 * inside, rel=1e-6)


def test_constraints_are_those_of_a_rigid_molecule() -> None:
    water = MODELS["H2O"]
    rows = Itp(gromacs_itp(water, "MOL", bonded="rigid")).sections["constraints"]
    for i, j, kind, distance in rows:
        apart = water.positions[int(i) - 1] - water.positions[int(j) - 1]
        assert (kind, float(distance)) == ("1", pytest.approx(0.1 * np.linalg.norm(apart), abs=1e-9))
    assert len(rows) == 3
    with pytest.raises(UserError, match="do not keep it rigid"):
        gromacs_itp(MODELS["C3H8"], "MOL", bonded="rigid")

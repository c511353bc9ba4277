"""Files for GROMACS: sites and charges as its manual has them, by a reader of its own and by OpenMM's."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from shared.errors import UserError
from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import Itp
from train.fixed_charges.charge_model import ChargeModel, at_nuclei
from train.fixed_charges.gromacs_files import gromacs_itp, largest_departure
from train.fixed_charges.parameters import Angle, Bond, Bonded, BondedTerms, LennardJones

MODELS = {"H2O": hand_made.water(), "CO2": hand_made.carbon_dioxide(), "C3H8": hand_made.propane()}
ARGON = at_nuclei(np.array([18]), np.zeros((1, 3)), np.zeros((0, 2), np.int64), 0)
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


def test_molecules_without_bonded_terms_are_connected() -> None:
    """GROMACS refuses exclusions where nothing is bonded, and a section of them without a line."""
    itp = Itp(gromacs_itp(MODELS["C3H8"], "MOL"))
    assert [row[2] for row in itp.sections["bonds"]] == ["5"] * 10
    lines = gromacs_itp(ARGON, "MOL").splitlines()
    assert not {"[ bonds ]", "[ exclusions ]"} & {*lines}


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


RUN = """
integrator = md
continuation = yes
nsteps = 0
nstxout = 1
nstfout = 1
nstenergy = 1
verlet-buffer-tolerance = -1
rlist = 4.9
rcoulomb = 4.8
rvdw = 4.8
coulombtype = cut-off
epsilon-rf = 1
"""
"""One step; the potential is shifted to zero at the cutoff, of which neutral molecules see nothing."""


def gromacs(folder: Path, program: str, *words: str, typed: str = "") -> str:
    command = ["gmx_d", "-nobackup", "-quiet", program, *words]
    done = subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("gmx_d") is None, reason="GROMACS in double precision (gmx_d) is not installed here")
@pytest.mark.parametrize(
    ("model", "bonded"),
    [
        (MODELS["H2O"], "rigid"),
        (MODELS["CO2"], BondedTerms((Bond(0, 1, 0.118, 4e5), Bond(0, 2, 0.118, 4e5)), (Angle(1, 0, 2, 180.0, 300.0),))),
        (MODELS["C3H8"], None),
        (ARGON, None),
        (at_nuclei(np.array([11, 17]), np.array([[0.0, 0, 0], [4.0, 0, 0]]), np.zeros((0, 2), np.int64), 0), None),
    ],
    ids=["H2O", "CO2", "C3H8", "Ar", "Na Cl"],
)
def test_gromacs_itself_finds_the_same(tmp_path: Path, model: ChargeModel, bonded: Bonded) -> None:
    """The Coulomb energy of two molecules, where their sites are, and what these pass on to the atoms."""
    text = gromacs_itp(model, "MOL", bonded=bonded)
    molecule_type = Itp(text)
    topology = f"[ defaults ]\n1 2 no 1.0 1.0\n\n{text}\n[ system ]\ntwo\n\n[ molecules ]\nMOL 2\n"
    molecules = np.array([model.positions, model.positions + np.array([3.0, 1.0, 0.5])])
    # Sites begin beside their places.
    n, particles = len(model.positions), len(molecule_type.sections["atoms"])
    begin = np.concatenate([molecules, np.repeat(molecules[:, :1] + 0.5, particles - n, axis=1)], axis=1).reshape(-1, 3)
    lines = [
        f"{row // particles + 1:5d}MOL  {'X':>5}{row + 1:5d}" + "".join(f"{value:17.12f}" for value in place)
        for row, place in enumerate(0.1 * begin + 5.0)
    ]
    (tmp_path / "two.gro").write_text("\n".join(["two", str(len(lines)), *lines, "10.0 10.0 10.0"]) + "\n")
    (tmp_path / "two.top").write_text(topology)
    (tmp_path / "two.mdp").write_text(RUN)
    # Names of atoms differ from the topology's: one warning.
    gromacs(tmp_path, "grompp", *["-f", "two.mdp", "-c", "two.gro", "-p", "two.top", "-o", "two.tpr", "-maxwarn", "1"])
    gromacs(tmp_path, "mdrun", "-deffnm", "two", "-nt", "1")
    gromacs(tmp_path, "energy", *["-f", "two.edr", "-o", "two.xvg", "-dp"], typed="Coulomb-(SR)\n\n")
    dumped = gromacs(tmp_path, "dump", "-f", "two.trr")

    def energy(positions: np.ndarray) -> float:
        first, second = (molecule_type.positions(one) for one in positions)
        apart = np.linalg.norm(first[:, None] - second, axis=-1)
        return float(1389.35457644382 * (molecule_type.charges[:, None] * molecule_type.charges / apart).sum())

    found = float((tmp_path / "two.xvg").read_text().split()[-1])
    assert found == pytest.approx(energy(molecules), rel=1e-9, abs=1e-9)
    vectors = re.findall(r"\{(.*?)\}", dumped.split(" x (", 1)[1])
    x, f = np.array([[float(value) for value in row.split(",")] for row in vectors]).reshape(2, 2, particles, 3)
    np.testing.assert_allclose(x, 0.1 * np.stack([*map(molecule_type.positions, molecules)]) + 5.0, atol=1e-5)
    if bonded is None:
        steps = 1e-5 * np.eye(molecules.size).reshape(-1, *molecules.shape)
        slopes = [(energy(molecules + step) - energy(molecules - step)) / 2e-5 for step in steps]
        np.testing.assert_allclose(f[:, :n], -10.0 * np.array(slopes).reshape(molecules.shape), rtol=1e-4, atol=1e-2)

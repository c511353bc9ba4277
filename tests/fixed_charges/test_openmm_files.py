"""Files for OpenMM, read by OpenMM: its energies and forces against Coulomb's law, its sites against the model's."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from shared.errors import UserError
from tests.docs.pages import ROOT, blocks
from tests.fixed_charges import hand_made
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.files import simulation_files
from train.fixed_charges.openmm_files import molecule_pdb, openmm_xml
from train.fixed_charges.parameters import (
    LennardJones,
    read_bonded,
    read_lennard_jones,
)

COULOMB = 1389.35457644382  # kJ/mol Å/e², CODATA 2018


def modeller_of(model: ChargeModel, residue: str, xml: str, copies: int = 1) -> tuple[app.ForceField, app.Modeller]:
    """The molecule of the PDB file, so many times, with the sites of its charges."""
    field = app.ForceField(io.StringIO(xml))
    pdb = app.PDBFile(io.StringIO(molecule_pdb(model, residue)))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    for _ in range(copies - 1):
        modeller.add(pdb.topology, pdb.positions)
    modeller.addExtraParticles(field)
    return field, modeller


class Molecules:
    """Some molecules without a box, on OpenMM's platform in double precision."""

    def __init__(self, model: ChargeModel, copies: int = 1, xml: str = "") -> None:
        field, modeller = modeller_of(model, "MOL", xml or openmm_xml(model, "MOL"), copies)
        self.system = field.createSystem(modeller.topology)
        self.copies = copies
        self.elements = [atom.element and atom.element.atomic_number for atom in modeller.topology.atoms()]
        self.is_atom = np.array([element is not None for element in self.elements])
        integrator = openmm.VerletIntegrator(0.001)
        self.context = openmm.Context(self.system, integrator, openmm.Platform.getPlatformByName("Reference"))

    def set(self, atoms: Sequence[np.ndarray]) -> None:
        """Place the atoms (N, 3) in Å of each molecule; the sites follow."""
        particles = np.zeros((self.system.getNumParticles(), 3))
        particles[self.is_atom] = np.concatenate(atoms) * 0.1
        self.context.setPositions(particles)
        self.context.computeVirtualSites()

    def sites(self) -> np.ndarray:
        """Positions in Å of the sites."""
        positions = self.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        return positions[~self.is_atom]

    def energy(self) -> float:
        """Energy in kJ/mol."""
        return float(self.context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))

    def forces(self) -> np.ndarray:
        """Forces on the atoms in kJ/mol/Å."""
        per_angstrom = unit.kilojoule_per_mole / unit.angstrom
        return self.context.getState(forces=True).getForces(asNumpy=True).value_in_unit(per_angstrom)[self.is_atom]

    def exceptions(self) -> int:
        """Pairs that are excluded, if none of them is scaled instead."""
        (force,) = [force for force in self.system.getForces() if isinstance(force, openmm.NonbondedForce)]
        parameters = [force.getExceptionParameters(index) for index in range(force.getNumExceptions())]
        assert all(charge._value == 0.0 and epsilon._value == 0.0 for _, _, charge, _, epsilon in parameters)
        return len({frozenset(row[:2]) for row in parameters})


def coulomb(model: ChargeModel, first: np.ndarray, second: np.ndarray) -> float:
    """Energy in kJ/mol of the charges of two molecules, pair by pair."""
    here, there = (list(zip(model.charges, model.sites(atoms), strict=True)) for atoms in (first, second))
    return COULOMB * sum(q * p / np.linalg.norm(r - s) for (q, r), (p, s) in itertools.product(here, there))


MODELS = {"H2O": hand_made.water(), "CO2": hand_made.carbon_dioxide(), "C3H8": hand_made.propane()}


@pytest.mark.parametrize("name", ["H2O", "CO2"])
def test_two_molecules_have_the_energy_of_their_charges_and_its_gradient(name: str) -> None:
    model = MODELS[name]
    pair = Molecules(model, copies=2)
    rng = np.random.default_rng(0)
    geometries = hand_made.bent(model, 200).reshape(100, 2, -1, 3)
    for geometry in geometries:
        apart = rng.normal(size=3)
        geometry[1] += apart / np.linalg.norm(apart) * rng.uniform(4.0, 9.0)
        pair.set(geometry)
        assert pair.energy() == pytest.approx(coulomb(model, *geometry), rel=1e-6, abs=1e-6)
    forces = pair.forces().reshape(2, -1, 3)
    for place in np.ndindex(2, 3, 3):
        step = np.zeros((2, 3, 3))
        step[place] = 1e-4
        slope = (coulomb(model, *(geometry + step)) - coulomb(model, *(geometry - step))) / 2e-4
        assert forces[place] == pytest.approx(-slope, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_sites_follow_the_molecule_and_their_pairs_are_excluded(name: str) -> None:
    model = MODELS[name]
    own = Molecules(model, copies=3)
    off = [len(frame) > 1 for frame in model.frames]
    geometries = hand_made.bent(model, 30)
    for three in geometries.reshape(10, 3, -1, 3):
        own.set(three)
        np.testing.assert_allclose(own.sites(), model.sites(three)[:, off].reshape(-1, 3), atol=1e-5)
    n = len(model.atomic_numbers) + sum(off)
    assert own.exceptions() == 3 * n * (n - 1) // 2
    lone = Molecules(model)
    lone.set(geometries[:1])
    assert lone.energy() == 0.0


def test_a_kernel_is_left_out() -> None:
    model = hand_made.with_kernel(hand_made.water())
    own = Molecules(model)
    own.set([model.positions])
    off = [len(frame) > 1 for frame in model.frames]
    np.testing.assert_allclose(own.sites(), model.sites(model.positions)[off], atol=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("H2O", 3), ("NH3", 6), ("N2", 1)])
def test_constraints_keep_a_molecule_rigid(name: str, expected: int) -> None:
    model = hand_made.random_model(name, ((0, 1),))
    own = Molecules(model, xml=openmm_xml(model, "MOL", bonded="rigid"))
    assert own.system.getNumConstraints() == expected
    own.set([model.positions])
    own.context.applyConstraints(1e-9)
    before = own.context.getState(positions=True).getPositions(asNumpy=True)._value[own.is_atom]
    np.testing.assert_allclose(before, 0.1 * model.positions, atol=1e-7)
    own.context.setVelocitiesToTemperature(300.0, 1)
    own.context.getIntegrator().step(200)
    after = own.context.getState(positions=True).getPositions(asNumpy=True)._value[own.is_atom]
    assert np.abs(after - before).max() > 1e-3
    pairs = [
        [np.linalg.norm(first - second) for first, second in itertools.combinations(x, 2)] for x in (before, after)
    ]
    np.testing.assert_allclose(pairs[1], pairs[0], rtol=2e-4)


@pytest.mark.parametrize("name", ["CO2", "H2CO", "H2O2", "CH4"])
def test_where_constraints_do_not_suffice_terms_are_asked_for(name: str) -> None:
    with pytest.raises(UserError, match=r"do not keep it rigid.*--bonded FILE"):
        openmm_xml(hand_made.random_model(name, ((0, 1),)), "MOL", bonded="rigid")


def test_bonded_terms_and_lennard_jones_parameters_are_those_given(tmp_path: Path) -> None:
    model = MODELS["CO2"]
    terms = {"bonds": [[0, 1, 0.116, 4e5], [2, 0, 0.117, 5e5]], "angles": [[1, 0, 2, 180, 300.0]]}
    (tmp_path / "terms.json").write_text(json.dumps(terms))
    bonded = read_bonded(tmp_path / "terms.json", model)
    (tmp_path / "lj.txt").write_text("# nm, kJ/mol\nC 0.28 0.23\nO1, 0.305, 0.66\nO 0.31 0.7\n")
    parameters = read_lennard_jones(tmp_path / "lj.txt", model, "MOL")
    xml = openmm_xml(model, "MOL", parameters, bonded)
    (geometry,) = hand_made.bent(model, 1)
    other = geometry[::-1] + np.array([5.0, 0.5, 0.2])
    first, second = 0.1 * (geometry[0] - geometry[1]), 0.1 * (geometry[0] - geometry[2])
    angle = np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    inside = 2e5 * (np.linalg.norm(first) - 0.116) ** 2 + 2.5e5 * (np.linalg.norm(second) - 0.117) ** 2
    inside += 150.0 * (angle - np.pi) ** 2
    lone = Molecules(model, xml=xml)
    lone.set([geometry])
    assert lone.energy() == pytest.approx(inside, rel=1e-9)
    sigma, epsilon = np.array([0.28, 0.305, 0.31]), np.array([0.23, 0.66, 0.7])
    # A force field of its own is read back as a file of parameters.
    (tmp_path / "field.xml").write_text(xml)
    for read in (parameters, read_lennard_jones(tmp_path / "field.xml", model, "MOL")):
        np.testing.assert_allclose(read.sigma, sigma)
        np.testing.assert_allclose(read.epsilon, epsilon)
        np.testing.assert_allclose(read[2:], [1 / 1.2, 0.5])
    pair = Molecules(model, 2, xml)
    pair.set([geometry, other])
    outside = coulomb(model, geometry, other)
    for i, j in itertools.product(range(3), range(3)):
        ratio = ((sigma[i] + sigma[j]) / 2 / (0.1 * np.linalg.norm(geometry[i] - other[j]))) ** 6
        outside += 4.0 * np.sqrt(epsilon[i] * epsilon[j]) * (ratio**2 - ratio)
    both = inside + lone_energy(model, xml, other)
    assert pair.energy() - both == pytest.approx(outside, rel=1e-6)


def lone_energy(model: ChargeModel, xml: str, geometry: np.ndarray) -> float:
    lone = Molecules(model, xml=xml)
    lone.set([geometry])
    return lone.energy()


def test_parameters_come_from_openmms_own_files() -> None:
    """TIP4P-Ew, in which the oxygen's parameters are by class, its sites have no element and its names are others."""
    path = Path(app.__file__).parent / "data" / "tip4pew.xml"
    read = read_lennard_jones(path, hand_made.tip4p(), "HOH")
    np.testing.assert_allclose(read.sigma[0], 0.316435)
    np.testing.assert_allclose(read.epsilon, [0.680946, 0.0, 0.0])
    assert (read.coulomb_14, read.lj_14) == pytest.approx((1 / 1.2, 0.5), rel=1e-5)
    with pytest.raises(UserError, match="has the elements"):
        read_lennard_jones(path, MODELS["CO2"], "HOH")
    with pytest.raises(UserError, match="it has no residue CO2"):
        read_lennard_jones(path, MODELS["CO2"], "CO2")


def test_a_force_field_with_a_text_for_a_number_is_told(tmp_path: Path) -> None:
    text = openmm_xml(MODELS["CO2"], "MOL").replace('sigma="1"', 'sigma="one"', 1)
    (tmp_path / "field.xml").write_text(text)
    with pytest.raises(UserError, match=r"field\.xml: could not convert .*'one'"):
        read_lennard_jones(tmp_path / "field.xml", MODELS["CO2"], "MOL")


ANGLES = '{"bonds": [[0, 1, 0.1, 1], [0, 2, 0.1, 1]], "angles": [%s]}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lj.txt", "C 0.3 0.2\nO 0.3\n", r"lj\.txt, line 2: 'O 0.3' is not"),
        ("lj.txt", "C 0.3 0.2\nC 0.3 0.3\n", "line 2: C is given twice"),
        ("lj.txt", "C 0.3 0.2\n", "no sigma and epsilon of atom O1"),
        ("lj.txt", "C 0.3 -0.2\nO 0.3 0.2", r"C1: sigma 0\.3 nm, epsilon -0\.2"),
        ("lj.txt", "C nan 0.2\nO 0.3 0.2", "C1: sigma nan"),
        ("lj.txt", "C 0.3 0.2\nO 0.3 0.2\nO3 0.2 0.2", r"line 3: O3 is no element and no atom of .*\(C1 O1 O2\)"),
        ("lj.xml", "C 0.3 0.2\n", "no XML"),
        ("missing.txt", None, "No such file"),
        ("terms.json", '{"bonds": [[0, 1, 0.1, 1.0]]}', r"the bond of atoms \[0, 2\] is missing"),
        ("terms.json", '{"bonds": [[0, 1, 0.1, 1.0], [1, 2, 0.1, 1.0]]}', r"atoms \[1, 2\] are not bonded"),
        ("terms.json", '{"bonds": [[0, 1, 0.1, 1.0], [1, 0, 0.1, 1.0]]}', "or given twice"),
        ("terms.json", '{"bonds": [[0, 1, 0.1, 1], [0, 2, 0.1, 1]], "angles": [[0, 1, 2, 180, 1]]}', "are no angle"),
        ("terms.json", '{"bonds": [[0, 1, 0.1, 1], [0, 2, 0.1, -1]]}', "and constants not negative"),
        ("terms.json", ANGLES % "[1, 0, 2, 181, 1]", "at most 180 degrees"),
        ("terms.json", ANGLES % "[1, 0, 2, 180, 1], [2, 0, 1, 180, 1]", r"atoms \[2, 0, 1\] are given twice"),
        ("terms.json", '{"bonds": [[0, 1, 0.1]]}', r"bonds\.0\.3"),
        ("terms.json", '{"bond": []}', "bond"),
        ("missing.json", None, "No such file"),
    ],
)
def test_mistakes_in_files_of_parameters_are_told(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    read = read_bonded if name.endswith(".json") else functools.partial(read_lennard_jones, residue="MOL")
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, model=MODELS["CO2"])


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in simulation_files(hand_made.tip4p(), "MOL").items():
        Path(name).write_text(text, encoding="utf-8")
    (example,) = blocks(ROOT / "docs/using.md", "python", "Simulation programs")
    exec(example.text, {})
    assert "kJ/mol" in capsys.readouterr().out


def total_energies(model: ChargeModel, xml: str, side: int, spacing: float, steps: int) -> np.ndarray:
    """Total and kinetic energies (times, 2) in kJ/mol of side³ molecules at 300 K, in a periodic box under PME.

    Each step is 0.5 fs; they begin on a lattice (Å), turned at random, and are relaxed.
    """
    field, modeller = modeller_of(model, "MOL", xml, side**3)
    modeller.topology.setUnitCellDimensions(np.full(3, 0.1 * side * spacing) * unit.nanometer)
    cutoff = 0.049 * side * spacing
    system = field.createSystem(
        modeller.topology,
        app.PME,
        cutoff * unit.nanometer,
        switchDistance=0.8 * cutoff * unit.nanometer,
        ewaldErrorTolerance=1e-5,
    )
    integrator = openmm.VerletIntegrator(0.0005)
    integrator.setConstraintTolerance(1e-6)
    simulation = app.Simulation(
        modeller.topology, system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"}
    )
    lattice = spacing * np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 1, 3)
    centred = model.positions - model.positions.mean(axis=0)
    turns = np.linalg.qr(np.random.default_rng(0).normal(size=(side**3, 3, 3)))[0]
    particles = np.zeros((system.getNumParticles(), 3))
    is_atom = [atom.element is not None for atom in modeller.topology.atoms()]
    particles[is_atom] = 0.1 * (np.einsum("nx,gxy->gny", centred, turns) + lattice).reshape(-1, 3)
    simulation.context.setPositions(particles)
    simulation.context.computeVirtualSites()
    simulation.minimizeEnergy(maxIterations=100)
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    energies = []
    for _ in range(20):
        simulation.step(steps // 20)
        state = simulation.context.getState(energy=True)
        kinetic = state.getKineticEnergy()._value
        energies.append((state.getPotentialEnergy()._value + kinetic, kinetic))
    return np.array(energies)


def rigid_tip4p(steps: int) -> np.ndarray:
    """Total and kinetic energies of 64 molecules of water."""
    model = hand_made.tip4p()
    parameters = LennardJones(np.array([0.315365, 0.1, 0.1]), np.array([0.648520, 0.0, 0.0]))
    return total_energies(model, openmm_xml(model, "MOL", parameters, "rigid"), 4, 3.2, steps)


def test_a_box_conserves_its_energy_for_a_while() -> None:
    total, kinetic = rigid_tip4p(steps=400).T
    assert np.ptp(total) < 2e-3 * np.ptp(kinetic)


@pytest.mark.slow
def test_a_box_conserves_its_energy() -> None:
    """Over 10 ps, of water with constraints."""
    total, kinetic = rigid_tip4p(steps=20_000).T
    print(
        f"drift {np.polyfit(np.linspace(0.5, 10.0, 20), total, 1)[0]:.4f} kJ/mol/ps, {np.ptp(total):.3f} kJ/mol at most"
    )
    assert np.ptp(total) < 2e-3 * np.ptp(kinetic)

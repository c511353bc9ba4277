"""The network in other programs: energies and forces in OpenMM, and through i-PI's protocol, are those of ASE."""

from __future__ import annotations

import io
import json
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import ase
import numpy as np
import openmm
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.optimize import BFGS
from openmm import app

from shared.errors import UserError
from tests.docs.pages import ROOT, blocks
from tests.fixed_charges import hand_made
from train.fixed_charges.openmm_files import molecule_pdb, openmm_xml
from train.fixed_charges.openmm_network import network_force
from train.inference.calculator import JointCalculator
from train.inference.predictor import Predictor

COULOMB = units.Hartree * units.Bohr  # eV Å/e²
KJ = units.kJ / units.mol
OTHER = np.array([4.5, 0.5, 0.2])  # Å, where the second molecule is


@pytest.fixture(scope="module")
def water(calculator: JointCalculator) -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    return atoms


def embedded(predictor: Predictor, atoms: ase.Atoms, apart: np.ndarray) -> openmm.Context:
    """Water of the network beside water of fixed charges, which rests."""
    model = hand_made.tip4p()
    field = app.ForceField(io.StringIO(openmm_xml(model, "MOL")))
    pdb = app.PDBFile(io.StringIO(molecule_pdb(model, "MOL")))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.add(pdb.topology, pdb.positions)
    modeller.addExtraParticles(field)
    system = field.createSystem(modeller.topology)
    for particle in range(5, 10):
        system.setParticleMass(particle, 0.0)
    system.addForce(network_force(predictor, atoms, [0, 1, 2]))
    integrator = openmm.VerletIntegrator(0.2e-3)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    particles = np.zeros((10, 3))
    particles[[0, 1, 2]] = 0.1 * atoms.positions
    particles[[5, 6, 7]] = 0.1 * (model.positions + apart)
    context.setPositions(particles)
    context.computeVirtualSites()
    return context


def test_openmm_has_the_networks_energy_and_forces(calculator: JointCalculator, water: ase.Atoms) -> None:
    """In the field of the other molecule's charges, whose energy and forces are added."""
    context = embedded(calculator.predictor, water, OTHER)
    model = hand_made.tip4p()
    other = model.sites(model.positions + OTHER)

    def of_charges(positions: np.ndarray) -> float:
        apart = model.sites(positions)[:, None] - other[None]
        return float(COULOMB * (np.outer(model.charges, model.charges) / np.linalg.norm(apart, axis=-1)).sum())

    state = context.getState(energy=True, forces=True)
    expected = water.get_potential_energy() + of_charges(water.positions)
    assert state.getPotentialEnergy()._value * KJ == pytest.approx(expected, abs=1e-6)
    forces = state.getForces(asNumpy=True)._value[:3] * 0.1 * KJ
    for place in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[place] = 1e-4
        slope = (of_charges(water.positions + step) - of_charges(water.positions - step)) / 2e-4
        assert forces[place] == pytest.approx(water.get_forces()[place] - slope, abs=1e-5)


def test_numbers_of_particles_and_atoms_agree(calculator: JointCalculator, water: ase.Atoms) -> None:
    with pytest.raises(UserError, match="2 particles for a molecule of 3 atoms"):
        network_force(calculator.predictor, water, [0, 1])


def test_without_openmm_the_network_says_how_to_get_it(
    calculator: JointCalculator, water: ase.Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(UserError, match=r'OpenMM 8\.6 or later is needed: pip install -e "\.\[openmm\]"'):
        network_force(calculator.predictor, water, [0, 1, 2])


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/joint").symlink_to(run_folder)
    model = hand_made.carbon_dioxide()
    Path("charge-model.json").write_text(json.dumps(model.as_json()), encoding="utf-8")
    Path("molecule.pdb").write_text(molecule_pdb(model, "CO2"), encoding="utf-8")
    (example, _) = blocks(ROOT / "docs/using.md", "python", "The network itself")
    simulation: dict[str, Any] = {}
    exec(example.text, simulation)
    energy = simulation["simulation"].context.getState(energy=True).getPotentialEnergy()._value
    assert np.isfinite(energy)


@pytest.mark.slow
def test_openmm_conserves_the_energy_for_a_picosecond(calculator: JointCalculator, water: ase.Atoms) -> None:
    """About the minimum of the random surface, which a field of charges near it would leave."""
    assert BFGS(water, logfile=None).run(fmax=1e-3, steps=500)
    context = embedded(calculator.predictor, water, 10.0 * OTHER)
    context.setVelocitiesToTemperature(50.0, 1)
    energies = []
    for _ in range(100):
        context.getIntegrator().step(50)
        state = context.getState(energy=True)
        energies.append((state.getPotentialEnergy()._value, state.getKineticEnergy()._value))
    assert np.ptp(np.sum(energies, axis=1)) < 0.02 * np.ptp(energies, axis=0)[1]


def test_the_protocol_of_i_pi_passes_the_same_numbers(calculator: JointCalculator, water: ase.Atoms) -> None:
    socket = f"joint-{uuid.uuid4()}"
    client, moved = water.copy(), water.copy()
    client.calc = calculator
    with SocketIOCalculator(unixsocket=socket, timeout=60.0) as server:
        serving = threading.Thread(target=lambda: SocketClient(unixsocket=socket, timeout=60.0).run(client))
        serving.start()
        moved.calc = server
        energy, forces = moved.get_potential_energy(), moved.get_forces()
    serving.join(60.0)
    assert not serving.is_alive()
    assert energy == pytest.approx(water.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces, water.get_forces(), atol=1e-9)

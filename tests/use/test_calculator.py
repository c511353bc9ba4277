"""The calculator in ASE's own hands: optimizer, Vibrations, Infrared, dynamics; and the surface that it gives them."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.fd import calculate_numerical_forces
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.vibrations import Infrared, Vibrations

from train.inference.calculator import JointCalculator


def with_calculator(name: str, calculator: JointCalculator) -> ase.Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    return atoms


@pytest.fixture(scope="module")
def minimum(calculator: JointCalculator) -> ase.Atoms:
    """Water at a minimum of the random surface."""
    atoms = with_calculator("H2O", calculator)
    assert BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    return atoms


def test_properties_are_those_of_ase(calculator: JointCalculator) -> None:
    atoms = with_calculator("CH4", calculator)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-4), atol=1e-6)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    charges = atoms.get_charges()
    assert charges.sum() == pytest.approx(0.0, abs=1e-12)
    # Neutral: the dipole depends on no origin.
    np.testing.assert_allclose(atoms.get_dipole_moment(), charges @ atoms.positions, atol=1e-12)
    values, positions = calculator.get_distributed_charges(atoms)
    np.testing.assert_allclose(values.sum(axis=1), charges, atol=1e-12)
    expected = np.einsum("ak,akx->x", values, positions)
    np.testing.assert_allclose(calculator.get_distributed_dipole(atoms), expected, atol=1e-12)
    # Of both kinds of charges about the centre of mass; ASE, which does not know them, is not told.
    for name, charges_at, sites in (("quadrupole", charges, atoms.positions), ("quadrupole_dcm", values, positions)):
        tensor = quadrupole_of(charges_at.ravel(), sites.reshape(-1, 3) - atoms.get_center_of_mass())
        np.testing.assert_allclose(calculator.results[name], tensor, atol=1e-12)
    np.testing.assert_array_equal(calculator.get_physnet_quadrupole(atoms), calculator.results["quadrupole"])
    np.testing.assert_array_equal(calculator.get_distributed_quadrupole(atoms), calculator.results["quadrupole_dcm"])
    assert atoms.get_properties(["energy", "charges"])["energy"] == atoms.get_potential_energy()


def quadrupole_of(charges: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """½ Σ q (3 x xᵀ - |x|² 1), charge by charge."""
    pairs = zip(charges, arms, strict=True)
    return np.sum([0.5 * q * (3 * np.outer(x, x) - x @ x * np.eye(3)) for q, x in pairs], axis=0)


def test_results_follow_the_molecule(calculator: JointCalculator) -> None:
    atoms = with_calculator("H2O", calculator)
    neutral, before = atoms.get_potential_energy(), calculator.get_distributed_charges(atoms)
    # ASE does not compare info; the calculator does.
    atoms.info["charge"] = -1
    anion = atoms.get_potential_energy()
    assert abs(anion - neutral) > 1e-3
    assert calculator.get_distributed_charges(atoms).values.sum() == pytest.approx(-1.0)
    del atoms.info["charge"]
    assert atoms.get_potential_energy() == neutral
    np.testing.assert_array_equal(calculator.get_distributed_charges(atoms).values, before.values)
    atoms.positions += 5.0
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-9)
    moved = calculator.get_distributed_charges(atoms)
    np.testing.assert_allclose(moved.positions, before.positions + 5.0, atol=1e-9)


def test_vibrations_and_infrared_are_those_of_the_exact_derivatives(
    minimum: ase.Atoms, calculator: JointCalculator, tmp_path: Path
) -> None:
    hessian = calculator.get_hessian(minimum)
    mass = np.repeat(minimum.get_masses(), 3) ** -0.5
    squares = np.linalg.eigvalsh(mass[:, None] * hessian * mass[None, :])
    to_inverse_cm = units._hbar * 1e10 / np.sqrt(units._e * units._amu) * units._e / (units._hplanck * units._c * 100)
    exact = np.sqrt(squares[-3:]) * to_inverse_cm
    assert exact.min() > 10.0

    vibrations = Vibrations(minimum, name=str(tmp_path / "vibrations"), delta=1e-3)
    vibrations.run()
    np.testing.assert_allclose(np.real(vibrations.get_frequencies())[-3:], exact, rtol=1e-3)

    infrared = Infrared(minimum, name=str(tmp_path / "infrared"), delta=1e-3)
    infrared.run()
    np.testing.assert_allclose(np.real(infrared.get_frequencies())[-3:], exact, rtol=1e-3)
    # ASE's intensities are the squares of the dipole's slope along the modes, here from the exact derivatives.
    modes = np.linalg.eigh(mass[:, None] * hessian * mass[None, :])[1][:, -3:] * mass[:, None]
    slopes = calculator.predictor.derivatives(minimum).dipole.T @ modes / units.Debye
    np.testing.assert_allclose(infrared.intensities[-3:], (slopes**2).sum(axis=0), rtol=1e-2, atol=1e-4)


def test_energy_is_conserved_better_with_shorter_steps(minimum: ase.Atoms, calculator: JointCalculator) -> None:
    """Velocity Verlet errs by the square of its step, on a surface whose forces are its gradient."""

    def error(step_fs: float) -> float:
        atoms = minimum.copy()
        atoms.calc = calculator
        atoms.set_velocities(np.random.default_rng(3).normal(size=(3, 3)) * 0.01)
        start = atoms.get_total_energy()
        energies = []
        dynamics = VelocityVerlet(atoms, timestep=step_fs * units.fs)
        dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
        dynamics.run(round(20.0 / step_fs))
        return float(np.abs(np.array(energies) - start).max())

    long, short = error(0.4), error(0.1)
    assert long < 0.05
    assert long / short == pytest.approx(16.0, rel=0.3)


def test_energy_jumps_nowhere_through_the_cutoffs(calculator: JointCalculator) -> None:
    """Two molecules from 2 to 7 Å, through 3 and 4 Å: every step of the energy is the work of the force."""
    water = molecule("H2O")
    atoms = water + water
    atoms.calc = calculator
    work, energies = [], []
    distances = np.linspace(2.0, 7.0, 501)
    for distance in distances:
        atoms.positions[3:] = water.positions + np.array([distance, 0.3, 0.1])
        work.append(-atoms.get_forces()[3:, 0].sum())
        energies.append(atoms.get_potential_energy())
    steps = np.diff(distances) * 0.5 * (np.array(work)[1:] + np.array(work)[:-1])
    np.testing.assert_allclose(np.diff(energies), steps, atol=2e-5)
    assert np.ptp(energies) > 0.01


def test_a_pair_that_falls_apart_is_the_sum_of_its_parts(calculator: JointCalculator) -> None:
    water = with_calculator("H2O", calculator)
    alone, forces = water.get_potential_energy(), water.get_forces()
    pair = water + water
    pair.positions[3:] += [1000.0, 0.0, 0.0]
    pair.calc = calculator
    # What is left is the dipoles' interaction, beyond every cutoff.
    assert pair.get_potential_energy() == pytest.approx(2 * alone, abs=1e-6)
    np.testing.assert_allclose(pair.get_forces(), np.vstack([forces, forces]), atol=1e-6)


def test_a_bond_that_is_pressed_together_resists(calculator: JointCalculator) -> None:
    """Down to 0.3 Å, where the repulsion of the nuclei is some hundred eV, whatever the network says."""
    atoms = molecule("CO2")
    atoms.calc = calculator
    energies = []
    for distance in np.linspace(0.9, 0.3, 13):
        atoms.set_distance(0, 1, distance, fix=0)
        energies.append(atoms.get_potential_energy())
    assert (np.diff(energies) > 0).all()
    assert energies[-1] - energies[0] > 100.0
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, 1e-5), rtol=1e-4, atol=1e-3)

"""Conformers of reference data: normal modes against PySCF's and the forces, and the spread of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units as ase_units
from pyscf.hessian import thermo

from preprocess.reference.config import ReferenceConfig
from preprocess.reference.modes import Modes, find_modes, harmonic_modes, relax
from preprocess.reference.molecules import Molecule
from preprocess.reference.sampling import displacement_sampler, draw, mode_sampler
from preprocess.reference.single_point import LeftOut, compute, converge, forces
from shared import units
from shared.elements import MASSES
from shared.normal_modes import HBAR, mean_squares
from tests.preprocess.small_molecules import FITTED, SMALL, named

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def water() -> tuple[Molecule, Modes]:
    """Relaxed water with its modes."""
    molecule = named("H2O")
    modes = find_modes(molecule, SMALL)
    return molecule.at(modes.positions), modes


def test_modes_are_those_of_pyscf(water: tuple[Molecule, Modes]) -> None:
    """Wavenumbers of a bent and of a linear molecule, of the same Hessian."""
    for molecule, count in ((water[0], 3), (named("HCN"), 4)):
        molecule = molecule.at(relax(molecule, SMALL))
        field = converge(molecule, SMALL)
        hessian = field.Hessian().kernel()
        expected = thermo.harmonic_analysis(field.mol, hessian, mass=MASSES[molecule.atomic_numbers])
        matrix = hessian.transpose(0, 2, 1, 3).reshape(3 * len(molecule), -1)
        found = harmonic_modes(molecule, matrix * units.CODATA_2018_HARTREE_IN_EV / units.BOHR_IN_ANGSTROM**2)
        assert len(found.quanta) == count
        np.testing.assert_allclose(found.wavenumbers, expected["freq_wavenumber"], rtol=1e-6)


def test_modes_of_a_fitted_energy_are_those_of_its_forces() -> None:
    """Which change along each mode by (ħω/ħ)² in its own direction, and not along the others."""
    molecule = named("H2O")
    modes = find_modes(molecule, FITTED)
    step = 1e-3
    changes = [
        [forces(converge(molecule.at(modes.positions + sign * step * vector), FITTED)) / (2 * step) for sign in (-1, 1)]
        for vector in modes.vectors
    ]
    along = [[(vector * (before - after)).sum() for vector in modes.vectors] for before, after in changes]
    np.testing.assert_allclose(along, np.diag((modes.quanta / HBAR) ** 2), rtol=1e-4, atol=1e-4)


def test_spread_of_a_mode_costs_its_thermal_energy(water: tuple[Molecule, Modes]) -> None:
    """Energies of the level of theory: half kT in each mode, as little of it as the harmonic range needs."""
    molecule, modes = water
    temperature = 1.0
    spread = np.sqrt(mean_squares(modes.quanta, temperature, "classical"))
    rest = compute(molecule, SMALL, np.zeros((0, 3))).energy
    for vector, amplitude in zip(modes.vectors, spread, strict=True):
        both = [
            compute(molecule.at(modes.positions + sign * amplitude * vector), SMALL, np.zeros((0, 3))).energy
            for sign in (1, -1)
        ]
        assert np.mean(both) - rest == pytest.approx(temperature * ase_units.kB / 2, rel=5e-3)


def test_quantum_spread_between_its_limits() -> None:
    """Zero-point motion, ħω/4 of potential energy, when cold; kT/ω² when hot."""
    quanta = np.array([0.05, 0.4])
    cold, barely = (mean_squares(quanta, temperature, "quantum") for temperature in (0.0, 10.0))
    hot, classical = (mean_squares(quanta, 1e6, statistics) for statistics in ("quantum", "classical"))
    np.testing.assert_allclose(cold, barely)
    np.testing.assert_allclose(hot, classical, rtol=1e-4)
    kt = 300 * ase_units.kB
    np.testing.assert_allclose(cold / mean_squares(quanta, 300.0, "classical"), quanta / (2 * kt))


@pytest.mark.parametrize("statistics", ["quantum", "classical"])
def test_variance_of_sampled_modes(water: tuple[Molecule, Modes], statistics: str) -> None:
    """Projected back on the modes, many draws have the asked spread; slow modes rest."""
    modes = water[1]
    sampler, rng = mode_sampler(modes, 300.0, statistics), np.random.default_rng(0)
    moved = np.stack([sampler(rng) - modes.positions for _ in range(20_000)])
    masses = MASSES[water[0].atomic_numbers]
    amplitudes = np.einsum("sac,a,mac->sm", moved, masses, modes.vectors)
    np.testing.assert_allclose(amplitudes.mean(axis=0), 0.0, atol=0.01)
    np.testing.assert_allclose(
        np.cov(amplitudes.T).diagonal(), mean_squares(modes.quanta, 300.0, statistics), rtol=0.04
    )
    slow = modes._replace(quanta=np.full(3, 30.0 * ase_units.invcm))
    np.testing.assert_array_equal(mode_sampler(slow, 300.0, statistics)(rng), modes.positions)


def test_a_saddle_point_is_left_out() -> None:
    """Linear water cannot leave its symmetry by its forces."""
    linear = Molecule("H2O", np.array([8, 1, 1]), np.array([[0, 0, 0], [0, 0, 0.95], [0, 0, -0.95]]), 0, 1)
    with pytest.raises(LeftOut, match="saddle point"):
        find_modes(linear, SMALL)


def test_an_electron_alone_is_left_out() -> None:
    """PySCF's second derivatives need electrons of both spins."""
    with pytest.raises(LeftOut, match=r"no second derivatives .* --sampling displacement"):
        find_modes(Molecule("H2+", np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 1.0]]), 1, 2), SMALL)


def test_conformers_do_not_depend_on_each_other() -> None:
    """Each from its seed, molecule and number alone; turned ones keep their distances; none has atoms on each other."""
    molecule, config = named("CH4"), ReferenceConfig(seed=3)
    sampler = displacement_sampler(molecule, 0.06)
    first = draw(molecule, sampler, config, 5)
    again = draw(molecule, sampler, ReferenceConfig(seed=3, samples=9), 5)
    turned = draw(molecule, sampler, ReferenceConfig(seed=3, rotate=True), 5)
    other = draw(molecule, sampler, config, 6)
    assert first
    assert again
    assert turned
    assert other
    np.testing.assert_array_equal(first.positions, again.positions)
    assert np.abs(first.positions - other.positions).max() > 0.05
    assert 0.02 < (first.positions - molecule.positions).std() < 0.1
    assert np.abs(first.positions - turned.positions).max() > 0.1
    distances = [np.linalg.norm(m.positions[:, None] - m.positions, axis=-1) for m in (first, turned)]
    np.testing.assert_allclose(*distances, atol=1e-12)
    assert draw(molecule, lambda rng: np.zeros((5, 3)), config, 0) is None

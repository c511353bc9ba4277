"""A trained model where it could break: a molecule at 1,000 K, its wells, and two molecules that collide.

For a model that knows the two molecules (the carried sample's: methanol and CO2).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
import tyro
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from shared.errors import UserError
from train.inference.calculator import JointCalculator
from train.inference.unlike_training import UnlikeTrainingWarning


@dataclass(frozen=True)
class DynamicsConfig:
    """What to try."""

    run: str = "runs/joint"
    hot: str = "CH3OH"
    """Molecule of the hot trajectory."""
    temperature: float = 1000.0
    """K"""
    picoseconds: float = 20.0
    timestep: float = 0.5
    """fs, a quarter of it at the collision"""
    colliding: str = "CO2"
    energy: float = 3.0
    """Of the collision, eV, in the frame of its centre of mass."""
    seed: int = 0


def relaxed(name: str, calculator: Calculator) -> ase.Atoms:
    """The molecule at the minimum near ASE's geometry."""
    atoms = molecule(name)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    return atoms


def wells(config: DynamicsConfig, calculator: Calculator) -> None:
    """Minima that a hot trajectory reaches, against that of the molecule."""
    start = relaxed(config.hot, calculator)
    moving, rng = start.copy(), np.random.default_rng(config.seed)
    moving.calc = calculator
    MaxwellBoltzmannDistribution(moving, temperature_K=config.temperature, rng=rng)
    settings: dict[str, Any] = {
        "temperature_K": config.temperature,
        "friction": 0.01 / units.fs,
        "fixcm": False,
        "rng": rng,
    }
    dynamics = Langevin(moving, config.timestep * units.fs, **settings)
    depths, times = [], np.arange(0.25, config.picoseconds + 1e-9, 0.25)
    try:
        for _ in times:
            dynamics.run(round(250.0 / config.timestep))
            quenched = moving.copy()
            quenched.calc = calculator
            BFGS(quenched, logfile=None).run(fmax=0.02, steps=300)
            depths.append(quenched.get_potential_energy() - start.get_potential_energy())
        end = "to its end"
    except UserError as error:
        end = f"to {times[len(depths)]:.2f} ps: {error}"
    print(f"{config.hot} at {config.temperature:g} K, {end}")
    if depths:
        lowest = int(np.argmin(depths))
        print(f"  lowest of {len(depths)} quenched geometries: {depths[lowest]:+.3f} eV, at {times[lowest]:.2f} ps")


def collision(config: DynamicsConfig, calculator: Calculator) -> None:
    """Total energy of two molecules that meet head on, at constant energy."""
    one = relaxed(config.colliding, calculator)
    other = one.copy()
    other.rotate(90, "x")
    other.translate(np.array([6.0, 0.0, 0.0]) + one.get_center_of_mass() - other.get_center_of_mass())
    both = one + other
    speed = np.sqrt(config.energy / one.get_masses().sum())
    both.set_velocities(np.repeat([[speed, 0, 0], [-speed, 0, 0]], len(one), axis=0))
    both.calc = calculator
    assert np.isclose(both.get_kinetic_energy(), config.energy)
    dynamics = VelocityVerlet(both, 0.25 * config.timestep * units.fs)
    total, nearest = [], []
    try:
        for _ in range(400):
            dynamics.run(10)
            total.append(both.get_total_energy())
            nearest.append(both.get_all_distances()[: len(one), len(one) :].min())
        end = f"for {dynamics.get_time() / units.fs / 1000:.2f} ps"
    except UserError as error:
        end = f"until {error}"
    print(f"two {config.colliding} at {config.energy:g} eV, {end}")
    if total:
        print(f"  nearest atoms {min(nearest):.2f} Å; total energy within {1000 * np.ptp(total):.2g} meV")


def main() -> None:
    """Run both."""
    config = tyro.cli(DynamicsConfig, description=__doc__)
    # All of this is an extrapolation.
    warnings.simplefilter("ignore", UnlikeTrainingWarning)
    calculator = JointCalculator(config.run)
    wells(config, calculator)
    collision(config, calculator)


if __name__ == "__main__":
    main()

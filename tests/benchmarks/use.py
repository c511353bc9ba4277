"""A trained model in use: energy conservation, frequencies against the level of theory it was trained on, and rates.

For a model of CO2 (any other molecule that it knows: --molecule). The reference frequencies are computed here, with
PySCF, at the minimum of the same level of theory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import ase
import numpy as np
import tyro
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from train.inference.calculator import JointCalculator
from train.inference.infrared import Modes, harmonic_modes, optimise
from train.inference.predictor import Derivatives, Predictor


@dataclass(frozen=True)
class UseConfig:
    """What to try."""

    run: str = "runs/joint"
    molecule: str = "CO2"
    picoseconds: float = 10.0
    timestep: float = 0.5
    """fs"""
    temperature: float = 300.0
    """K"""
    geometries: int = 2000
    """Of the rates."""
    theory: str = "hf"
    """Method of the reference frequencies ("" = none): hf or a functional."""
    basis: str = "6-31g*"


def conservation(config: UseConfig, atoms: ase.Atoms) -> None:
    """Total energy along a trajectory at constant energy."""
    moving = atoms.copy()
    moving.calc = JointCalculator(config.run)
    thermalize_momenta(moving, temperature_K=2.0 * config.temperature, rng=np.random.default_rng(0))
    Stationary(moving)
    ZeroRotation(moving)
    dynamics = VelocityVerlet(moving, timestep=config.timestep * units.fs)
    energies: list[float] = []
    dynamics.attach(lambda: energies.append(moving.get_total_energy()), interval=10)
    steps = round(1000.0 * config.picoseconds / config.timestep)
    start = time.perf_counter()
    dynamics.run(steps)
    rate = steps / (time.perf_counter() - start)
    per_atom = 1000.0 * (np.asarray(energies) - energies[0]) / len(moving)
    slope = np.polyfit(np.linspace(0.0, config.picoseconds, len(per_atom)), per_atom, 1)[0]
    print(
        f"NVE, {config.picoseconds:g} ps at {config.timestep:g} fs, {config.temperature:g} K: drift "
        f"{slope * config.picoseconds:.2g} meV/atom, largest deviation {np.abs(per_atom).max():.2g} meV/atom "
        f"({rate:.0f} steps/s, {moving.calc.predictor.compilations} compilation(s))"
    )


def rates(config: UseConfig, atoms: ase.Atoms) -> None:
    """Many geometries at once, against one call of a calculator for each."""
    rng = np.random.default_rng(0)
    images = [atoms.copy() for _ in range(config.geometries)]
    for image in images:
        image.positions += 0.03 * rng.normal(size=image.positions.shape)
    predictor, calculator = Predictor(config.run), JointCalculator(config.run, precision="float32")
    few = images[: max(1, config.geometries // 10)]

    def together() -> float:
        start = time.perf_counter()
        predictor.predict(images)
        return len(images) / (time.perf_counter() - start)

    def one_by_one() -> float:
        start = time.perf_counter()
        for image in few:
            image.calc = calculator
            image.get_forces()
            calculator.reset()
        return len(few) / (time.perf_counter() - start)

    together()  # compiles
    one_by_one()
    fast, slow = (float(np.median([rate() for _ in range(5)])) for rate in (together, one_by_one))
    print(f"energies and forces: {fast:,.0f} molecules/s in batches, {slow:,.0f} one by one: {fast / slow:.0f} times")


def reference_modes(config: UseConfig, atoms: ase.Atoms, model: Derivatives) -> Modes:
    """Normal modes at the minimum of the level of theory, by PySCF; ``model`` lends the derivatives of its dipoles."""
    from pyscf import dft, gto, scf

    hartree, bohr = units.Hartree, units.Bohr

    def solve(at: ase.Atoms) -> object:
        built = gto.M(atom=list(zip(at.numbers, at.positions, strict=True)), basis=config.basis, verbose=0)
        method = scf.RHF(built) if config.theory == "hf" else dft.RKS(built, xc=config.theory)
        method.conv_tol, method.chkfile = 1e-11, None
        method.kernel()
        return method

    class Theory(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE has it so)

        def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
            super().calculate(atoms, properties, system_changes)
            solved = solve(self.atoms)
            forces = -solved.nuc_grad_method().kernel() * hartree / bohr  # type: ignore[attr-defined]
            self.results = {"energy": solved.e_tot * hartree, "forces": forces}  # type: ignore[attr-defined]

    at = atoms.copy()
    at.calc = Theory()
    BFGS(at, logfile=None).run(fmax=1e-4, steps=100)
    hessian = solve(at).Hessian().kernel() * hartree / bohr**2  # type: ignore[attr-defined]
    n = 3 * len(at)
    matrix = np.asarray(hessian).transpose(0, 2, 1, 3).reshape(n, n)
    return harmonic_modes(replace(model, hessian=matrix), at)


def frequencies(config: UseConfig, atoms: ase.Atoms) -> None:
    """Of the model, beside those of its level of theory."""
    calculator = JointCalculator(config.run)
    derivatives = calculator.predictor.derivatives(atoms)
    modes = harmonic_modes(derivatives, atoms)
    expected = np.full(len(modes.wavenumbers), np.nan)
    if config.theory:
        expected = reference_modes(config, atoms, derivatives).wavenumbers
    print(f"{'mode':>6}{'model, 1/cm':>14}{config.theory + '/' + config.basis:>14}{'IR, km/mol':>12}{'of DCMNet':>12}")
    rows = zip(modes.wavenumbers, expected, modes.intensities, modes.intensities_dcm, strict=True)
    for i, (wavenumber, other, intensity, intensity_dcm) in enumerate(rows):
        print(f"{i + 1:>6}{wavenumber:>14.1f}{other:>14.1f}{intensity:>12.4g}{intensity_dcm:>12.4g}")


def main() -> None:
    """Try everything and print."""
    config = tyro.cli(UseConfig, description=__doc__)
    atoms = molecule(config.molecule)
    atoms.calc = JointCalculator(config.run)
    optimise(atoms, 1e-4)
    frequencies(config, atoms)
    rates(config, atoms)
    conservation(config, atoms)


if __name__ == "__main__":
    main()

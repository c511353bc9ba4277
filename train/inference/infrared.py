"""Normal modes and infrared spectra from the model's exact derivatives, or from its dipole along a trajectory.

Intensities follow E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations (1955): the square of the dipole's
slope along each normal coordinate.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ase
import numpy as np
from ase import units
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from matplotlib.figure import Figure
from scipy import signal
from tqdm import tqdm

from shared.drawing import literal
from shared.errors import UserError
from shared.files import write_atomically
from shared.normal_modes import normal_modes
from train.inference.calculator import JointCalculator
from train.inference.molecule_prediction import Derivatives

KM_PER_MOL = units._Nav * (units.Debye * units._e) ** 2 / (12.0 * units._eps0 * units._c**2 * units._amu) / 1000.0
"""Integrated IR intensity of a slope of 1 D/(Å √u): N_A/(12 ε₀ c²) · (D/Å)²/u = 42.26 km/mol."""

_OPTIMISER_STEPS = 1000
_SPEED_OF_LIGHT_CM_PER_FS = units._c * 100.0 * 1e-15


@dataclass(frozen=True)
class Modes:
    """M = 3 N - 6 (linear: 5) normal modes in order of their frequency."""

    wavenumbers: np.ndarray  # (M,) 1/cm; imaginary ones are negative
    displacements: np.ndarray  # (M, N, 3) Å √u, mass-weighted modes divided by √mass
    intensities: np.ndarray  # (M,) km/mol, of PhysNet's charges
    intensities_dcm: np.ndarray  # (M,) km/mol, of the distributed charges


class Spectrum(NamedTuple):
    """An infrared spectrum."""

    wavenumbers: np.ndarray  # (K,) 1/cm
    absorption: np.ndarray  # (K,) of PhysNet's charges; harmonic: km/mol per 1/cm
    absorption_dcm: np.ndarray  # (K,) of the distributed charges


def optimise(atoms: ase.Atoms, fmax: float) -> None:
    """Move the atoms to a minimum of the energy.

    Args:
        atoms: with a calculator; changed in place.
        fmax: largest force on an atom, eV/Å.

    Raises:
        UserError: no minimum was found.
    """
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=_OPTIMISER_STEPS):
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        raise UserError(
            f"{atoms.get_chemical_formula()}: not at a minimum after {_OPTIMISER_STEPS} steps (largest force "
            f"{force:.2g} eV/Å, asked {fmax:g}); begin nearer to the minimum, or train on such geometries"
        )


def harmonic_modes(derivatives: Derivatives, atoms: ase.Atoms) -> Modes:
    """Return normal modes, translations and rotations projected out, with their IR intensities.

    Args:
        derivatives: at the geometry of ``atoms``, a stationary point.
        atoms: the molecule.
    """
    found = normal_modes(atoms.positions, atoms.get_masses(), derivatives.hessian)
    modes = found.displacements.reshape(len(found.quanta), -1)
    slopes = [modes @ slope / units.Debye for slope in (derivatives.dipole, derivatives.dipole_dcm)]
    intensities, intensities_dcm = (KM_PER_MOL * np.square(slope).sum(axis=1) for slope in slopes)
    return Modes(found.wavenumbers, found.displacements, intensities, intensities_dcm)


def broadened(modes: Modes, width: float) -> Spectrum:
    """Return Lorentzian bands of this full width at half maximum (1/cm) whose areas are their intensities."""
    real = modes.wavenumbers > 0
    centers = modes.wavenumbers[real]
    end = 500.0 * np.ceil((centers.max(initial=1000.0) + 50.0 * width) / 500.0)
    grid = np.arange(0.0, end, min(width / 10.0, 1.0))
    half = width / 2.0
    shapes = half / np.pi / ((grid[:, None] - centers[None]) ** 2 + half**2)
    return Spectrum(grid, shapes @ modes.intensities[real], shapes @ modes.intensities_dcm[real])


def infrared_from_dynamics(
    atoms: ase.Atoms, picoseconds: float, timestep: float, temperature: float, seed: int
) -> Spectrum:
    """Compute the IR spectrum of a trajectory at constant energy.

    Args:
        atoms: at a minimum, with a calculator.
        picoseconds: length of the trajectory.
        timestep: fs.
        temperature: K; the velocities begin with twice its kinetic energy, half of which becomes potential energy.
        seed: of the velocities.
    """
    calculator = atoms.calc
    assert isinstance(calculator, JointCalculator)
    moving = atoms.copy()
    moving.calc = calculator
    random = np.random.default_rng(seed)
    thermalize_momenta(moving, temperature_K=2.0 * temperature, rng=random)
    Stationary(moving)
    ZeroRotation(moving)
    steps = round(1000.0 * picoseconds / timestep)
    dipoles = np.empty((steps + 1, 2, 3))
    dynamics = VelocityVerlet(moving, timestep=timestep * units.fs)
    with tqdm(total=steps, desc="dynamics", unit="step", leave=False, disable=None) as bar:

        def observe() -> None:
            at = dynamics.get_number_of_steps()
            dipoles[at] = calculator.get_physnet_dipole(moving), calculator.get_distributed_dipole(moving)
            bar.update()

        dynamics.attach(observe)
        dynamics.run(steps)
    return spectrum_of_dipoles(dipoles, timestep)


def spectrum_of_dipoles(dipoles: np.ndarray, timestep: float) -> Spectrum:
    """Return the absorption spectra, proportional to the power spectrum of the dipole's time derivative.

    By Wiener and Khinchin that is the Fourier transform of its autocorrelation, which the classical line shape becomes
    with the harmonic quantum correction.

    Args:
        dipoles: (T, 2, 3) of both kinds of charges, at equal times.
        timestep: fs.

    Returns:
        both spectra, divided by the largest value of PhysNet's.
    """
    slopes = np.gradient(dipoles, timestep, axis=0)
    segment = min(len(slopes), max(256, len(slopes) // 4))
    frequencies, power = signal.welch(slopes, 1.0 / timestep, "hann", segment, detrend="constant", axis=0)
    absorption = power.sum(axis=-1)
    wavenumbers = frequencies / _SPEED_OF_LIGHT_CM_PER_FS
    kept = wavenumbers < 5000.0
    absorption = absorption[kept] / max(float(absorption[kept, 0].max()), np.finfo(float).tiny)
    return Spectrum(wavenumbers[kept], absorption[:, 0], absorption[:, 1])


def describe_modes(modes: Modes, atoms: ase.Atoms) -> str:
    """Return a table of the modes for the console."""
    lines = [
        f"{atoms.get_chemical_formula()}: energy {atoms.get_potential_energy():.4f} eV",
        "  mode   frequency, 1/cm   IR intensity, km/mol (PhysNet)   (DCMNet)",
    ]
    for i, wavenumber in enumerate(modes.wavenumbers):
        shown = f"{wavenumber:.1f}" if wavenumber >= 0 else f"{-wavenumber:.1f} i"
        lines.append(f"  {i + 1:>4}{shown:>18}{modes.intensities[i]:>33.2f}{modes.intensities_dcm[i]:>11.2f}")
    imaginary = int((modes.wavenumbers < 0).sum())
    if imaginary:
        lines.append(f"note: {imaginary} imaginary frequencies: not a minimum, but a saddle point")
    return "\n".join(lines)


def write_geometry(path: Path, atoms: ase.Atoms) -> None:
    """Write extended XYZ, without a calculator's results."""
    text = io.StringIO()
    plain = atoms.copy()  # a copy has no calculator
    plain.write(text, format="extxyz")
    write_atomically(path, text.getvalue().encode())


def write_modes(path: Path, modes: Modes) -> None:
    """Write a table of the modes as CSV."""
    names = ("mode", "wavenumber_per_cm", "intensity_km_per_mol", "intensity_dcm_km_per_mol")
    columns = (np.arange(1, len(modes.wavenumbers) + 1), modes.wavenumbers, modes.intensities, modes.intensities_dcm)
    _write_csv(path, names, columns)


def write_spectra(path: Path, modes: Modes, width: float, dynamics: Spectrum | None = None) -> None:
    """Write the broadened harmonic spectrum as CSV, and that of the dynamics beside it (``-dynamics``)."""
    harmonic = broadened(modes, width)
    _write_csv(path, ("wavenumber_per_cm", "absorption_km_per_mol_cm", "absorption_dcm_km_per_mol_cm"), harmonic)
    if dynamics:
        names = ("wavenumber_per_cm", "absorption_relative", "absorption_dcm_relative")
        _write_csv(path.with_name(f"{path.stem}-dynamics.csv"), names, dynamics)


def draw_spectra(name: str, modes: Modes, width: float, dynamics: Spectrum | None = None) -> Figure:
    """Draw sticks and bands, and the spectrum of the dynamics below."""
    harmonic = broadened(modes, width)
    figure = Figure(figsize=(8, 6.5 if dynamics else 4), layout="constrained")
    axes = figure.subplots(2 if dynamics else 1, 1, sharex=True, squeeze=False)[:, 0]
    real = modes.wavenumbers > 0
    pairs = (
        ("PhysNet's charges", "C0", "-", modes.intensities, harmonic.absorption),
        ("distributed charges", "C1", "--", modes.intensities_dcm, harmonic.absorption_dcm),
    )
    for label, color, style, intensities, absorption in pairs:
        axes[0].plot(harmonic.wavenumbers, absorption, style, color=color, label=label)
        # Sticks as high as their band by itself.
        axes[0].vlines(modes.wavenumbers[real], 0.0, intensities[real] * 2.0 / (np.pi * width), color=color, alpha=0.5)
    axes[0].set(title=f"{literal(name)}, harmonic", ylabel="absorption, km/mol per 1/cm")
    if dynamics:
        axes[1].plot(dynamics.wavenumbers, dynamics.absorption, color="C0", label="PhysNet's charges")
        axes[1].plot(dynamics.wavenumbers, dynamics.absorption_dcm, "--", color="C1", label="distributed charges")
        axes[1].set(title=f"{literal(name)}, from molecular dynamics", ylabel="absorption, relative")
    for axis in axes:
        axis.set_xlim(0.0, harmonic.wavenumbers[-1])
        axis.set_ylim(bottom=0.0)
        axis.legend()
    axes[-1].set_xlabel("wavenumber, 1/cm")
    return figure


def _write_csv(path: Path, names: tuple[str, ...], columns: tuple[np.ndarray, ...]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*(np.round(column, 8).tolist() for column in columns), strict=True))
    write_atomically(path, text.getvalue().encode())

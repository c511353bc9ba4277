"""``python -m train.spectra``: geometry, harmonic frequencies, IR intensities and spectra of a molecule."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserError, run_program
from shared.log import log
from shared.settings import Finite, NonNegative, PathName, Positive, parse_flags
from train.step.start import start_jax

_FEWEST_STEPS = 16
"""Shortest trajectory that has a spectrum."""


@dataclass(frozen=True)
class SpectraConfig:
    """Compute IR spectra of a molecule: harmonic, and by request from molecular dynamics."""

    run: PathName
    """Folder of the run, runs/NAME (or a copy of its best/)."""

    molecule: str = ""
    """Name of a molecule that ASE can build: CO2, H2O, CH3OH ..."""

    geometry: str = ""
    """File with the molecule, in any format that ASE reads, instead of its name."""

    charge: Finite | None = None
    """Total charge, e (default: the file's, else 0)."""

    output: str = ""
    """Folder of the results (default: spectra/MOLECULE in the run's folder)."""

    fmax: Positive = 1e-4
    """Largest force on an atom of the optimised geometry, eV/Å."""

    width: Positive = 10.0
    """Full width at half maximum of the broadened harmonic bands, 1/cm."""

    md_ps: NonNegative = 0.0
    """Length of a trajectory at constant energy whose dipole gives an anharmonic spectrum, ps (0 = none)."""

    temperature: Positive = 300.0
    """Temperature that the trajectory begins with, K."""

    timestep: Positive = 0.5
    """Time step of the trajectory, fs."""

    seed: int = 0
    """Seed of the velocities."""

    strict: bool = False
    """Stop at what no training molecule had (total charge, bonds, fragments, size ...), instead of a note."""


def main(argv: Sequence[str] | None = None) -> None:
    """Compute and write the spectra.

    Raises:
        UserError: no such run or molecule, or a geometry that cannot be optimised; with --strict, one that has what no
            training molecule had.
    """
    asked = parse_flags(SpectraConfig, "python -m train.spectra", argv)
    if bool(asked.molecule) == bool(asked.geometry):
        raise UserError("--molecule NAME or --geometry FILE: give one of the two")
    if asked.md_ps and 1000.0 * asked.md_ps / asked.timestep < _FEWEST_STEPS:
        raise UserError(f"--md-ps {asked.md_ps:g}: at least {_FEWEST_STEPS} steps of --timestep {asked.timestep:g} fs")
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    from shared.drawing import save_picture
    from train.inference.calculator import JointCalculator
    from train.inference.infrared import (
        describe_modes,
        draw_spectra,
        harmonic_modes,
        infrared_from_dynamics,
        optimise,
        write_geometry,
        write_modes,
        write_spectra,
    )
    from train.inference.molecule_input import read_molecule

    atoms = read_molecule(asked.molecule, asked.geometry)
    if asked.charge is not None:
        atoms.info["charge"] = asked.charge
    calculator = JointCalculator(asked.run, strict=asked.strict)
    atoms.calc = calculator
    optimise(atoms, asked.fmax)
    modes = harmonic_modes(calculator.predictor.derivatives(atoms), atoms)
    log.info(describe_modes(modes, atoms))
    if errors := calculator.predictor.dipole_errors():
        whose = " of single members" if calculator.predictor.is_ensemble else ""
        log.info(
            f"dipoles{whose} on the validation split are off by {errors[0]:.3g} D (PhysNet), {errors[1]:.3g} D "
            "(DCMNet): trust the intensities of the smaller one"
        )
    name = asked.molecule or Path(asked.geometry).stem
    folder = Path(asked.output) if asked.output else Path(asked.run) / "spectra" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_geometry(folder / "geometry.xyz", atoms)
    write_modes(folder / "modes.csv", modes)
    write_spectra(folder / "spectrum.csv", modes, asked.width)
    picture = folder / "spectrum.png"
    save_picture(picture, lambda: draw_spectra(name, modes, asked.width))
    if asked.md_ps:
        # Last, because it may take long and be stopped.
        dynamics = infrared_from_dynamics(atoms, asked.md_ps, asked.timestep, asked.temperature, asked.seed)
        write_spectra(folder / "spectrum.csv", modes, asked.width, dynamics)
        save_picture(picture, lambda: draw_spectra(name, modes, asked.width, dynamics))
    log.info(f"geometry, modes, spectrum and picture in {folder}")


if __name__ == "__main__":
    sys.exit(run_program(main))

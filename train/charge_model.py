"""``python -m train.charge_model``: constant charges of one molecule for force fields, fitted to the model's ESP."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import re
import sys
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from shared.errors import UserError, run_program
from shared.files import naming, write_atomically
from shared.log import log
from shared.settings import Finite, NonNegative, PathName, Positive, PositiveInt, Seed, parse_flags
from train.step.start import start_jax

if TYPE_CHECKING:
    import ase
    import numpy as np

    from train.fixed_charges.fitting import FittedCharges

_WRITTEN = re.compile(r"openmm\.xml|molecule\.pdb|gromacs\.itp|charmm\.(dcm|rtf|kern)|x_fit\.txt|coefs\d+\.txt")
"""Files for other programs, some of which a molecule may lack."""

_FORMAT_VERSION = 1

_SADDLE = 50.0
"""1/cm: larger imaginary modes are not those of nearly free motions."""


@dataclass(frozen=True)
class ChargeModelConfig:
    """Fit constant charges in local frames of one molecule to the model's ESP around thermal geometries."""

    run: PathName
    """Folder of the run, runs/NAME (or a copy of its best/); of an ensemble one member, runs/NAME/best/member-0."""

    molecule: str = ""
    """Name of a molecule that ASE can build: CO2, H2O, CH3OH ..."""

    geometry: str = ""
    """File with the molecule, in any format that ASE reads, instead of its name."""

    frames: str = ""
    """File with many geometries of it instead of thermal ones (FILE@0:100: those); of NPZ the ESP is fitted too."""

    charge: Finite | None = None
    """Total charge, e (default: the file's, else 0)."""

    output: str = ""
    """Folder of the results (default: charge-model/MOLECULE in the run's folder)."""

    samples: Annotated[int, Field(ge=5)] = 100
    """Geometries that are drawn, also of those of --frames; a fifth is held out, for errors and number of charges."""

    temperature: NonNegative = 300.0
    """Temperature of the geometries, K."""

    statistics: Literal["quantum", "classical"] = "quantum"
    """Spread of the normal modes: that of quantum oscillators (with zero-point motion), or kT in each as of --md-ps."""

    md_ps: NonNegative = 0.0
    """Length of a trajectory at the temperature, ps, that geometries are taken from instead of normal modes."""

    seed: Seed = 0
    """Seed of the geometries."""

    fmax: Positive = 1e-3
    """Largest force on an atom of the optimised geometry, eV/Å."""

    max_charges: PositiveInt | None = None
    """Most charges (default: as few as have nearly the least error)."""

    esp_budget: Positive | None = None
    """Largest RMSE of the ESP on held-out geometries, kcal/mol/e; the fewest charges that keep it are taken."""

    kernels: bool = True
    """Fit positions that depend on the geometry too."""

    compare: str = ""
    """File with your own atomic charges, for the table: mol2, CHARMM's ATOM lines, or CSV of atom,charge."""

    residue: Annotated[str, Field(pattern=r"^([A-Za-z0-9]{1,8})?$")] = ""
    """Name of the molecule's residue in the files for other programs (default: the molecule's own, if it may be)."""

    lennard_jones: str = ""
    """Lennard-Jones parameters: OpenMM force field with the residue, or lines of atom, sigma/nm, epsilon/(kJ/mol)."""

    bonded: str = ""
    """JSON file of harmonic bonds and angles (default: constraints where they suffice, else from the Hessian)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Fit the charges and write the files.

    Raises:
        UserError: no such run or molecule, or an ensemble; a geometry that cannot be optimised, parameters that cannot
            be used, or charges that cannot be had.
        OSError: the folder cannot be written.
    """
    asked = parse_flags(ChargeModelConfig, "python -m train.charge_model", argv)
    given = [name for name in (asked.molecule, asked.geometry, asked.frames) if name]
    if len(given) != 1:
        raise UserError("--molecule NAME, --geometry FILE or --frames FILE: give one of the three")
    if asked.frames and asked.md_ps:
        raise UserError(f"--md-ps {asked.md_ps:g}: the geometries are those of --frames; leave out one of the two")
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    import numpy as np

    from shared.input.ase_files import split_index
    from train.fixed_charges.charge_errors import describe, describe_stages
    from train.fixed_charges.charge_model import at_nuclei
    from train.fixed_charges.files import describe_departures, kernel_files, read_parameters, simulation_files
    from train.fixed_charges.fitting import fit_molecule
    from train.fixed_charges.frames import read_geometries
    from train.fixed_charges.hessian_terms import describe_terms, fitted_terms
    from train.fixed_charges.symmetry import symmetry_of
    from train.fixed_charges.topology import rigid_constraints
    from train.fixed_charges.user_charges import read_charges
    from train.inference.calculator import JointCalculator
    from train.inference.folder import single_folder
    from train.inference.infrared import optimise
    from train.inference.molecule_input import read_molecule

    frames = read_geometries(asked.frames, asked.samples, asked.seed) if asked.frames else None
    atoms = frames.atoms if frames else read_molecule(asked.molecule, asked.geometry)
    if asked.charge is not None:
        atoms.info["charge"] = asked.charge
    total = _whole_charge(atoms)
    compared = read_charges(asked.compare, len(atoms), total) if asked.compare else None
    calculator = JointCalculator(single_folder(asked.run))
    atoms.calc = calculator
    optimise(atoms, asked.fmax)
    symmetry = symmetry_of(atoms.numbers, atoms.positions)
    name = asked.molecule or split_index(given[0])[0].stem
    # What can fail comes before the fit, which takes minutes.
    folder = Path(asked.output) if asked.output else Path(asked.run) / "charge-model" / name
    residue = asked.residue or (name.upper() if re.fullmatch(r"[A-Za-z0-9]{1,8}", name) else "MOL")
    bare = at_nuclei(symmetry.atomic_numbers, symmetry.positions, symmetry.bonds, total)
    lennard_jones, bonded = read_parameters(bare, residue, asked.lennard_jones or None, asked.bonded or None)
    _require_writable(folder)
    hessian = calculator.predictor.derivatives(atoms).hessian
    notes = _saddle(atoms, hessian)
    if bonded is None and rigid_constraints(bare) is None:
        bonded = fitted_terms(bare, hessian)
        notes.append(f"note: {describe_terms(bare, bonded, hessian)}")
    if lennard_jones is None:
        notes.append("note: without --lennard-jones nothing keeps molecules apart")
    geometries = frames.geometries if frames else _geometries(asked, atoms, hessian)
    predictions = calculator.predictor.predict([_at(atoms, positions) for positions in geometries])
    found = fit_molecule(
        symmetry,
        geometries,
        np.stack([one.dcm_charges for one in predictions]),
        np.stack([one.dcm_sites for one in predictions]),
        total,
        frames.points if frames else None,
        frames.esp if frames else None,
        max_charges=asked.max_charges,
        budget=asked.esp_budget,
        kernels=asked.kernels,
        compared=compared,
        seed=asked.seed,
    )
    for text in (describe_stages(found.stages, found.chosen), describe(found.errors), *notes):
        log.info(text)
    log.info(describe_departures(found.model, found.kernel_model, geometries))
    texts = simulation_files(found.model, residue, lennard_jones, bonded)
    if found.kernel_model:
        texts |= {f"kernel/{file}": text for file, text in kernel_files(found.kernel_model, residue).items()}
    _write(folder, texts, asked, name, found)


def _saddle(atoms: ase.Atoms, hessian: np.ndarray) -> list[str]:
    """Return a note if the geometry is no minimum."""
    from shared.normal_modes import normal_modes

    lowest = normal_modes(atoms.positions, atoms.get_masses(), hessian).wavenumbers.min(initial=0.0)
    if lowest >= -_SADDLE:
        return []
    return [f"note: the relaxed geometry is no minimum ({-lowest:.0f}i/cm); begin with another (--geometry)"]


def _geometries(asked: ChargeModelConfig, atoms: ase.Atoms, hessian: np.ndarray) -> np.ndarray:
    from train.fixed_charges.geometries import thermal_geometries, thermal_trajectory

    if asked.md_ps:
        return thermal_trajectory(atoms, asked.md_ps, asked.samples, asked.temperature, asked.seed)
    return thermal_geometries(atoms, hessian, asked.samples, asked.temperature, asked.statistics, asked.seed)


def _write(folder: Path, texts: dict[str, str], asked: ChargeModelConfig, name: str, found: FittedCharges) -> None:
    from shared.drawing import save_picture
    from shared.sealed import write_sealed
    from train.fixed_charges.charge_errors import draw_errors

    (folder / "kernel" if found.kernel_model else folder).mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_atomically(folder / file, text.encode())
    _remove_older(folder, texts)
    save_picture(folder / "charge-model.png", lambda: draw_errors(name, found.errors, found.stages, found.chosen))
    write_sealed(folder / "charge-model.json", _record(asked, name, found))
    log.info(f"{len(found.model.charges)} charges of {name}, errors and picture in {folder}")


def _remove_older(folder: Path, written: Container[str]) -> None:
    """Remove the files of an earlier fit that this one does not overwrite."""
    for path in [*folder.iterdir(), *(folder / "kernel").glob("*")]:
        if _WRITTEN.fullmatch(path.name) and path.relative_to(folder).as_posix() not in written:
            path.unlink()


def _require_writable(folder: Path) -> None:
    """Write a file, which is gone at once, where the folder is or will be made; a fit that fails leaves none behind."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with naming(nearest), tempfile.TemporaryFile(dir=nearest):
        pass


def _whole_charge(atoms: ase.Atoms) -> int:
    from shared.input.total_charge import total_charge_of

    charge = total_charge_of(atoms)
    if charge != round(charge):
        raise UserError(f"total charge {charge:g} e: charges for a force field sum to an integer; give --charge")
    return round(charge)


def _at(atoms: ase.Atoms, positions: np.ndarray) -> ase.Atoms:
    moved = atoms.copy()
    moved.positions = positions
    return moved


def _record(asked: ChargeModelConfig, name: str, found: FittedCharges) -> dict[str, object]:
    return {
        "format_version": _FORMAT_VERSION,
        "run": asked.run,
        "molecule": name,
        **found.model.as_json(),
        "kernel_model": found.kernel_model.as_json() if found.kernel_model else None,
        "errors": [one.as_json() for one in found.errors],
        "curve": [
            {
                "charges": stage.charges,
                "esp_rmse_kcal_per_mol_e": stage.rmse,
                "held_out_esp_rmse_kcal_per_mol_e": stage.held_out_rmse,
            }
            for stage in found.stages
        ],
    }


if __name__ == "__main__":
    sys.exit(run_program(main))

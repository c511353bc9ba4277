"""``python -m train.export_charges``: distributed charges of molecules for other programs, and their potential."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserError, run_program
from shared.files import write_atomically
from shared.log import log
from shared.settings import Finite, NonNegative, PathName, Positive, parse_flags
from train.step.start import start_jax


@dataclass(frozen=True)
class ExportChargesConfig:
    """Write distributed charges of molecules as XYZ and CSV, their ESP as a cube, and local frames for CHARMM."""

    run: PathName
    """Folder of the run, runs/NAME (or a copy of its best/); of an ensemble one member, runs/NAME/best/member-0."""

    output: PathName
    """Folder to write to."""

    molecule: str = ""
    """Name of a molecule that ASE can build: CO2, H2O, CH3OH ..."""

    geometry: str = ""
    """File with molecules, in any format that ASE reads, instead of a name; all its frames (FILE@0:10: those)."""

    charge: Finite | None = None
    """Total charge of each molecule, e (default: the file's "charge", else 0)."""

    cube: bool = False
    """Write the potential of each molecule as a Gaussian cube file."""

    cube_spacing: Positive = 0.3
    """Spacing of the cube's grid, Å."""

    cube_margin: NonNegative = 4.0
    """Distance from the outermost atoms to the sides of the cube, Å."""

    local_frames: bool = False
    """Write the charges in local frames for the DCM module of CHARMM; of one molecule, which is one conformer."""

    residue: str = "MOL"
    """Name of the molecule's residue in CHARMM's topology, whose atoms are in the same order."""

    strict: bool = False
    """Stop at what no training molecule had (total charge, bonds, fragments, size ...), instead of a note."""


def main(argv: Sequence[str] | None = None) -> None:
    """Predict the charges and write the files.

    Raises:
        UserError: no such run or molecule, or an ensemble; an element that the model was not trained on, or a cube too
            large; with --strict, a molecule that has what no training molecule had.
        OSError: the folder cannot be written.
    """
    asked = parse_flags(ExportChargesConfig, "python -m train.export_charges", argv)
    if bool(asked.molecule) == bool(asked.geometry):
        raise UserError("--molecule NAME or --geometry FILE: give one of the two")
    if not re.fullmatch(r"[A-Za-z0-9]{1,8}", asked.residue):
        raise UserError(f"--residue {asked.residue}: a name of at most eight letters and digits is needed")
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    from train.inference.charge_files import charges_csv, cube_grid, extended_xyz, potential_cube
    from train.inference.charmm_frames import local_frames_text
    from train.inference.folder import single_folder
    from train.inference.molecule_input import read_molecules
    from train.inference.predictor import Predictor

    molecules = read_molecules(asked.molecule, asked.geometry)
    if asked.local_frames and len(molecules) > 1:
        raise UserError(
            f"--local-frames: {asked.geometry} holds {len(molecules)} frames, but such a file is of one conformer; "
            f"choose one: --geometry {asked.geometry}@0"
        )
    if asked.charge is not None:
        for atoms in molecules:
            atoms.info["charge"] = asked.charge
    grids = [cube_grid(atoms, asked.cube_spacing, asked.cube_margin) for atoms in molecules if asked.cube]
    predictor = Predictor(single_folder(asked.run), "float64", strict=asked.strict)
    predictions = predictor.predict(molecules)
    # Everything that can fail comes before the first file is written.
    texts = {"charges.xyz": extended_xyz(molecules, predictions), "charges.csv": charges_csv(molecules, predictions)}
    if asked.local_frames:
        charges, sites = predictions[0].dcm_charges, predictions[0].dcm_sites
        texts["local-frames.dcm"] = local_frames_text(molecules[0], charges, sites, asked.residue)
    folder = Path(asked.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    _remove_older(folder, frames=len(grids), local_frames=asked.local_frames)
    for frame, grid in enumerate(grids):
        cube = potential_cube(predictor, molecules[frame], predictions[frame], grid)
        write_atomically(folder / f"esp-{frame}.cube", cube.encode())
    log.info(f"charges of {len(molecules)} molecules in {folder}")


def _remove_older(folder: Path, frames: int, local_frames: bool) -> None:
    """Remove the files of an earlier export that this one does not overwrite."""
    kept = {f"esp-{frame}.cube" for frame in range(frames)} | ({"local-frames.dcm"} if local_frames else set())
    for path in folder.iterdir():
        if re.fullmatch(r"esp-\d+\.cube|local-frames\.dcm", path.name) and path.name not in kept:
            path.unlink()


if __name__ == "__main__":
    sys.exit(run_program(main))

"""The user's molecules: by name, or from a file in any format that ASE reads."""

from __future__ import annotations

import ase
from ase.build import molecule

from shared.errors import UserError
from shared.input.ase_files import describe_no_element, read_frames
from shared.input.total_charge import describe_spin, total_charge_of
from shared.log import log


def read_molecule(name: str, geometry: str) -> ase.Atoms:
    """Return the molecule of this name (``ase.build``), or the last one of a file, with its total charge.

    Raises:
        UserError: there is no such name or file, or the file is not a molecule.
    """
    return read_molecules(name, geometry)[-1]


def read_molecules(name: str, geometry: str, flag: str = "--geometry") -> list[ase.Atoms]:
    """Return the molecule of this name (``ase.build``), or all frames of a file (``FILE@0:10``: those).

    Of a frame, elements, positions, masses and the total charge (``info["charge"]``) are kept. Messages have the flag
    by which the file was given.

    Raises:
        UserError: there is no such name or file, or the file holds no molecules.
    """
    if name:
        try:
            return [molecule(name)]
        except (KeyError, NotImplementedError) as error:
            raise UserError(f"--molecule {name}: ASE does not know it; give a file with --geometry") from error
    try:
        frames = list(read_frames(geometry))
    except UserError as error:
        raise UserError(f"{flag} {error}") from error
    periodic = sum(bool(frame.pbc.any()) for _, frame in frames)
    if periodic:
        log.info(f"note: {periodic} of {len(frames)} frames are periodic; each is taken for one molecule by itself")
    spins = [spin for _, frame in frames if (spin := describe_spin(frame))]
    if spins:
        log.info(
            f"note: {len(spins)} of {len(frames)} frames state unpaired electrons ({spins[0]}); the model does not "
            "know spins"
        )
    return [_plain(frame, f"{flag} {where}") for where, frame in frames]


def _plain(frame: ase.Atoms, where: str) -> ase.Atoms:
    if (frame.numbers < 1).any():
        raise UserError(f"{where}: {describe_no_element(frame)}")
    try:
        charge = total_charge_of(frame)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    atoms = ase.Atoms(frame.numbers, frame.positions)
    atoms.info["charge"] = charge
    if frame.has("masses"):
        atoms.set_masses(frame.get_masses())
    return atoms

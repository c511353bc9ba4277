"""The user's molecules: by name, or from a file in any format that ASE reads."""

from __future__ import annotations

import ase
import numpy as np
from ase.build import molecule

from shared.errors import UserError
from shared.input.ase_files import read_frames
from shared.log import log
from train.inference.predictor import total_charge_of


def read_molecule(name: str, geometry: str) -> ase.Atoms:
    """Return the molecule of this name (``ase.build``), or the last one of a file, with its total charge.

    Raises:
        UserError: there is no such name or file, or the file is not a molecule.
    """
    return read_molecules(name, geometry)[-1]


def read_molecules(name: str, geometry: str) -> list[ase.Atoms]:
    """Return the molecule of this name (``ase.build``), or all frames of a file (``FILE@0:10``: those).

    Of a frame, elements, positions and the total charge (``info["charge"]``) are kept.

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
        raise UserError(f"--geometry {error}") from error
    periodic = sum(bool(frame.pbc.any()) for _, frame in frames)
    if periodic:
        log.info(f"note: {periodic} of {len(frames)} frames are periodic; each is taken for one molecule by itself")
    return [_plain(frame, f"--geometry {where}") for where, frame in frames]


def _plain(frame: ase.Atoms, where: str) -> ase.Atoms:
    try:
        charge = total_charge_of(frame)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: charge = {frame.info.get('charge')!r} is not a number") from error
    if not np.isfinite(charge):
        raise UserError(f"{where}: charge = {charge} is not finite")
    atoms = ase.Atoms(frame.numbers, frame.positions)
    atoms.info["charge"] = charge
    return atoms

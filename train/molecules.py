"""Molecules of the user: by name, or from a file in any format that ASE reads."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.build import molecule
from ase.io.formats import UnknownFileTypeError

from shared.errors import UserError
from train.predictor import total_charge_of

_UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, StopIteration, EOFError),
    *(OSError, ImportError, NotImplementedError, UnknownFileTypeError, ase.io.ParseError),
)
"""What ASE's readers raise at a file that is not what its name says."""


def read_molecule(name: str, geometry: str) -> ase.Atoms:
    """The molecule of this name (``ase.build``), or the last one of this file, with its total charge.

    Raises:
        UserError: there is no such name or file, or the file is not a molecule.
    """
    return read_molecules(name, geometry)[-1]


def read_molecules(name: str, geometry: str) -> list[ase.Atoms]:
    """The molecule of this name (``ase.build``), or all frames of this file (``FILE@0:10``: those).

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
        read = ase.io.read(geometry, index=None if "@" in Path(geometry).name else ":")
    except FileNotFoundError as error:
        raise UserError(f"--geometry {geometry}: no such file") from error
    except _UNREADABLE as error:
        raise UserError(f"--geometry {geometry}: ASE cannot read it ({error or type(error).__name__})") from error
    frames = [read] if isinstance(read, ase.Atoms) else read
    if not frames:
        raise UserError(f"--geometry {geometry}: no molecules in it")
    periodic = sum(bool(frame.pbc.any()) for frame in frames)
    if periodic:
        print(f"note: {periodic} of {len(frames)} frames are periodic; each is taken for one molecule by itself")
    return [_plain(frame, f"--geometry {geometry}, frame {index}") for index, frame in enumerate(frames)]


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

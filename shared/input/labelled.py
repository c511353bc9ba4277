"""Molecules of any file, foreign or of the project's own kind, in the project's units."""

from __future__ import annotations

import glob
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from shared.errors import UserError
from shared.input.ase_frames import AseSource
from shared.input.labels import FrameKeys, LabelledMolecule, Summary
from shared.input.unit_names import DOCUMENTED, SCALES, Kind, parse_unit

RECORD_KEY = "_mmml_units"
"""0-d text member of an NPZ: JSON, array name -> unit."""

_KIND_OF: dict[str, Kind] = {"R": "position", "E": "energy", "F": "force", "Dxyz": "dipole"}
"""Array -> the kind of its unit, which is also the flag's name."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, KeyError)


class Source(Protocol):
    """One file: iterating gives its molecules in its own units, after which ``summary`` is complete."""

    name: str
    summary: Summary

    def __iter__(self) -> Iterator[LabelledMolecule]:
        """Every molecule in order."""


def is_npz(name: str) -> bool:
    """Whether a file is of the project's own kind, by its name."""
    return Path(name).suffix == ".npz"


def open_source(name: str, keys: FrameKeys) -> Source:
    """The labelled molecules of an NPZ file, or of any file that ASE reads (``FILE@0:10``: those frames).

    Raises:
        UserError: no such file.
    """
    return NpzSource(name) if is_npz(name) else AseSource(name, keys)


def expand_files(names: Sequence[str], flag: str) -> list[str]:
    """The files that names and globs mean, in order.

    Raises:
        UserError: none, or a glob that matches nothing.
    """
    found: list[str] = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"{flag}: {name!r} matches no file")
        found.extend(matches)
    if not found:
        raise UserError(f"{flag}: no file is named")
    return found


def read_labelled(sources: Sequence[Source], flags: Mapping[Kind, str], size: int) -> Iterator[list[LabelledMolecule]]:
    """The molecules of these files in order, at most ``size`` at a time, in Å, eV, eV/Å and e·Å.

    Args:
        sources: the files.
        flags: unit by kind, "auto" or absent for what the file's record says, else the convention of its format.
        size: molecules at a time.

    Raises:
        UserError: a file cannot be read, or a unit is not known.
    """
    chunk: list[LabelledMolecule] = []
    for source in sources:
        for molecule in source:
            chunk.append(_converted(molecule, source, flags))
            if len(chunk) == size:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def unit_of(source: Source, array: str, flags: Mapping[Kind, str]) -> str:
    """The unit of an array (R, E, F, Dxyz), by its name in :data:`shared.input.unit_names.SCALES`.

    Raises:
        UserError: it is not known.
    """
    kind = _KIND_OF[array]
    flag = flags.get(kind, "auto")
    if flag != "auto":
        return parse_unit(flag, kind, f"--{kind}-unit {flag}")
    return parse_unit(source.summary.units[array], kind, f"{source.name}: {array} ({source.summary.units_from})")


def _converted(molecule: LabelledMolecule, source: Source, flags: Mapping[Kind, str]) -> LabelledMolecule:
    def scale(array: str) -> float:
        return SCALES[_KIND_OF[array]][unit_of(source, array, flags)]

    return replace(
        molecule,
        positions=molecule.positions * scale("R"),
        energy=molecule.energy if np.isnan(molecule.energy) else molecule.energy * scale("E"),
        forces=None if molecule.forces is None else molecule.forces * scale("F"),
        dipole=None if molecule.dipole is None else molecule.dipole * scale("Dxyz"),
    )


class NpzSource:
    """The molecules of an NPZ file as the README documents it; each member is loaded whole."""

    def __init__(self, name: str) -> None:
        """Find the file.

        Raises:
            UserError: no such file.
        """
        if not Path(name).is_file():
            raise UserError(f"{name}: " + ("is a directory" if Path(name).is_dir() else "no such file"))
        self.name = name
        self.summary = Summary(
            units={array: DOCUMENTED[kind] for array, kind in _KIND_OF.items()}, units_from="the documented unit"
        )

    def __iter__(self) -> Iterator[LabelledMolecule]:
        """Every row.

        Raises:
            UserError: a damaged file, a pickled member, or no R, Z.
        """
        try:
            with np.load(self.name, allow_pickle=False) as file:
                keys = [key for key in ("R", "Z", "N", "E", "F", "Dxyz", "D", "Q", "name", RECORD_KEY) if key in file]
                arrays = {key: np.asarray(file[key]) for key in keys}
        except _DAMAGED as error:
            raise UserError(f"{self.name}: not a readable NPZ file ({error})") from error
        for key in ("R", "Z"):
            if key not in arrays:
                raise UserError(f"{self.name}: key {key!r} is missing; the file holds {', '.join(sorted(arrays))}")
        self._describe(arrays)
        yield from (self._row(arrays, row) for row in range(len(arrays["Z"])))

    def _describe(self, arrays: dict[str, np.ndarray]) -> None:
        summary, n = self.summary, len(arrays["Z"])
        if RECORD_KEY in arrays:
            summary.units |= json.loads(str(arrays[RECORD_KEY]))
            summary.units_from = f"the file's record {RECORD_KEY!r}"
        summary.frames = n
        for quantity, names in (("energy", "E"), ("forces", "F"), ("dipole", ("Dxyz", "D")), ("charge", "Q")):
            key = next((name for name in names if name in arrays), None)
            if key:
                summary.keys[quantity] = key
            missing = np.isnan(arrays[key].reshape(n, -1)[:, 0]).sum() if key else n
            summary.lacking[quantity] = int(missing)

    def _row(self, arrays: dict[str, np.ndarray], row: int) -> LabelledMolecule:
        where = f"{self.name}, row {row}"
        numbers = arrays["Z"][row]
        n = int(arrays["N"][row].ravel()[0]) if "N" in arrays else int((numbers > 0).sum())

        def present(quantity: str) -> np.ndarray | None:
            key = self.summary.keys.get(quantity)
            values = None if key is None else arrays[key][row].astype(np.float64)
            return None if values is None or np.isnan(values.ravel()[0]) else values

        energy, forces, charge = present("energy"), present("forces"), present("charge")
        return LabelledMolecule(
            where=where,
            numbers=numbers[:n].astype(np.int64),
            positions=arrays["R"][row, :n].astype(np.float64),
            energy=np.nan if energy is None else float(energy.ravel()[0]),
            forces=None if forces is None else forces[:n],
            dipole=present("dipole"),
            charge=0.0 if charge is None else float(charge.ravel()[0]),
            name=_text(arrays["name"][row].ravel()[0]) if "name" in arrays else "",
        )


def _text(name: np.bytes_ | np.str_) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

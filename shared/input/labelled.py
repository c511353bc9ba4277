"""Molecules of any file, foreign or of the project's own kind, in the project's units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from shared.elements import MAX_ATOMIC_NUMBER
from shared.errors import UserError
from shared.input.ase_frames import AseSource
from shared.input.file_names import expand, is_npz, on_disk
from shared.input.labels import FrameKeys, LabelledMolecule, Quantity, Summary
from shared.input.layout import Quantity as Column
from shared.input.layout import understand_efd
from shared.input.npz import NpzFile
from shared.input.npz_rows import NpzRows
from shared.input.quadrupoles import find_form, quadrupoles_of
from shared.input.rows import Read, read_atoms, read_names, read_numbers, read_quadrupoles, read_values
from shared.input.unit_choice import choose_units
from shared.input.unit_names import SCALES, Kind, parse_unit

_KIND_OF: dict[str, Kind] = {
    "R": "position",
    "E": "energy",
    "F": "force",
    "Dxyz": "dipole",
    "quadrupole": "quadrupole",
}
"""Kind of unit of each array, which is also the flag's name."""
_QUANTITIES: dict[Quantity, Column] = {
    "energy": "energy",
    "forces": "forces",
    "dipole": "dipole",
    "quadrupole": "quadrupole",
    "charge": "total_charge",
}
_BYTES_AT_ONCE = 16 << 20


class Source(Protocol):
    """A file of molecules: iteration yields them in the file's units, after which ``summary`` is complete."""

    name: str
    summary: Summary

    def __iter__(self) -> Iterator[LabelledMolecule]:
        """Yield every molecule in order."""


def open_source(name: str, keys: FrameKeys) -> Source:
    """Open the labelled molecules of an NPZ file, or of any file that ASE reads (``FILE@0:10``: those frames).

    Raises:
        UserError: no such file, or some rows of an NPZ file, which is read whole.
    """
    whole, at, _ = name.rpartition("@")
    if at and not Path(name).exists() and Path(whole).suffix.lower() == ".npz":
        raise UserError(f"{name}: an NPZ file is read whole; name it without @")
    return NpzSource(name) if is_npz(name) else AseSource(name, keys)


def expand_files(names: Sequence[str], flag: str) -> list[str]:
    """Expand names and globs to files, in order.

    Raises:
        UserError: none, or a glob that matches nothing.
    """
    found = expand(names, flag, pipes=True)
    if not found:
        raise UserError(f"{flag}: no file is named")
    return found


def read_labelled(sources: Sequence[Source], flags: Mapping[Kind, str], size: int) -> Iterator[list[LabelledMolecule]]:
    """Yield the molecules of these files in order, at most ``size`` at a time, in Å, eV, eV/Å, e·Å and e·Å².

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
    """Return the unit of an array (R, E, F, Dxyz, quadrupole), by its name in :data:`shared.input.unit_names.SCALES`.

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
        quadrupole=None if molecule.quadrupole is None else _quadrupole(molecule.quadrupole, scale("quadrupole")),
    )


def _quadrupole(tensor: np.ndarray, scale: float) -> np.ndarray | None:
    """Return the traceless quadrupole (3, 3) of a molecule's tensor; None if it is none."""
    if not tensor.any():  # of a symmetric molecule
        return tensor
    form = find_form(tensor[None])
    if isinstance(form, str):
        return None
    # As it is where it can be: labels are copied to the last digit.
    return (tensor if form.is_traceless else quadrupoles_of(tensor[None], form)[0]) * scale


class NpzSource:
    """The molecules of an NPZ file of any kind that :mod:`shared.input.layout` knows, some rows at a time."""

    def __init__(self, name: str) -> None:
        """Open and understand the file.

        Raises:
            UserError: no such file, or one without geometries, or with members of another shape or kind.
        """
        self.name = name
        self._layout = layout = understand_efd(NpzFile(on_disk(Path(name)), name), needs_energy=False)
        self.summary = summary = Summary(frames=layout.rows)
        for quantity, column in _QUANTITIES.items():
            if column in layout:
                summary.keys[quantity] = layout.key(column)
        chosen = choose_units(layout, None, {})
        summary.units = {array: asdict(chosen.units)[f"{kind}_unit"] for array, kind in _KIND_OF.items()}
        if "quadrupole" not in layout:
            del summary.units["quadrupole"]
        summary.units_from = ", ".join(sorted({chosen.reasons[_KIND_OF[array]] for array in summary.units}))
        summary.notes += [f"{key!r} left alone: {why}" for key, why in layout.left_alone.items() if why != "not needed"]

    def __iter__(self) -> Iterator[LabelledMolecule]:
        """Yield every row, in the file's units.

        Raises:
            UserError: the file is damaged, or a row holds no molecule.
        """
        layout, rows = self._layout, NpzRows(self._layout.file)
        self.summary.lacking = {}
        step = max(1, _BYTES_AT_ONCE // max(layout.file.row_bytes(layout.row_keys), 1))
        try:
            for start in range(0, layout.rows, step):
                yield from self._rows(lambda *member: rows.read(*member)[0], start, min(start + step, layout.rows))
        finally:
            rows.close()

    def _rows(self, read: Read, start: int, stop: int) -> Iterator[LabelledMolecule]:
        layout = self._layout
        numbers, n_atoms = read_numbers(read, layout, start, stop)
        positions = read_atoms(read, layout, "positions", start, stop, n_atoms)
        forces = read_atoms(read, layout, "forces", start, stop, n_atoms) if "forces" in layout else positions * np.nan
        energy = read_values(read, layout, "energy", start, stop)
        dipole = read_values(read, layout, "dipole", start, stop, axes=3)
        quadrupole = read_quadrupoles(read, layout, start, stop)
        charge = np.nan_to_num(read_values(read, layout, "total_charge", start, stop))
        names = read_names(read, layout, start, stop)
        for i, n in enumerate(n_atoms):
            where = f"{self.name}, row {start + i}"
            _require_molecule(where, numbers[i], int(n), positions[i])
            lacks = {"energy": np.isnan(energy[i]), "forces": np.isnan(forces[i, :n]).any()}
            lacks["dipole"] = np.isnan(dipole[i]).any()
            if "quadrupole" in layout:
                lacks["quadrupole"] = np.isnan(quadrupole[i]).any()
            for quantity, lacking in lacks.items():
                self.summary.lacking[quantity] = self.summary.lacking.get(quantity, 0) + int(lacking)
            yield LabelledMolecule(
                where=where,
                numbers=numbers[i, :n],
                positions=positions[i, :n],
                energy=float(energy[i]),
                forces=None if lacks["forces"] else forces[i, :n],
                dipole=None if lacks["dipole"] else dipole[i],
                quadrupole=None if np.isnan(quadrupole[i]).any() else quadrupole[i],
                charge=float(charge[i]),
                name=bytes(names[i]).decode("utf-8", "replace"),
            )


def _require_molecule(where: str, numbers: np.ndarray, n: int, positions: np.ndarray) -> None:
    """Refuse a row that holds no molecule.

    Raises:
        UserError: the number of atoms, an element or a position is invalid.
    """
    if not 1 <= n <= len(numbers):
        raise UserError(f"{where}: 'N' is {n}; the arrays have room for 1 to {len(numbers)} atoms")
    bad = (numbers[:n] < 1) | (numbers[:n] > MAX_ATOMIC_NUMBER)
    if bad.any():
        raise UserError(f"{where}: 'Z' holds {numbers[:n][bad][0]} at atom {int(np.argmax(bad))}, which is no element")
    if not np.isfinite(positions[:n]).all():
        raise UserError(f"{where}: 'R' holds a position that is not a number")

"""Reading of frames of any file that ASE reads, one by one: extended XYZ, databases, SDF, PDB, logs of programs."""

from __future__ import annotations

import codecs
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
from ase.db.row import AtomsRow
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, open_with_compression, string2index

from shared.errors import UserError
from shared.files import require_readable
from shared.input.file_names import on_disk
from shared.input.isotopes import ISOTOPES, masses_of_mol, with_masses

_UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, EOFError, RuntimeError),
    *(OSError, ImportError, NotImplementedError, UnknownFileTypeError, ase.io.ParseError, sqlite3.Error),
)
"""Errors of ASE's readers at a file of another format than its name's (RuntimeError: an iteration that ended early)."""

_ROWS_AT_ONCE = 256
"""Rows of a query to an SQLite database: ASE fetches all rows of a query at once."""


def split_index(name: str) -> tuple[Path, slice]:
    """Split ``FILE`` or ``FILE@0:10`` into file and frames; an existing file with such a name takes precedence.

    Raises:
        UserError: no such file, or a directory.
    """
    path, index = Path(name), slice(None)
    if not path.exists() and "@" in path.name:
        stem, _, text = name.rpartition("@")
        try:
            chosen = string2index(text)
        except ValueError:
            chosen = text
        if isinstance(chosen, int):
            chosen = slice(chosen, chosen + 1 or None)
        if isinstance(chosen, slice):
            path, index = Path(stem), chosen
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a directory, not a file of molecules")
    return path, index


def read_frames(name: str) -> Iterator[tuple[str, ase.Atoms]]:
    """Yield every frame of ``FILE`` or ``FILE@0:10`` with its place (``FILE, frame 3``, counted from 0).

    ASE may hold files in memory, except extended XYZ, SQLite databases and SDF.

    Raises:
        UserError: no such file, a format that ASE cannot read, a damaged one, or no frames.
    """
    path, index = split_index(name)
    frames = _open(on_disk(path), format_of(path), index)
    start, step = index.start or 0, index.step or 1
    count = 0
    while True:
        # The number of a frame counted from the end is not known before the file is read.
        where = f"{path}, frame {start + count * step}" if start >= 0 else f"{path}, frame {count} of those chosen"
        try:
            atoms = next(frames, None)
        except _UNREADABLE as error:
            require_readable(on_disk(path))
            raise UserError(f"{where}: {_reason(error)}") from error
        if atoms is None:
            break
        yield where, atoms
        count += 1
    if count == 0 and index == slice(None):
        raise UserError(f"{path}: no molecules in it")
    if count == 0:
        raise UserError(f"{name} names none of the frames of {path}, which are counted from 0")


def describe_no_element(atoms: ase.Atoms) -> str:
    """Return what is wrong with a frame that has atoms of no element."""
    own = "dcm_charge" in atoms.arrays or "atom" in atoms.arrays
    ours = ": the distributed charges that export_charges wrote; give the file without these lines" if own else ""
    return f"atom {int(np.argmin(atoms.numbers))} has no element (symbol X){ours}"


def database_metadata(name: str) -> dict[str, Any]:
    """Return the metadata of a database (schnetpack: units); empty for other files."""
    path, _ = split_index(name)
    if format_of(path) not in ("db", "json"):
        return {}
    try:
        with _connect(path) as database:
            return dict(database.metadata)
    except _UNREADABLE as error:
        require_readable(path)
        raise UserError(f"{path}: {_reason(error)}") from error


def format_of(path: Path) -> str:
    """Return ASE's name of a file's format.

    Raises:
        UserError: it is not known, or would have to be unpickled.
    """
    file = on_disk(path)
    if file.stat().st_size == 0:
        raise UserError(f"{path}: no molecules in it (an empty file)")
    try:
        # A pipe's name says nothing.
        found: str = "extxyz" if file != path and _begins_with_a_count(file) else filetype(str(file))
        get_ioformat(found)
    except _UNREADABLE as error:
        require_readable(file)
        raise UserError(f"{path}: not a format that ASE knows; extended XYZ (.xyz) is the common one") from error
    if found == "traj":
        with file.open("rb") as stream:
            if stream.read(8) != b"- of Ulm":
                raise UserError(f"{path}: a trajectory of an old ASE, which is a pickle; these are never loaded")
    return found


def _begins_with_a_count(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.readline(100).removeprefix(codecs.BOM_UTF8).strip().isdigit()


def _reason(error: Exception) -> str:
    """Return why ASE could not read a file: what it said, or that the text is not in UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return f"its text is not in UTF-8 ({error.reason}); save it in UTF-8"
    if isinstance(error, KeyError) and error.args and str(error.args[0]) in ISOTOPES:
        return f"{error.args[0]} is an isotope of hydrogen; write H, and the masses as in extended XYZ: masses:R:1"
    return f"ASE cannot read it ({error or type(error).__name__})"


def _open(path: Path, found: str, index: slice) -> Iterator[ase.Atoms]:
    if found == "extxyz":
        yield from _extended_xyz(path, index)
    elif found in ("db", "json"):
        yield from _chosen(_database(path, found), index)
    elif found in ("sdf", "mol"):
        yield from _chosen(_sdf(path), index)
    elif get_ioformat(found).single:
        yield from _chosen(ase.io.iread(str(path), 0, format=found, do_not_split_by_at_sign=True), index)
    else:
        yield from ase.io.iread(str(path), index, format=found, do_not_split_by_at_sign=True)


def _chosen(frames: Iterator[ase.Atoms], index: slice) -> Iterator[ase.Atoms]:
    if min(index.start or 0, index.stop or 0) < 0 or (index.step or 1) < 1:
        raise ValueError("frames of this format are chosen by numbers from 0 up, as in FILE@0:10")
    return islice(frames, index.start, index.stop, index.step)


def _extended_xyz(path: Path, index: slice) -> Iterator[ase.Atoms]:
    with open_with_compression(str(path), "rb") as content, TextIOWrapper(content, encoding="utf-8-sig") as text:
        stream = with_masses(text)
        yield from ase.io.iread(stream, index, format="extxyz")
        # ASE ends at the first blank line, and leaves the stream after the last frame that it read.
        if index == slice(None) and stream.read(1 << 16).strip():
            raise ValueError("a blank line, at which ASE stops, and more follows it; remove the line")


def _database(path: Path, kind: str) -> Iterator[ase.Atoms]:
    if kind == "json":
        yield from (_of_row(row) for row in _connect(path).select())
        return
    last = 0
    while True:
        # Otherwise ASE opens a file of SQLite once more for every row, and closes none.
        with _connect(path) as database:
            rows = list(database.select(f"id>{last}", sort="id", limit=_ROWS_AT_ONCE))
        yield from map(_of_row, rows)
        if len(rows) < _ROWS_AT_ONCE:
            return
        last = rows[-1].id


def _connect(path: Path) -> Any:
    if path.suffix == ".db":
        # ASE would write its tables into a foreign database.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone():
                raise ValueError("an SQLite database, but not one of ASE's")
    return ase.db.connect(str(path), serial=True, use_lock_file=False)


def _of_row(row: AtomsRow) -> ase.Atoms:
    atoms = row.toatoms(add_additional_information=True)
    # Flat, as in the other formats: the table that holds a value does not matter.
    atoms.info = {**atoms.info.get("data", {}), **atoms.info.get("key_value_pairs", {})}
    return atoms


def _sdf(path: Path) -> Iterator[ase.Atoms]:
    """Yield every molecule with its title and the sum of its formal charges; ASE alone reads the first one's atoms."""
    lines: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("$$$$"):
                yield _of_mol(lines)
                lines = []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        yield _of_mol(lines)


def _of_mol(lines: list[str]) -> ase.Atoms:
    lines, masses = masses_of_mol(lines)
    atoms = next(ase.io.iread(StringIO("".join(lines)), format="sdf"))
    if masses:
        atoms.set_masses([masses.get(atom, mass) for atom, mass in enumerate(atoms.get_masses())])
    charges = [line.split()[4::2] for line in lines if line.startswith("M  CHG")]
    atoms.info["charge"] = sum(int(charge) for group in charges for charge in group)
    if lines[0].strip():
        atoms.info["name"] = lines[0].strip()
    return atoms

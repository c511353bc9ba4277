"""Writing of molecules as one NPZ file in the project's layout, without holding them in memory.

Atoms and grid points of all molecules are appended to flat temporary files; at the end these are read back a few
molecules at a time, padded, and written as the members of an uncompressed archive.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shared.files import atomic_path
from shared.input.labels import LabelledMolecule
from shared.input.layout import CONVERTED_KEY
from shared.input.records import RECORD_KEY

_BYTES_AT_ONCE = 4 << 20


class Ragged:
    """Rows of different lengths, one after the other in a flat file."""

    def __init__(self, path: Path, dtype: str, item_shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._item_shape = np.dtype(dtype), item_shape
        self._stream = path.open("wb+")
        self.counts = array("q")  # length of each row
        self._starts = array("q")  # in bytes
        self._end = 0

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def width(self) -> int:
        """Return the length of the longest row."""
        return max(self.counts, default=0)

    def append(self, values: np.ndarray) -> None:
        """Append a row (k, *item_shape)."""
        content = np.ascontiguousarray(values, self._dtype).tobytes()
        self._starts.append(self._end)
        self.counts.append(len(values))
        self._stream.write(content)
        self._end += len(content)

    def row(self, index: int) -> np.ndarray:
        """Return a row (k, *item_shape)."""
        self._stream.flush()
        size = self.counts[index] * int(np.prod(self._item_shape, dtype=int)) * self._dtype.itemsize
        content = os.pread(self._stream.fileno(), size, self._starts[index])
        return np.frombuffer(content, self._dtype).reshape(-1, *self._item_shape)

    def padded(self, indices: np.ndarray, width: int) -> np.ndarray:
        """Return rows (m, width, *item_shape), padded with zeros; an index of -1 gives a row of zeros."""
        result = np.zeros((len(indices), width, *self._item_shape), self._dtype)
        for place, index in enumerate(indices):
            if index >= 0:
                result[place, : self.counts[index]] = self.row(index)
        return result

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class CanonicalFile:
    """An NPZ file that is being written."""

    def __init__(self, path: Path) -> None:
        """Choose the file and its temporary folder.

        Args:
            path: of the finished file, whose folder is there.
        """
        self.path = path
        self._folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.parts")

    def __enter__(self) -> CanonicalFile:
        self._folder.mkdir()
        self.numbers = self._ragged("Z", "<i4")
        self.positions = self._ragged("R", "<f8", (3,))
        self._forces = self._ragged("F", "<f8", (3,))
        self._names = self._ragged("name", "|u1")
        self._points = self._ragged("vdw_surface", "<f8", (3,))
        self._esp = self._ragged("esp", "<f8")
        self._numbers_per_molecule = {key: array("d") for key in ("E", "Dxyz", "quadrupole", "Q")}
        self._grid_of: dict[int, int] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for part in (self.numbers, self.positions, self._forces, self._names, self._points, self._esp):
            part.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, molecule: LabelledMolecule) -> None:
        """Append a molecule; labels that it lacks are NaN."""
        self.numbers.append(molecule.numbers)
        self.positions.append(molecule.positions)
        nothing = np.full((len(molecule.numbers), 3), np.nan)
        self._forces.append(nothing if molecule.forces is None else molecule.forces)
        self._names.append(np.frombuffer(molecule.name.encode(), np.uint8))
        self._numbers_per_molecule["E"].append(molecule.energy)
        self._numbers_per_molecule["Q"].append(molecule.charge)
        for key, values, size in (("Dxyz", molecule.dipole, 3), ("quadrupole", molecule.quadrupole, 9)):
            self._numbers_per_molecule[key].extend([np.nan] * size if values is None else values.ravel().tolist())

    def add_grid(self, row: int, points: np.ndarray, esp: np.ndarray) -> None:
        """Add the ESP (G,) in Hartree/e of molecule ``row`` at points (G, 3) in Å."""
        self._grid_of[row] = len(self._esp)
        self._points.append(points)
        self._esp.append(esp)

    def finish(self, units: dict[str, str], summary: dict[str, Any]) -> None:
        """Write the archive atomically."""
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            for key, (shape, dtype, blocks) in self._members().items():
                _write_member(archive, key, shape, dtype, blocks)
            for key, content in ((RECORD_KEY, units), (CONVERTED_KEY, summary)):
                text = np.array(json.dumps(content, sort_keys=True))
                _write_member(archive, key, (), text.dtype, iter([text]))

    def _members(self) -> dict[str, tuple[tuple[int, ...], np.dtype, Iterator[np.ndarray]]]:
        n, rows = len(self), np.arange(len(self))
        atoms, width = self.numbers.width, max(self._names.width, 1)
        members = {
            "R": self._padded(self.positions, rows, atoms, (3,)),
            "Z": self._padded(self.numbers, rows, atoms),
            "N": _whole(np.array(self.numbers.counts, np.int32)),
            "E": _whole(np.array(self._numbers_per_molecule["E"])),
            "F": self._padded(self._forces, rows, atoms, (3,)),
            "Dxyz": _whole(np.array(self._numbers_per_molecule["Dxyz"]).reshape(n, 3)),
            "Q": _whole(np.array(self._numbers_per_molecule["Q"])),
        }
        quadrupoles = np.array(self._numbers_per_molecule["quadrupole"]).reshape(n, 3, 3)
        if not np.isnan(quadrupoles).all():
            members["quadrupole"] = _whole(quadrupoles)
        _, _, names = self._padded(self._names, rows, width)
        members["name"] = ((n,), np.dtype(f"S{width}"), names)
        if self._grid_of:
            grids = np.array([self._grid_of.get(row, -1) for row in range(n)])
            counts = np.array([*self._esp.counts, 0], np.int32)
            members["vdw_surface"] = self._padded(self._points, grids, self._esp.width, (3,))
            members["esp"] = self._padded(self._esp, grids, self._esp.width)
            members["n_grid"] = _whole(counts[grids])
        return members

    def _ragged(self, name: str, dtype: str, item_shape: tuple[int, ...] = ()) -> Ragged:
        return Ragged(self._folder / name, dtype, item_shape)

    @staticmethod
    def _padded(
        part: Ragged, rows: np.ndarray, width: int, item_shape: tuple[int, ...] = ()
    ) -> tuple[tuple[int, ...], np.dtype, Iterator[np.ndarray]]:
        shape = (len(rows), width, *item_shape)
        example = part.padded(rows[:0], width)
        step = max(1, _BYTES_AT_ONCE // max(int(np.prod(shape[1:], dtype=int)) * example.itemsize, 1))
        return shape, example.dtype, (part.padded(rows[i : i + step], width) for i in range(0, len(rows), step))


def _whole(values: np.ndarray) -> tuple[tuple[int, ...], np.dtype, Iterator[np.ndarray]]:
    return values.shape, values.dtype, iter([values])


def _write_member(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterator[np.ndarray]
) -> None:
    # ZipInfo's own date (1980): the same sources give the same bytes.
    with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block).tobytes())

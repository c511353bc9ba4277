"""The users' NPZ pairs as typed arrays of some rows at a time; the chunks that a pair is read in."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.npz import Checksum, NpzFile, NpzRows
from shared import units
from shared.errors import UserError
from shared.schema import SPLITS, Split

_EFD_KEYS = ("R", "Z", "N", "E", "F", "Dxyz", "D", "Q", "name")
_ESP_KEYS = ("R", "Z", "N", "n_grid")
_GRID_KEYS = ("vdw_surface", "esp")


@dataclass(frozen=True)
class InputUnits:
    """Units of the input files, as the settings name them."""

    grid_unit: str
    energy_unit: str
    force_unit: str
    dipole_unit: str

    @classmethod
    def of(cls, config: PreprocessConfig) -> InputUnits:
        """The settings' units."""
        return cls(config.grid_unit, config.energy_unit, config.force_unit, config.dipole_unit)

    @property
    def grid_in_angstrom(self) -> float:
        """Å per unit of the grid."""
        return units.LENGTH_UNITS_IN_ANGSTROM[self.grid_unit]


@dataclass(frozen=True)
class Pair:
    """The two files of some molecules of a split."""

    split: Split
    efd: Path
    esp: Path


@dataclass(frozen=True)
class Chunk:
    """Rows of one pair that are handled together: they become one shard for each bucket."""

    pair: Pair
    index: int  # within the split
    start: int  # first row within the pair's files
    stop: int
    first_row: int  # row of ``start`` counted through all files of the split


@dataclass(frozen=True)
class Molecules:
    """n molecules of one pair: all but the grids. Units are the project's (Å, eV, e).

    A is the largest molecule's number of atoms, whatever the width W of the file.
    """

    pair: Pair
    start: int  # row of the first one in the files
    atomic_numbers: np.ndarray  # (n, W) int64, 0 = padding; W >= A
    n_atoms: np.ndarray  # (n,) int64
    positions: np.ndarray  # (n, A, 3) float64, Å, as given (not centred)
    energy: np.ndarray  # (n,) float64, eV, total
    forces: np.ndarray  # (n, A, 3) float64, eV/Å
    dipole: np.ndarray  # (n, 3) float64, e·Å
    total_charge: np.ndarray  # (n,) float64, e
    name: np.ndarray  # (n,) UTF-8 bytes
    n_grid: np.ndarray  # (n,) int64
    esp_atomic_numbers: np.ndarray  # the ESP file's own Z, N and R, for the pairing
    esp_n_atoms: np.ndarray
    esp_positions: np.ndarray
    grid_width: int  # G, the ESP file's padded number of grid points

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True)
class Grids:
    """The grids of some rows of one pair, as stored: (n, G, 3) in the user's unit, and (n, G) in Hartree/e."""

    points: np.ndarray
    esp: np.ndarray


def find_pairs(config: PreprocessConfig) -> list[Pair]:
    """The pairs of files of every split, in order.

    Raises:
        UserError: no training or validation files, unequal numbers of files, a glob that matches nothing.
    """
    pairs: list[Pair] = []
    for split in SPLITS:
        efd, esp = (_expand(split, kind, getattr(config, f"{split}_{kind}")) for kind in ("efd", "esp"))
        if len(efd) != len(esp):
            raise UserError(
                f"--{split}-efd names {len(efd)} files and --{split}-esp {len(esp)}; they are paired in order"
            )
        if not efd and split != "test":
            raise UserError(f"no {split} files: give --{split}-efd and --{split}-esp (or set them in {config.config})")
        pairs.extend(Pair(split, Path(a), Path(b)) for a, b in zip(efd, esp, strict=True))
    for pair in pairs:
        for path in (pair.efd, pair.esp):
            if not path.is_file():
                what = "is a directory, not an NPZ file" if path.is_dir() else "no such file"
                raise UserError(f"{path}: {what} (split {pair.split})")
    return pairs


def _expand(split: Split, kind: str, names: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"--{split}-{kind}: {name!r} matches no file")
        found.extend(matches)
    return found


class PairFiles:
    """Both files of a pair, their headers checked: nothing but the headers is read."""

    def __init__(self, pair: Pair) -> None:
        """Open and check.

        Raises:
            UserError: a file or key is missing, damaged, or of the wrong shape or kind.
        """
        self.pair = pair
        self.efd, self.esp = NpzFile(pair.efd), NpzFile(pair.esp)
        for file, keys in ((self.efd, ("R", "Z", "N", "E", "F")), (self.esp, ("R", "Z", "N", "esp", "vdw_surface"))):
            for key in keys:
                file.require(key)
        self.dipole_key = self.efd.require("Dxyz", "D")
        self.rows, self.width = _check_geometry(self.efd)
        esp_rows, self.esp_width = _check_geometry(self.esp)
        self.grid_rows, self.grid_width = _grid_shape(self.esp)
        if not self.rows == esp_rows == self.grid_rows:
            raise UserError(
                f"{pair.esp}: {self.grid_rows} molecules, but {pair.efd} has {self.rows}; rows are paired by index, "
                "so both files need the same molecules in the same order"
            )
        if self.rows == 0:
            raise UserError(f"{pair.efd}: the file holds no molecule")
        self.efd.check("E", (self.rows,), "float")
        self.efd.check("F", (self.rows, self.width, 3), "float")
        self.efd.check(self.dipole_key, (self.rows, 3), "float")
        for file, key, kind in ((self.efd, "Q", "float"), (self.efd, "name", "text"), (self.esp, "n_grid", "int")):
            if key in file:
                file.check(key, (self.rows,), kind)
        self.esp.check("vdw_surface", (self.rows, self.grid_width, 3), "float")
        self.esp.check("esp", (self.rows, self.grid_width), "float")

    @property
    def digests(self) -> dict[str, str]:
        """Content digests of both files."""
        return {"efd": self.efd.content_digest, "esp": self.esp.content_digest}

    @property
    def is_sequential(self) -> bool:
        """Whether one reader should read all rows in order (compressed members, or such as are loaded whole)."""
        return self.efd.is_sequential(_EFD_KEYS) or self.esp.is_sequential((*_ESP_KEYS, *_GRID_KEYS))

    def rows_per_chunk(self, chunk_bytes: float) -> int:
        """Rows whose input takes about so many bytes; at least one."""
        row_bytes = self.efd.row_bytes(_EFD_KEYS) + self.esp.row_bytes((*_ESP_KEYS, *_GRID_KEYS))
        return max(1, int(chunk_bytes // row_bytes))


def split_into_chunks(files: list[PairFiles], chunk_bytes: float) -> list[list[Chunk]]:
    """The chunks of every pair: a function of the files' shapes and dtypes alone."""
    chunks: list[list[Chunk]] = []
    next_index: dict[str, int] = {}
    next_row: dict[str, int] = {}
    for file in files:
        split, step = file.pair.split, file.rows_per_chunk(chunk_bytes)
        index, row = next_index.get(split, 0), next_row.get(split, 0)
        starts = range(0, file.rows, step)
        chunks.append(
            [
                Chunk(file.pair, index + i, start, min(start + step, file.rows), row + start)
                for i, start in enumerate(starts)
            ]
        )
        next_index[split], next_row[split] = index + len(starts), row + file.rows
    return chunks


class PairReader:
    """Reads rows of a pair, forwards; keeps the checksums of what it read."""

    def __init__(self, files: PairFiles, input_units: InputUnits) -> None:
        self._files = files
        self._units = input_units
        self._efd, self._esp = NpzRows(files.efd), NpzRows(files.esp)
        self._ahead: ThreadPoolExecutor | None = None
        self.checksums: dict[str, list[Checksum]] = {"efd": [], "esp": []}

    def close(self) -> None:
        """Close both files."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        self._efd.close()
        self._esp.close()

    def _read(self, file: str, key: str, start: int, stop: int) -> np.ndarray:
        rows, piece = (self._efd if file == "efd" else self._esp).read(key, start, stop)
        self.checksums[file].append(piece)
        return rows

    def molecules(self, start: int, stop: int) -> Molecules:
        """Read some rows, but for the grids, and convert the units.

        Raises:
            UserError: a file is damaged.
        """
        files, n = self._files, stop - start

        def read(file: str, key: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            # Integers are not narrowed: a value that does not fit must reach the check that names it.
            return self._read(file, key, start, stop).reshape(shape).astype(dtype, copy=False)

        charges = read("efd", "Q", (n,), np.float64) if "Q" in files.efd else np.zeros(n)
        names = self._read("efd", "name", start, stop).reshape(n) if "name" in files.efd else np.zeros(n, "S1")
        n_grid = read("esp", "n_grid", (n,), np.int64) if "n_grid" in files.esp else np.full(n, files.grid_width)
        n_atoms, esp_n_atoms = read("efd", "N", (n,), np.int64), read("esp", "N", (n,), np.int64)

        def read_atoms(file: str, key: str, width: int, counts: np.ndarray) -> np.ndarray:
            # Files of small molecules padded to sixty atoms are common: only the real part is worth converting.
            real = int(np.clip(counts.max(initial=1), 1, width))
            return self._read(file, key, start, stop).reshape(n, width, 3)[:, :real].astype(np.float64)

        force_unit = units.FORCE_UNITS_IN_EV_PER_ANGSTROM[self._units.force_unit]
        dipole_unit = units.DIPOLE_UNITS_IN_E_ANGSTROM[self._units.dipole_unit]
        return Molecules(
            pair=files.pair,
            start=start,
            atomic_numbers=read("efd", "Z", (n, files.width), np.int64),
            n_atoms=n_atoms,
            positions=read_atoms("efd", "R", files.width, n_atoms),
            energy=read("efd", "E", (n,), np.float64) * units.ENERGY_UNITS_IN_EV[self._units.energy_unit],
            forces=read_atoms("efd", "F", files.width, n_atoms) * force_unit,
            dipole=read("efd", files.dipole_key, (n, 3), np.float64) * dipole_unit,
            total_charge=charges,
            name=_encode(names),
            n_grid=n_grid,
            esp_atomic_numbers=read("esp", "Z", (n, files.esp_width), np.int64),
            esp_n_atoms=esp_n_atoms,
            esp_positions=read_atoms("esp", "R", files.esp_width, esp_n_atoms),
            grid_width=files.grid_width,
        )

    def grids(self, start: int, stop: int) -> Grids:
        """Read the grids of some rows.

        Raises:
            UserError: the file is damaged.
        """
        n, width = stop - start, self._files.grid_width
        points = self._read("esp", "vdw_surface", start, stop).reshape(n, width, 3)
        return Grids(points, self._read("esp", "esp", start, stop).reshape(n, width))

    def read_ahead(self, chunks: list[Chunk]) -> Iterator[tuple[Chunk, Molecules, Grids]]:
        """Every chunk's molecules and grids; compressed grids are inflated a chunk ahead, each member by a thread."""
        if len(chunks) == 1 or not self._files.is_sequential:
            for chunk in chunks:
                yield chunk, self.molecules(chunk.start, chunk.stop), self.grids(chunk.start, chunk.stop)
            return
        self._ahead = ThreadPoolExecutor(3, thread_name_prefix="inflate")

        def start_reading(chunk: Chunk) -> tuple[Any, ...]:
            assert self._ahead is not None
            grids = [self._ahead.submit(self._read, "esp", key, chunk.start, chunk.stop) for key in _GRID_KEYS]
            return (*grids, self._ahead.submit(self.molecules, chunk.start, chunk.stop))

        pending = start_reading(chunks[0])
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            points, esp, molecules = (future.result() for future in pending)
            if following is not None:
                pending = start_reading(following)
            n, width = chunk.stop - chunk.start, self._files.grid_width
            yield chunk, molecules, Grids(points.reshape(n, width, 3), esp.reshape(n, width))


@contextmanager
def open_pair(pair: Pair, input_units: InputUnits) -> Iterator[PairReader]:
    """A reader of a pair, closed at the end."""
    reader = PairReader(PairFiles(pair), input_units)
    try:
        yield reader
    finally:
        reader.close()


def _check_geometry(file: NpzFile) -> tuple[int, int]:
    file.check("Z", (None, None), "int")
    rows, width = file.shape("Z")[:2]
    if width == 0:
        raise UserError(f"{file.path}: 'Z' has shape {file.shape('Z')}: no room for atoms")
    file.check("N", (rows,), "int")
    file.check("R", (rows, width, 3), "float")
    return rows, width


def _grid_shape(file: NpzFile) -> tuple[int, int]:
    shape, points = file.shape("esp"), file.shape("vdw_surface")
    if len(shape) != 2 or points != (*shape, 3):
        raise UserError(
            f"{file.path}: 'esp' has shape {shape} and 'vdw_surface' {points}, expected (n, G) and (n, G, 3)"
        )
    return shape[0], shape[1]


def _encode(names: np.ndarray) -> np.ndarray:
    encoded = np.char.encode(names, "utf-8") if names.dtype.kind == "U" else names
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")

"""Reading of a pair of the users' files as typed arrays in the project's units, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from preprocess.input.grid_points import PointCounts, find_real_points, gather_points
from preprocess.input.pairs import Chunk, Pair, PairFiles, Reading
from shared.elements import centers_of_mass
from shared.input.frame_fit import origin_shift
from shared.input.layout import Quantity
from shared.input.npz import Checksum
from shared.input.npz_rows import NpzRows
from shared.input.rows import read_atoms, read_names, read_numbers, read_quadrupoles, read_values
from shared.multipoles import moved_quadrupoles

_TARGETS: tuple[Quantity, ...] = ("energy", "forces", "dipole", "quadrupole")
_GRID_QUANTITIES: tuple[Quantity, ...] = ("grid", "esp", "esp_mask")


@dataclass(frozen=True)
class Molecules:
    """The n molecules of a chunk without their grids, in the project's units (Å, eV, e).

    A is the number of atoms of the largest molecule, W the width of the file. What the files lack is NaN.
    """

    pair: Pair
    start: int  # row of the first one in the files
    atomic_numbers: np.ndarray  # (n, W) int64, 0 = padding; W >= A
    n_atoms: np.ndarray  # (n,) int64
    positions: np.ndarray  # (n, A, 3) float64, Å, as given (not centred)
    energy: np.ndarray  # (n,) float64, eV, total
    forces: np.ndarray  # (n, A, 3) float64, eV/Å
    dipole: np.ndarray  # (n, 3) float64, e·Å
    quadrupole: np.ndarray  # (n, 3, 3) float64, e·Å², traceless, about the centre of mass
    total_charge: np.ndarray  # (n,) float64, e
    name: np.ndarray  # (n,) UTF-8 bytes
    n_grid: np.ndarray  # (n,) int64; for files that do not count their points, known after the grids are read
    grid_shift: np.ndarray  # (n, 3) float64, Å, to add to the grid
    esp_row: np.ndarray  # (n,) int64, row in the ESP file, -1 = none
    esp_atomic_numbers: np.ndarray | None  # the ESP file's own Z, N and R, for the pairing; None if it has none
    esp_n_atoms: np.ndarray | None
    esp_positions: np.ndarray | None
    grid_width: int  # G, the ESP file's padded number of grid points
    may_lack: frozenset[str]  # of energy, forces, dipole, quadrupole: those that are NaN in frames that lack them

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True)
class Grids:
    """The grid points (n, G, 3) and the ESP (n, G) of some rows, in the user's units.

    The first ``n_grid`` points of each row are real.
    """

    points: np.ndarray
    esp: np.ndarray
    counts: PointCounts


class PairReader:
    """Reader of the rows of a pair, forwards, which keeps the checksums of what it read."""

    def __init__(self, files: PairFiles, reading: Reading) -> None:
        self.files = files
        self.reading = reading
        self._rows = {role: NpzRows(file) for role, file in files.files.items()}
        self._ahead: ThreadPoolExecutor | None = None
        self.checksums: dict[str, list[Checksum]] = {role: [] for role in self._rows}

    def close(self) -> None:
        """Close the files."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        for rows in self._rows.values():
            rows.close()

    def molecules(self, chunk: Chunk) -> Molecules:
        """Read some rows without the grids, and convert the units.

        Raises:
            UserError: a file is damaged.
        """
        efd, start, stop = self.files.efd, chunk.start, chunk.stop
        read = partial(self._read, "efd")
        numbers, n_atoms = read_numbers(read, efd, start, stop)
        scale = self.reading.units.scale
        positions = read_atoms(read, efd, "positions", start, stop, n_atoms) * scale("position")
        forces = read_atoms(read, efd, "forces", start, stop, n_atoms) if "forces" in efd else positions * np.nan
        dipole = read_values(read, efd, "dipole", start, stop, axes=3) * scale("dipole")
        quadrupole = read_quadrupoles(read, efd, start, stop) * scale("quadrupole")
        charge = read_values(read, efd, "total_charge", start, stop) if "total_charge" in efd else np.zeros(len(chunk))
        if self.reading.quadrupole_origin == "zero" and "quadrupole" in efd:
            real = np.arange(positions.shape[1]) < n_atoms[:, None]
            center = centers_of_mass(positions, np.where(real, numbers[:, : positions.shape[1]], 0))
            # The dipole of an ion is about the centre of mass.
            about_zero = dipole + charge[:, None] * center
            quadrupole = moved_quadrupoles(quadrupole, about_zero, charge, center)
        esp_row = self._esp_rows(chunk)
        return Molecules(
            pair=chunk.pair,
            start=start,
            atomic_numbers=numbers,
            n_atoms=n_atoms,
            positions=positions,
            energy=read_values(read, efd, "energy", start, stop) * scale("energy"),
            forces=forces * scale("force"),
            dipole=dipole,
            quadrupole=quadrupole,
            total_charge=charge,
            name=read_names(read, efd, start, stop),
            n_grid=self._counted_points(esp_row),
            grid_shift=self._known_shift(chunk, esp_row),
            esp_row=esp_row,
            **self._esp_geometry(esp_row),
            grid_width=self.files.grid_width,
            may_lack=frozenset(name for name in _TARGETS if efd.is_converted or name not in efd),
        )

    def charges(self) -> np.ndarray:
        """Read the total charges (n,) of a whole file."""
        efd = self.files.efd
        values = read_values(partial(self._read, "efd"), efd, "total_charge", 0, efd.rows)
        return np.nan_to_num(values)

    def geometry(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Read atomic numbers (n, W), 0 = padding, and positions (n, W, 3) in Å of a whole file, ``efd`` or ``esp``.

        Raises:
            UserError: the file is damaged.
        """
        layout = self.files.efd if role == "efd" else self.files.esp
        assert layout is not None
        read = partial(self._read, role)
        numbers, n_atoms = read_numbers(read, layout, 0, layout.rows)
        positions = read_atoms(read, layout, "positions", 0, layout.rows, n_atoms)
        numbers = np.where(np.arange(numbers.shape[1]) < n_atoms[:, None], numbers, 0)[:, : positions.shape[1]]
        return numbers, positions * self.reading.units.scale("position")

    def frames(self, chunk: Chunk) -> tuple[Molecules, Grids]:
        """Read some rows with their grids, real points first, and put the grids into the molecules' frame.

        Raises:
            UserError: a file is damaged.
        """
        molecules = self.molecules(chunk)
        return self._with_grids(molecules, {name: self._read_grid(name, molecules.esp_row) for name in self._grids()})

    def read_ahead(self, chunks: list[Chunk]) -> Iterator[tuple[Chunk, Molecules, Grids]]:
        """Yield every chunk's frames; compressed grids are inflated a chunk ahead, each member by a thread."""
        if len(chunks) == 1 or not self.files.is_sequential:
            for chunk in chunks:
                yield chunk, *self.frames(chunk)
            return
        ahead = self._ahead = ThreadPoolExecutor(4, thread_name_prefix="inflate")

        def start_reading(chunk: Chunk) -> tuple[Future[Molecules], dict[Quantity, Future[np.ndarray]]]:
            rows = self._esp_rows(chunk)
            grids = {name: ahead.submit(self._read_grid, name, rows) for name in self._grids()}
            return ahead.submit(self.molecules, chunk), grids

        pending = start_reading(chunks[0])
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            molecules = pending[0].result()
            stored = {name: future.result() for name, future in pending[1].items()}
            if following is not None:
                pending = start_reading(following)
            yield chunk, *self._with_grids(molecules, stored)

    def _read(self, role: str, key: str, start: int, stop: int) -> np.ndarray:
        role = role if role in self._rows else "efd"
        rows, piece = self._rows[role].read(key, start, stop)
        self.checksums[role].append(piece)
        return rows

    def _esp_rows(self, chunk: Chunk) -> np.ndarray:
        """Return the rows (n,) of the ESP file that belong to a chunk's; -1 where there is none."""
        if self.files.esp is None:
            return np.full(len(chunk), -1)
        if chunk.facts.esp_row is not None:
            return chunk.facts.esp_row
        return np.arange(chunk.start, chunk.stop)

    def _read_esp(self, quantity: Quantity, esp_row: np.ndarray) -> np.ndarray:
        """Read rows of the ESP file in the given order; rows that it does not have are zeros."""
        assert self.files.esp is not None
        key, present = self.files.esp.key(quantity), esp_row >= 0
        rows = np.unique(esp_row[present])
        if not len(rows):
            return np.zeros((len(esp_row), *self.files.esp.file.shape(key)[1:]), self.files.esp.file.dtype(key))
        # Runs of consecutive rows are read at once: all rows, where the files have the same.
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        read = [self._read("esp", key, int(run[0]), int(run[-1]) + 1) for run in runs]
        stored = read[0] if len(read) == 1 else np.concatenate(read)
        if len(rows) == len(esp_row) and np.array_equal(rows, esp_row):
            return stored
        out = np.zeros((len(esp_row), *stored.shape[1:]), stored.dtype)
        out[present] = stored[np.searchsorted(rows, esp_row[present])]
        return out

    def _grids(self) -> list[Quantity]:
        return [name for name in _GRID_QUANTITIES if self.files.esp is not None and name in self.files.esp]

    def _read_grid(self, quantity: Quantity, esp_row: np.ndarray) -> np.ndarray:
        n, width = len(esp_row), self.files.grid_width
        return self._read_esp(quantity, esp_row).reshape((n, width, 3) if quantity == "grid" else (n, width))

    def _counted_points(self, esp_row: np.ndarray) -> np.ndarray:
        esp = self.files.esp
        if esp is None:
            return np.zeros(len(esp_row), np.int64)
        if "n_grid" not in esp:
            counts = np.full(len(esp_row), esp.grid_width)
        elif esp.columns["n_grid"].per_file:
            counts = np.full(len(esp_row), esp.constants["n_grid"].reshape(-1)[0], np.int64)
        else:
            counts = self._read_esp("n_grid", esp_row).reshape(-1).astype(np.int64)
        return np.where(esp_row >= 0, counts, 0)

    def _known_shift(self, chunk: Chunk, esp_row: np.ndarray) -> np.ndarray:
        if chunk.facts.grid_shift is not None:
            return chunk.facts.grid_shift
        if self.reading.grid_frame == "cube" and self.files.esp is not None:
            return origin_shift(self._read_esp("grid_origin", esp_row))
        return np.zeros((len(chunk), 3))

    def _esp_geometry(self, esp_row: np.ndarray) -> dict[str, Any]:
        names = ("esp_atomic_numbers", "esp_n_atoms", "esp_positions")
        esp, present = self.files.esp, np.flatnonzero(esp_row >= 0)
        if esp is None or self.files.is_one_file or "positions" not in esp or not len(present):
            return dict.fromkeys(names)
        if np.array_equal(esp_row, np.arange(esp_row[0], esp_row[0] + len(esp_row))):
            start, stop = int(esp_row[0]), int(esp_row[-1]) + 1
            read = partial(self._read, "esp")
            numbers, n_atoms = read_numbers(read, esp, start, stop)
            positions = read_atoms(read, esp, "positions", start, stop, n_atoms)
            return dict(zip(names, (numbers, n_atoms, positions * self.reading.units.scale("position")), strict=True))
        return dict.fromkeys(names)  # paired by these very geometries, see preprocess.input.matching

    def _with_grids(self, molecules: Molecules, stored: dict[Quantity, np.ndarray]) -> tuple[Molecules, Grids]:
        """Count and gather the real points, and find the shift of the grid."""
        n = len(molecules)
        if self.files.esp is None:
            empty = Grids(np.zeros((n, 0, 3), np.float32), np.zeros((n, 0), np.float32), PointCounts(without_esp=n))
            return molecules, empty
        points, esp = stored["grid"], stored["esp"]
        has_row = molecules.esp_row >= 0
        scale = self.reading.units.grid_in_angstrom
        n_grid = molecules.n_grid
        if "esp_mask" in stored or not self.files.counts_points:
            if "esp_mask" in stored:
                mask = stored["esp_mask"].astype(bool) & (np.arange(esp.shape[1]) < n_grid[:, None])
                counts = PointCounts(masked=int((~mask[has_row]).sum()))
            else:
                found = find_real_points(points, esp, molecules.positions, molecules.n_atoms, scale)
                mask = found.mask & has_row[:, None]
                dropped = found.dropped[has_row].sum(axis=0)
                counts = PointCounts(0, 0, 0, int((found.inner[has_row] > 0).sum()), *map(int, dropped))
            n_grid = mask.sum(axis=1)
            points, esp = gather_points(points, mask), gather_points(esp, mask)
        else:
            counts = PointCounts(masked=int((esp.shape[1] - n_grid[has_row]).sum()))
        n_grid, zero = _without_zeros(esp, n_grid)
        if self.reading.grid_frame == "centroid":
            molecules = replace(molecules, grid_shift=_centroid_shift(molecules, points, n_grid, scale))
        uncertain = np.isnan(molecules.grid_shift).any(axis=1)
        n_grid = np.where(uncertain, 0, n_grid)
        counts = counts._replace(points=int(n_grid.sum()), without_esp=int((n_grid == 0).sum()), zero_esp=zero)
        molecules = replace(
            molecules, n_grid=n_grid, grid_shift=np.where(uncertain[:, None], 0.0, molecules.grid_shift)
        )
        return molecules, Grids(points, esp, counts)


@contextmanager
def open_pair(reading: Reading) -> Iterator[PairReader]:
    """Open a reader of a pair, closed at the end."""
    reader = PairReader(PairFiles(reading.pair), reading)
    try:
        yield reader
    finally:
        reader.close()


def _without_zeros(esp: np.ndarray, n_grid: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the numbers of points, 0 where the ESP is 0 everywhere (not computed), and the number of such rows."""
    suspects = np.flatnonzero((n_grid > 0) & (esp[:, :1] == 0).all(axis=1)) if esp.shape[1] else np.empty(0, np.int64)
    zero = [row for row in suspects if not esp[row, : n_grid[row]].any()]
    if not zero:
        return n_grid, 0
    n_grid = n_grid.copy()
    n_grid[zero] = 0
    return n_grid, len(zero)


def _centroid_shift(molecules: Molecules, points: np.ndarray, n_grid: np.ndarray, scale: float) -> np.ndarray:
    """Return the shift (n, 3) in Å of the points' mean onto the atoms' mean, as the predecessor's."""
    real = np.arange(points.shape[1]) < n_grid[:, None]
    atoms = np.arange(molecules.positions.shape[1]) < molecules.n_atoms[:, None]
    of_points = np.where(real[..., None], points, 0.0).sum(axis=1, dtype=np.float64) * scale
    of_atoms = np.where(atoms[..., None], molecules.positions, 0.0).sum(axis=1)
    shift = of_atoms / molecules.n_atoms[:, None] - of_points / np.maximum(n_grid, 1)[:, None]
    return np.where(n_grid[:, None] > 0, shift, 0.0)

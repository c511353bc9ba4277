"""The frames stage: geometry, targets and padded grids, in buckets. Independent of the cutoffs."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.input.grid_padding import pad_grids
from preprocess.input.pairs import Chunk, PairFiles, Reading, describe_input
from preprocess.input.reader import Grids, Molecules, open_pair
from preprocess.input.validate import atom_mask, check_grids
from preprocess.stages.buckets import Plan
from preprocess.stages.first_pass import Prepared
from preprocess.stages.reference_energies import sum_reference_energies
from preprocess.stages.resumable import Piece, StageBuild, finish_piece
from preprocess.stages.task_runner import TaskRunner
from shared.buckets import FrameShape, array_shape
from shared.digests import array_digest, settings_digest
from shared.elements import centers_of_mass
from shared.errors import UserError
from shared.files import atomic_path
from shared.input.npz import Checksum
from shared.schema import NAME_ARRAY, SCHEMA_VERSION, SPLITS, ArraySpec, Split
from shared.shards import ShardEntry, ShardWriter, describe_shard

_FORMAT = 2
"""Version of the record of a piece; other versions are not read."""

_BYTES_AT_ONCE = 4 << 20
"""Bytes of grids padded at a time: they stay in the processor's cache until they are written."""


@dataclass(frozen=True)
class FrameTask:
    """A task that reads, pads and writes chunks of one pair, one after the other."""

    chunks: list[Chunk]
    recipes: list[str]
    folder: Path
    reading: Reading
    plan: Plan
    reference: dict[int, float]
    arrays: dict[str, ArraySpec]

    def __call__(self) -> list[Piece]:
        """Write every chunk's shards and record that they are finished.

        Raises:
            UserError: bad input, naming file, key, row and value.
            OSError: the shards cannot be written.
        """
        pieces = []
        recipes = iter(self.recipes)
        with open_pair(self.reading) as reader:
            for chunk, molecules, grids in reader.read_ahead(self.chunks):
                shards = [
                    entry
                    for split, rows in chunk.members()
                    for entry in self._write(chunk, split, rows, molecules, grids)
                ]
                checksums: dict[str, list[list[Any]]] = {
                    file: [list(c) for c in parts if c.start == chunk.start] for file, parts in reader.checksums.items()
                }
                counts = [list(grids.counts), *_esp_counts(chunk, molecules.n_grid)]
                piece = Piece(next(recipes), shards, checksums, counts)
                finish_piece(self.folder, chunk.name, piece)
                pieces.append(piece)
        return pieces

    def _write(
        self, chunk: Chunk, split: Split, members: np.ndarray, molecules: Molecules, grids: Grids
    ) -> list[ShardEntry]:
        bucket = self.plan.assign(molecules.n_atoms, molecules.n_grid)
        numbers = np.where(
            atom_mask(molecules.n_atoms, molecules.positions.shape[1]),
            molecules.atomic_numbers[:, : molecules.positions.shape[1]],
            0,
        )
        centers = centers_of_mass(molecules.positions, numbers)
        energy = molecules.energy - sum_reference_energies(self.reference, numbers)
        stem = chunk.name.replace(chunk.pair.role, split, 1)
        entries = []
        for index in np.unique(bucket[members]):
            rows, shape = members[bucket[members] == index], self.plan.shapes[index]
            path = self.folder / f"{stem}-{index}.h5"
            with atomic_path(path, durable=False) as temporary:
                with ShardWriter(temporary, self._layout(len(rows), shape, molecules.name.dtype.itemsize)) as shard:
                    small = _pad(molecules, rows, shape.atoms, numbers, centers)
                    small |= {"energy": energy[rows], "row": chunk.first_row + rows}
                    if "quadrupole" in self.arrays:
                        small["quadrupole"] = molecules.quadrupole[rows]
                    for name, values in small.items():
                        shard.write(name, 0, values)
                    for start, part in _parts(rows, shape):
                        points, esp = self._padded(chunk, molecules, grids, part, centers, shape.grid)
                        shard.write("grid", start, points)
                        shard.write("esp", start, esp)
                entry = describe_shard(temporary, split, int(index), len(rows))
            entries.append(replace(entry, file=path.name))
        return entries

    def _layout(self, samples: int, shape: FrameShape, name_width: int) -> dict[str, tuple[tuple[int, ...], str]]:
        sizes = asdict(shape)
        layout = {name: ((samples, *array_shape(spec, sizes)), spec.dtype) for name, spec in self.arrays.items()}
        return {**layout, NAME_ARRAY: ((samples,), f"S{name_width}")}

    def _padded(
        self, chunk: Chunk, molecules: Molecules, grids: Grids, rows: np.ndarray, centers: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        units = self.reading.units
        points, esp, valid = pad_grids(
            grids.points,
            grids.esp,
            rows,
            molecules.n_grid,
            centers - molecules.grid_shift,
            units.grid_in_angstrom,
            width,
            units.scale("esp"),
        )
        if not valid:
            check_grids(molecules, grids)
            raise UserError(
                f"{chunk.pair.esp_shown}: 'vdw_surface' of rows {chunk.start} to {chunk.stop - 1} holds numbers beyond "
                "what float32 can hold; look at them, at R and at --grid-unit"
            )
        return points, esp


def _esp_counts(chunk: Chunk, n_grid: np.ndarray) -> list[list[int]]:
    """Return the frames without ESP, and the grid points, of each split."""
    own = {split: n_grid[rows] for split, rows in chunk.members()}
    return [[int((own[split] == 0).sum()), int(own[split].sum())] if split in own else [0, 0] for split in SPLITS]


def write_frames(
    build: StageBuild,
    runner: TaskRunner[list[Piece]],
    prepared: Prepared,
    plan: Plan,
    reference: dict[int, float],
) -> list[Piece]:
    """Write the missing pieces, and compare the input with its checksums.

    Returns:
        every chunk's piece, in order.

    Raises:
        UserError: bad input, naming file, key, row and value; a damaged file.
        OSError: too little space, or the shards cannot be written.
    """
    pairs = list(zip(prepared.files, prepared.readings, prepared.chunks, strict=True))
    arrays = prepared.frame_arrays
    recipes = {
        chunk.name: _recipe(file, reading, chunk, plan, reference, arrays)
        for file, reading, parts in pairs
        for chunk in parts
    }
    pieces = {name: piece for name, recipe in recipes.items() if (piece := build.take_over(recipe)) is not None}
    tasks = []
    for file, reading, parts in pairs:
        missing = [chunk for chunk in parts if chunk.name not in pieces]
        for group in file.chunk_groups(missing):
            names = [recipes[chunk.name] for chunk in group]
            tasks.append(FrameTask(group, names, build.partial, reading, plan, reference, arrays))
    _check_space(build.partial, tasks, plan, prepared.files)
    written = runner.run(tasks, "pad grids", [sum(map(len, task.chunks)) for task in tasks])
    for task, finished in zip(tasks, written, strict=True):
        pieces |= {chunk.name: piece for chunk, piece in zip(task.chunks, finished, strict=True)}
    for file, _, parts in pairs:
        own = [pieces[chunk.name].checksums for chunk in parts]
        for role, npz in file.files.items():
            npz.check_sums(Checksum(*values) for checksums in own for values in checksums.get(role, []))
    return [pieces[name] for name in recipes]


def _recipe(
    file: PairFiles,
    reading: Reading,
    chunk: Chunk,
    plan: Plan,
    reference: dict[int, float],
    arrays: Mapping[str, ArraySpec],
) -> str:
    facts = {name: array_digest(values) for name, values in vars(chunk.facts).items() if values is not None}
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "format": _FORMAT,
            "input": describe_input(file, reading),
            "rows": [chunk.start, chunk.stop, chunk.first_row],
            "facts": facts,
            "name": chunk.name,
            "buckets": [asdict(shape) for shape in plan.shapes],
            "reference": sorted(reference.items()),
            **({"quadrupole": True} if "quadrupole" in arrays else {}),
        }
    )


def _check_space(folder: Path, tasks: list[FrameTask], plan: Plan, files: list[PairFiles]) -> None:
    """Check, before the work, that the disk has space for the input's rows without padding."""
    wanted = 0
    by_pair = {file.pair: file for file in files}
    for task in tasks:
        file = by_pair[task.chunks[0].pair]
        row = 16 * min(file.grid_width, min(shape.grid for shape in plan.shapes))
        wanted += row * sum(map(len, task.chunks))
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(
            errno.ENOSPC,
            f"the shards take more than {wanted / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; choose another "
            "--cache-dir (CACHE_DIR=), or run `make clean-cache`",
            str(folder.parent),
        )


def _parts(rows: np.ndarray, shape: FrameShape) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, _BYTES_AT_ONCE // max(16 * shape.grid, 1))
    return ((start, rows[start : start + step]) for start in range(0, len(rows), step))


def _pad(
    molecules: Molecules, rows: np.ndarray, width: int, numbers: np.ndarray, centers: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays of some molecules without the grids, centred in float64 before they become float32."""
    real = (numbers[rows] > 0)[..., None]
    return {
        "atomic_numbers": _fit(numbers[rows], width),
        "positions": _fit(np.where(real, molecules.positions[rows] - centers[rows, None], 0.0), width),
        "forces": _fit(np.where(real, molecules.forces[rows], 0.0), width),
        "total_charge": molecules.total_charge[rows],
        "dipole": molecules.dipole[rows],
        "n_grid": molecules.n_grid[rows],
        NAME_ARRAY: molecules.name[rows],
    }


def _fit(values: np.ndarray, width: int) -> np.ndarray:
    """Cut axis 1 (of padding), or widen it with zeros, to ``width``."""
    values = values[:, :width]
    missing = width - values.shape[1]
    return np.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2)) if missing else values

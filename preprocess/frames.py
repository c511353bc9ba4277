"""The frames stage: geometry, targets and padded grids, in buckets. Independent of the cutoffs."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.engine import Engine
from preprocess.load import Chunk, Grids, InputUnits, Molecules, PairFiles, open_pair
from preprocess.npz import Checksum
from preprocess.padding import pad_grids
from preprocess.plan import Plan
from preprocess.stage import Piece, StageBuild, finish_piece, new_shard
from preprocess.statistics import centers_of_mass, sum_reference_energies
from preprocess.validate import atom_mask, check_grids
from shared.buckets import FrameShape, array_shape
from shared.digests import settings_digest
from shared.errors import UserError
from shared.schema import FRAME_ARRAYS, NAME_ARRAY, SCHEMA_VERSION
from shared.shards import ShardEntry, ShardWriter, describe_shard

_BYTES_AT_ONCE = 4 << 20
"""Padded grids made at a time: they stay in the processor's cache until they are written."""


@dataclass(frozen=True)
class FrameTask:
    """Chunks of one pair, read, padded and written one after the other."""

    chunks: list[Chunk]
    recipes: list[str]
    folder: Path
    units: InputUnits
    plan: Plan
    reference: dict[int, float]

    def __call__(self) -> list[Piece]:
        """Write every chunk's shards and note that they are finished.

        Raises:
            UserError: bad input, naming file, key, row and value.
            OSError: the shards cannot be written.
        """
        pieces = []
        recipes = iter(self.recipes)
        with open_pair(self.chunks[0].pair, self.units) as reader:
            for chunk, molecules, grids in reader.read_ahead(self.chunks):
                shards = self._write(chunk, molecules, grids)
                checksums: dict[str, list[list[Any]]] = {
                    file: [list(c) for c in parts if c.start == chunk.start] for file, parts in reader.checksums.items()
                }
                piece = Piece(next(recipes), shards, checksums)
                finish_piece(self.folder, chunk_name(chunk), piece)
                pieces.append(piece)
        return pieces

    def _write(self, chunk: Chunk, molecules: Molecules, grids: Grids) -> list[ShardEntry]:
        bucket = self.plan.assign(molecules.n_atoms, molecules.n_grid)
        numbers = np.where(
            atom_mask(molecules.n_atoms, molecules.positions.shape[1]),
            molecules.atomic_numbers[:, : molecules.positions.shape[1]],
            0,
        )
        centers = centers_of_mass(molecules.positions, numbers)
        energy = molecules.energy - sum_reference_energies(self.reference, numbers)
        entries = []
        for index in np.unique(bucket):
            rows, shape = np.flatnonzero(bucket == index), self.plan.shapes[index]
            path = self.folder / f"{chunk_name(chunk)}-{index}.h5"
            with new_shard(path) as temporary:
                with ShardWriter(temporary, _layout(len(rows), shape, molecules.name.dtype.itemsize)) as shard:
                    small = _pad(molecules, rows, shape.atoms, numbers, centers)
                    small |= {"energy": energy[rows], "row": chunk.first_row + rows}
                    for name, values in small.items():
                        shard.write(name, 0, values)
                    for start, part in _parts(rows, shape):
                        points, esp, valid = pad_grids(
                            grids.points,
                            grids.esp,
                            part,
                            molecules.n_grid,
                            centers,
                            self.units.grid_in_angstrom,
                            shape.grid,
                        )
                        if not valid:
                            check_grids(molecules, grids)
                            raise UserError(
                                f"{chunk.pair.esp}: 'vdw_surface' of rows {chunk.start} to {chunk.stop - 1} holds "
                                "numbers beyond what float32 can hold; look at them, at R and at --grid-unit"
                            )
                        shard.write("grid", start, points)
                        shard.write("esp", start, esp)
                entry = describe_shard(temporary, chunk.pair.split, int(index), len(rows))
            entries.append(replace(entry, file=path.name))
        return entries


def chunk_name(chunk: Chunk) -> str:
    """How the files of a chunk begin."""
    return f"{chunk.pair.split}-{chunk.index:05d}"


def write_frames(
    build: StageBuild,
    engine: Engine[list[Piece]],
    files: list[PairFiles],
    chunks: list[list[Chunk]],
    units: InputUnits,
    plan: Plan,
    reference: dict[int, float],
) -> list[Piece]:
    """Write the pieces that are not there yet; compare the input with its checksums.

    Returns:
        every chunk's piece, in order.

    Raises:
        UserError: bad input, naming file, key, row and value; a damaged file.
        OSError: too little space, or the shards cannot be written.
    """
    recipes = {
        chunk_name(chunk): _recipe(file, chunk, units, plan, reference)
        for file, parts in zip(files, chunks, strict=True)
        for chunk in parts
    }
    pieces = {name: piece for name, recipe in recipes.items() if (piece := build.take_over(recipe)) is not None}
    tasks = []
    for file, parts in zip(files, chunks, strict=True):
        missing = [chunk for chunk in parts if chunk_name(chunk) not in pieces]
        groups = [missing] if file.is_sequential else [[chunk] for chunk in missing]
        for group in groups:
            if group:
                names = [recipes[chunk_name(chunk)] for chunk in group]
                tasks.append(FrameTask(group, names, build.partial, units, plan, reference))
    _check_space(build.partial, tasks, plan, files)
    for index, finished in engine.run(tasks, "pad grids", [sum(c.stop - c.start for c in t.chunks) for t in tasks]):
        pieces |= {chunk_name(chunk): piece for chunk, piece in zip(tasks[index].chunks, finished, strict=True)}
    for file, parts in zip(files, chunks, strict=True):
        own = [pieces[chunk_name(chunk)].checksums for chunk in parts]
        for kind, npz in (("efd", file.efd), ("esp", file.esp)):
            npz.check_sums(Checksum(*values) for checksums in own for values in checksums.get(kind, []))
    return [pieces[name] for name in recipes]


def _recipe(file: PairFiles, chunk: Chunk, units: InputUnits, plan: Plan, reference: dict[int, float]) -> str:
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "inputs": file.digests,
            "rows": [chunk.start, chunk.stop, chunk.first_row],
            "name": chunk_name(chunk),
            "units": asdict(units),
            "buckets": [asdict(shape) for shape in plan.shapes],
            "reference": sorted(reference.items()),
        }
    )


def _check_space(folder: Path, tasks: list[FrameTask], plan: Plan, files: list[PairFiles]) -> None:
    """Before the work, and not after half of it. What is asked for is what the input's rows would take unpadded."""
    wanted = 0
    by_pair = {file.pair: file for file in files}
    for task in tasks:
        file = by_pair[task.chunks[0].pair]
        row = 16 * min(file.grid_width, min(shape.grid for shape in plan.shapes))
        wanted += row * sum(chunk.stop - chunk.start for chunk in task.chunks)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(
            errno.ENOSPC,
            f"the shards take more than {wanted / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; choose another "
            "--cache-dir (CACHE_DIR=), or run `make clean-cache`",
            str(folder.parent),
        )


def _layout(samples: int, shape: FrameShape, name_width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    sizes = asdict(shape)
    layout = {name: ((samples, *array_shape(spec, sizes)), spec.dtype) for name, spec in FRAME_ARRAYS.items()}
    return {**layout, NAME_ARRAY: ((samples,), f"S{name_width}")}


def _parts(rows: np.ndarray, shape: FrameShape) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, _BYTES_AT_ONCE // max(16 * shape.grid, 1))
    return ((start, rows[start : start + step]) for start in range(0, len(rows), step))


def _pad(
    molecules: Molecules, rows: np.ndarray, width: int, numbers: np.ndarray, centers: np.ndarray
) -> dict[str, np.ndarray]:
    """Arrays of some molecules but for the grids, centred in float64 before they become float32."""
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
    """Axis 1 cut or widened with zeros (what is cut off is padding)."""
    values = values[:, :width]
    missing = width - values.shape[1]
    return np.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2)) if missing else values

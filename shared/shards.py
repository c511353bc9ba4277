"""HDF5 shards: a file for each (chunk of the input, bucket), contiguous, so that readers can map it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared.digest_cache import DigestCache
from shared.digests import file_digest
from shared.errors import UserError
from shared.files import naming, require_readable, sync_descriptor

REBUILD_COMMAND = "make preprocess"
_ALIGNMENT = 64  # bytes: a cache line, so that mapped arrays are aligned for every dtype


@dataclass(frozen=True)
class ShardEntry:
    """The entry of one shard in a manifest."""

    split: str
    bucket: int
    file: str
    samples: int
    bytes: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


class ShardWriter:
    """A new shard, written in slices of rows; complete and synced when its block ends.

    HDF5 lays out the file, with every dataset contiguous; the rows are then written straight to their offsets. That
    takes no copy, and lets several threads write shards at once, which HDF5's own lock would not.
    """

    def __init__(self, path: Path, layout: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Lay out the file.

        Args:
            path: the file, inside a folder that is renamed when all of the stage is complete.
            layout: shape and dtype of every array, the sample axis included.
        """
        self._path = path
        self._layout = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in layout.items()}
        with naming(path):
            self._lay_out(layout)
        self._descriptor = os.open(path, os.O_WRONLY)

    def _lay_out(self, layout: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        path = self._path
        # No timestamps inside, so that the same input gives the same bytes.
        new: dict[str, Any] = {"alignment_threshold": 1, "alignment_interval": _ALIGNMENT}
        with h5py.File(path, "w", libver="v110", locking=False, **new) as shard:
            for name, (shape, dtype) in layout.items():
                plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plist.set_obj_track_times(False)
                plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                space = h5py.h5s.create_simple(shape)
                kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
                h5py.h5d.create(shard.id, name.encode(), kind, space, dcpl=plist)
        with h5py.File(path, "r", locking=False) as shard:
            # A dataset without elements has no offset in the file.
            self._offsets = {name: shard[name].id.get_offset() or 0 for name in layout}

    def __enter__(self) -> ShardWriter:
        return self

    def write(self, name: str, first_row: int, rows: np.ndarray) -> None:
        """Write rows of one array, converted to its dtype.

        Raises:
            ValueError: the rows do not fit the array.
        """
        shape, dtype = self._layout[name]
        if rows.shape[1:] != shape[1:] or not 0 <= first_row <= first_row + len(rows) <= shape[0]:
            raise ValueError(f"{self._path}: rows {first_row}+ of shape {rows.shape} do not fit {name!r} of {shape}")
        content = np.ascontiguousarray(rows, dtype)
        if not content.size:
            return
        view = content.reshape(-1).view(np.uint8).data
        position = self._offsets[name] + first_row * (content.nbytes // len(content))
        while view:
            with naming(self._path):
                count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count

    def __exit__(self, *failure: object) -> None:
        try:
            if failure[0] is None:
                with naming(self._path):
                    sync_descriptor(self._descriptor)
        finally:
            os.close(self._descriptor)


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a whole shard at once."""
    with ShardWriter(path, {name: (values.shape, values.dtype.str) for name, values in arrays.items()}) as shard:
        for name, values in arrays.items():
            shard.write(name, 0, values)


def describe_shard(path: Path, split: str, bucket: int, samples: int) -> ShardEntry:
    """Return the manifest's entry of a finished shard."""
    return ShardEntry(split, bucket, path.name, samples, path.stat().st_size, file_digest(path))


def verify_shard(folder: Path, entry: ShardEntry, digests: DigestCache) -> Path:
    """Check a shard's content against the manifest, and return its path.

    Raises:
        UserError: the file is missing, truncated or altered; the message names the command that rebuilds it.
    """
    path = folder / entry.file
    if not path.is_file():
        raise UserError(f"{path}: shard is missing; `{REBUILD_COMMAND}` rebuilds it")
    size = path.stat().st_size
    if size != entry.bytes:
        raise UserError(f"{path}: shard has {size} bytes instead of {entry.bytes}; `{REBUILD_COMMAND}` rebuilds it")
    if digests.digest(path) != entry.digest:
        raise UserError(f"{path}: shard's content differs from its manifest; `{REBUILD_COMMAND}` rebuilds it")
    return path


def map_shard(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Map arrays of a shard (all, or those named) read-only: they are read when used, and the system may drop them.

    The file is mapped once and not once for each array: the number of maps of a process is limited.

    Raises:
        UserError: the file is not an HDF5 file with contiguous arrays.
    """
    try:
        # HDF5's own functions: h5py's objects take three times as long, and a large cache has thousands of shards.
        shard = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _access())
        try:
            keys = [key.decode() for key in shard] if names is None else names
            places = {name: _place(h5py.h5d.open(shard, name.encode())) for name in keys}
        finally:
            shard.close()
    except (OSError, KeyError) as error:
        require_readable(path)
        raise UserError(f"{path}: not a readable HDF5 file ({error}); `{REBUILD_COMMAND}` rebuilds it") from error
    # As a plain array: every slice of a memmap object takes a microsecond of Python.
    content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    arrays = {}
    for name, (offset, shape, dtype) in places.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size == 0:
            arrays[name] = np.zeros(shape, dtype)
            continue
        if offset is None:
            raise UserError(f"{path}: array {name!r} is not contiguous; `{REBUILD_COMMAND}` rebuilds it")
        arrays[name] = content[offset : offset + size].view(dtype).reshape(shape)
    return arrays


@functools.cache
def _access() -> h5py.h5p.PropFAID:
    # Shards are complete when they have their name; some file systems have no locks.
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    return access


def _place(dataset: h5py.h5d.DatasetID) -> tuple[int | None, tuple[int, ...], np.dtype]:
    return dataset.get_offset(), dataset.shape, dataset.dtype

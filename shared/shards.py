"""HDF5 shards: one file for each (split, bucket, stage), fixed shapes, contiguous so that readers can map them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared.digests import DigestCache, file_digest
from shared.errors import UserError

REBUILD_COMMAND = "make preprocess"


@dataclass(frozen=True)
class ShardEntry:
    """What a manifest says of one shard."""

    split: str
    bucket: int
    file: str
    samples: int
    bytes: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


@contextmanager
def create_shard(path: Path, layout: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[dict[str, h5py.Dataset]]:
    """Datasets of a new shard to write into, in slices; closed and synced at the end.

    Args:
        path: the file, inside a folder that is renamed when all of the stage is complete.
        layout: shape and dtype of every array, the sample axis included.
    """
    # No timestamps inside, so that the same input gives the same bytes.
    with h5py.File(path, "w", libver="v110") as shard:
        yield {
            name: shard.create_dataset(name, shape=shape, dtype=dtype, track_times=False)
            for name, (shape, dtype) in layout.items()
        }
        shard.flush()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def describe_shard(path: Path, split: str, bucket: int, samples: int) -> ShardEntry:
    """The manifest's entry of a finished shard."""
    return ShardEntry(split, bucket, path.name, samples, path.stat().st_size, file_digest(path))


def verify_shard(folder: Path, entry: ShardEntry, digests: DigestCache) -> Path:
    """The path of a shard whose content is what the manifest says.

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


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """Every array of a shard, mapped read-only: nothing is read until it is used, and the system may drop it again.

    Raises:
        UserError: the file is not an HDF5 file with contiguous arrays.
    """
    try:
        with h5py.File(path, "r") as shard:
            return {name: _map_dataset(path, dataset) for name, dataset in shard.items()}
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); `{REBUILD_COMMAND}` rebuilds it") from error


def _map_dataset(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    offset = dataset.id.get_offset()
    if dataset.size == 0:
        return np.zeros(dataset.shape, dataset.dtype)
    if offset is None:
        raise UserError(f"{path}: array {dataset.name} is not contiguous; `{REBUILD_COMMAND}` rebuilds it")
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)

"""Preprocessed data: the buckets of each split, memory-mapped from the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.errors import UserError
from shared.jit import jit
from shared.manifest import current_stages, digest_cache, edges_digest, read_manifest, shard_entries, stage_folder
from shared.schema import Split
from shared.shards import REBUILD_COMMAND, map_shard, verify_shard


@dataclass(frozen=True)
class BucketArrays:
    """One bucket of one split: its shape and its shards, mapped; arrays are named as in :mod:`shared.schema`."""

    shape: BucketShape
    shards: list[dict[str, np.ndarray]]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(shard["energy"]) for shard in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return rows of one array in the given order, from all shards."""
        if len(self.shards) == 1:
            return self.shards[0][name][rows]
        shard_of_row = np.searchsorted(self._ends, rows, side="right")
        # Names have a fixed length in each shard, but not the same one in all.
        dtype = max((shard[name].dtype for shard in self.shards), key=lambda dtype: dtype.itemsize)
        out = np.empty((len(rows), *self.shards[0][name].shape[1:]), dtype)
        for index in np.unique(shard_of_row):
            mine = shard_of_row == index
            start = self._ends[index - 1] if index else 0
            out[mine] = self.shards[index][name][rows[mine] - start]
        return out

    def place(self, names: Sequence[str], rows: np.ndarray, to: np.ndarray, places: int) -> dict[str, np.ndarray]:
        """Return rows of numeric arrays, each at its own place; other places are zero.

        Args:
            names: of the arrays.
            rows: (n,) of the bucket. In ascending order each shard's map is read forwards.
            to: (n,) the place of each row.
            places: length of the arrays that come out.
        """
        rows, to = np.asarray(rows, np.int64), np.asarray(to, np.int64)
        shard_of_row = np.searchsorted(self._ends, rows, side="right")
        parts = []
        for index in np.unique(shard_of_row):
            mine = np.flatnonzero(shard_of_row == index)
            parts.append((int(index), rows[mine] - (self._ends[index - 1] if index else 0), to[mine]))
        arrays = {}
        for name in names:
            first = self.shards[0][name]
            arrays[name] = np.zeros((places, *first.shape[1:]), first.dtype)
            if first.size:
                target = _as_bytes(arrays[name])
                for index, local, where in parts:
                    _copy_rows(self._bytes(index, name), local, target, where)
        return arrays

    def _bytes(self, index: int, name: str) -> np.ndarray:
        known: dict[tuple[int, str], np.ndarray] = self._byte_views
        if (index, name) not in known:
            known[index, name] = _as_bytes(self.shards[index][name])
        return known[index, name]

    @cached_property
    def _byte_views(self) -> dict[tuple[int, str], np.ndarray]:
        return {}

    def column(self, name: str) -> np.ndarray:
        """Return the whole of one array: mapped where the bucket is one shard, in memory otherwise."""
        parts = [shard[name] for shard in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """Return a view (rows, bytes of a row)."""
    return array.reshape(len(array), -1).view(np.uint8)


@jit()
def _copy_rows(source: np.ndarray, rows: np.ndarray, target: np.ndarray, to: np.ndarray) -> None:
    """Set target[to[k]] = source[rows[k]] without the intermediate array that indexing would make."""
    for k in range(len(rows)):
        target[to[k], :] = source[rows[k], :]


@dataclass(frozen=True)
class Cache:
    """Opened and verified frames and edges for one pair of cutoffs."""

    frames_manifest: dict[str, Any]
    edges_manifest: dict[str, Any]
    frames_folder: Path
    edges_folder: Path

    @property
    def bucket_shapes(self) -> list[BucketShape]:
        """Shape of every bucket."""
        return [
            BucketShape(FrameShape(**frame), EdgeShape(**edge))
            for frame, edge in zip(self.frames_manifest["buckets"], self.edges_manifest["buckets"], strict=True)
        ]

    @property
    def reference_energies_ev(self) -> dict[int, float]:
        """Fitted energy of each element, eV, that preprocessing subtracted."""
        return {int(z): float(e) for z, e in self.frames_manifest["reference_energies_ev"].items()}

    @property
    def record(self) -> dict[str, Any]:
        """Record that a run keeps of its data: enough to find them here, and to name them when they are gone."""
        kept = {name: self.frames_manifest[name] for name in ("files", "inputs", "settings")}
        return {"frames": self.frames_manifest["digest"], "edges": self.edges_manifest["digest"], **kept}

    def has_split(self, split: Split) -> bool:
        """Return whether the split was preprocessed."""
        return any(entry["split"] == split for entry in self.frames_manifest["shards"])

    def load_split(self, split: Split) -> list[BucketArrays]:
        """Return the split's buckets that hold any molecule."""
        frames = [entry for entry in shard_entries(self.frames_manifest) if entry.split == split]
        edges = [entry for entry in shard_entries(self.edges_manifest) if entry.split == split]
        return [
            BucketArrays(
                self.bucket_shapes[bucket],
                _joined(
                    [map_shard(self.frames_folder / entry.file) for entry in frames if entry.bucket == bucket],
                    [map_shard(self.edges_folder / entry.file) for entry in edges if entry.bucket == bucket],
                ),
            )
            for bucket in sorted({entry.bucket for entry in frames})
        ]


def _joined(frames: list[dict[str, np.ndarray]], edges: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Join each shard of frames with its rows of edges: a shard of edges covers several of frames, in order."""
    joined, waiting, start = [], iter(edges), 0
    part: dict[str, np.ndarray] = {}
    for shard in frames:
        if not part or start == len(part["physnet_n_edges"]):
            part, start = next(waiting), 0
        stop = start + len(shard["energy"])
        joined.append({**shard, **{name: values[start:stop] for name, values in part.items()}})
        start = stop
    return joined


def open_cache(cache_dir: Path, physnet_cutoff: float, dcmnet_cutoff: float, frames_digest: str | None = None) -> Cache:
    """Open the current frames, or those of ``frames_digest``, and their edges at these cutoffs (Å); verify every shard.

    Raises:
        UserError: nothing is preprocessed, or not at these cutoffs, or a shard is missing, truncated or altered.
    """
    if frames_digest is None:
        frames_digest = current_stages(cache_dir)["frames"]
    frames_folder = stage_folder(cache_dir, "frames", frames_digest)
    frames = read_manifest(frames_folder)
    if frames is None:
        raise UserError(f"{frames_folder}: no such preprocessed data; `{REBUILD_COMMAND}` makes it")
    edges_folder = stage_folder(cache_dir, "edges", edges_digest(frames["digest"], physnet_cutoff, dcmnet_cutoff))
    edges = read_manifest(edges_folder)
    if edges is None:
        raise UserError(
            f"{cache_dir}: no edges at cutoffs {physnet_cutoff:g} Å (PhysNet) and {dcmnet_cutoff:g} Å (DCMNet); run "
            f"`{REBUILD_COMMAND} PHYSNET_CUTOFF={physnet_cutoff:g} DCMNET_CUTOFF={dcmnet_cutoff:g}`"
        )
    digests = digest_cache(cache_dir)
    for folder, manifest in ((frames_folder, frames), (edges_folder, edges)):
        for entry in shard_entries(manifest):
            verify_shard(folder, entry, digests)
    digests.save()
    return Cache(frames, edges, frames_folder, edges_folder)

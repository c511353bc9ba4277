"""The cache folder: stages, their manifests, and which stages are current.

``data_cache/``::

    current.json            the frames and edges of the latest preprocessing, for a new run that names no others
    digests.json            remembered file digests
    surveys/                counts and statistics of every pair of input files
    frames-<digest>/        manifest.json and one shard for each (chunk of the input, bucket); no cutoff enters
    edges-<digest>/         the same for the edge lists: one folder for each (frames, cutoffs)
    .frames-<digest>.partial/  a stage in the making, with a journal of its finished shards
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.digests import DigestCache, settings_digest, write_atomically
from shared.errors import UserError
from shared.schema import SCHEMA_VERSION, Split
from shared.shards import REBUILD_COMMAND, ShardEntry, map_shard, verify_shard

MANIFEST = "manifest.json"
CURRENT = "current.json"
CONVERTED = "converted"
"""Folder of the users' files in a form that can be read by rows: of other formats, or uncompressed."""

SPLIT_TABLE = "split_indices.npz"
"""In a frames folder whose files were divided: rows of each split, counted from 0 through all of them."""

_DIGEST_CHARACTERS = 16


def stage_folder_name(stage: str, digest: str) -> str:
    """Name of the folder of a stage's output; ``digest`` may be the beginning that stands in such a name."""
    return f"{stage}-{digest[:_DIGEST_CHARACTERS]}"


def stage_folder(cache_dir: Path, stage: str, digest: str) -> Path:
    """Folder of a stage's output."""
    return cache_dir / stage_folder_name(stage, digest)


def edges_digest(frames_digest: str, physnet_cutoff: float, dcmnet_cutoff: float) -> str:
    """Digest of all that determines the edge shards."""
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "frames": frames_digest,
            "physnet_cutoff": float(physnet_cutoff),
            "dcmnet_cutoff": float(dcmnet_cutoff),
        }
    )


def digest_cache(cache_dir: Path) -> DigestCache:
    """The cache folder's memory of file digests."""
    return DigestCache(cache_dir / "digests.json")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A stage's manifest, or None if the stage is absent.

    Raises:
        UserError: the manifest is not JSON of this schema.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); `{REBUILD_COMMAND}` rebuilds it") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: not a manifest of schema {SCHEMA_VERSION}; `{REBUILD_COMMAND}` rebuilds it")
    return manifest


def shard_entries(manifest: dict[str, Any]) -> list[ShardEntry]:
    """The shards that a manifest lists."""
    return [ShardEntry(**entry) for entry in manifest["shards"]]


def is_intact(folder: Path, digests: DigestCache) -> bool:
    """Whether a stage is complete and every shard is what its manifest says."""
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return False
        for entry in shard_entries(manifest):
            verify_shard(folder, entry, digests)
    except UserError:
        return False
    return True


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a stage's manifest: the last file of the stage."""
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def write_current(cache_dir: Path, frames_digest: str, edges_digest: str) -> None:
    """Make these the frames and edges of the latest preprocessing."""
    content = json.dumps({"frames": frames_digest, "edges": edges_digest}).encode()
    path = cache_dir / CURRENT
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


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
        """Rows of one array, in the order asked for, from whichever shards they lie in."""
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
        """Rows of numeric arrays, each put where it belongs; other places are zero.

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
        """The whole of one array: mapped where the bucket is one shard, in memory otherwise."""
        parts = [shard[name] for shard in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """(rows, bytes of a row) view."""
    return array.reshape(len(array), -1).view(np.uint8)


@numba.njit(cache=True, nogil=True)
def _copy_rows(source: np.ndarray, rows: np.ndarray, target: np.ndarray, to: np.ndarray) -> None:
    """target[to[k]] = source[rows[k]], without the array in between that indexing would make."""
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
        """What a run keeps of its data: enough to find them here, and to name them once they are gone."""
        kept = {name: self.frames_manifest[name] for name in ("files", "inputs", "settings")}
        return {"frames": self.frames_manifest["digest"], "edges": self.edges_manifest["digest"], **kept}

    def has_split(self, split: Split) -> bool:
        """Whether the split was preprocessed."""
        return any(entry["split"] == split for entry in self.frames_manifest["shards"])

    def load_split(self, split: Split) -> list[BucketArrays]:
        """The split's buckets that hold any molecule."""
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
    """Each of the frames' shards with its rows of the edges': one of those covers several of these, in order."""
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


def current_stages(cache_dir: Path) -> dict[str, str]:
    """Digests of the frames and edges of the latest preprocessing.

    Raises:
        UserError: nothing is preprocessed, or the file is damaged.
    """
    path = cache_dir / CURRENT
    try:
        content = json.loads(path.read_text())
        return {"frames": str(content["frames"]), "edges": str(content["edges"])}
    except FileNotFoundError as error:
        raise UserError(f"{cache_dir}: no preprocessed data here; run `{REBUILD_COMMAND}` first") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; `{REBUILD_COMMAND}` writes it again") from error

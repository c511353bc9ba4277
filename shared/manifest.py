"""The cache folder: stages, their manifests, and which stages are current.

``data_cache/``::

    current.json            the frames and edges of the latest preprocessing, for a new run that names no others
    digests.json            file digests of the last runs
    surveys/                counts and statistics of every pair of input files
    frames-<digest>/        manifest.json and one shard for each (chunk of the input, bucket); no cutoff enters
    edges-<digest>/         the same for the edge lists: one folder for each (frames, cutoffs)
    .frames-<digest>.partial/  a stage in the making, with a journal of its finished shards
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.digest_cache import DigestCache
from shared.digests import settings_digest
from shared.errors import UserError
from shared.schema import SCHEMA_VERSION
from shared.sealed import as_text, read_sealed, write_sealed
from shared.shards import REBUILD_COMMAND, ShardEntry, verify_shard

MANIFEST = "manifest.json"
CURRENT = "current.json"
CONVERTED = "converted"
"""Folder of the users' files converted to a form that can be read by rows: from other formats, or uncompressed."""

SPLIT_TABLE = "split_indices.npz"
"""File, in a frames folder of divided files, of the rows of each split, counted from 0 through all files."""

_DIGEST_CHARACTERS = 16


def stage_folder_name(stage: str, digest: str) -> str:
    """Return the name of a stage's folder; ``digest`` may be shortened to the part in the name."""
    return f"{stage}-{digest[:_DIGEST_CHARACTERS]}"


def stage_folder(cache_dir: Path, stage: str, digest: str) -> Path:
    """Return the folder of a stage."""
    return cache_dir / stage_folder_name(stage, digest)


def edges_digest(frames_digest: str, physnet_cutoff: float, dcmnet_cutoff: float) -> str:
    """Return the digest of all that determines the edge shards."""
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "frames": frames_digest,
            "physnet_cutoff": float(physnet_cutoff),
            "dcmnet_cutoff": float(dcmnet_cutoff),
        }
    )


def digest_cache(cache_dir: Path) -> DigestCache:
    """Return the cache folder's file digests."""
    return DigestCache(cache_dir / "digests.json")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a stage's manifest; None if the stage is absent.

    Raises:
        UserError: the manifest is damaged, of another schema, or of another stage.
    """
    path = folder / MANIFEST
    remedy = f"`{REBUILD_COMMAND}` rebuilds it"
    try:
        manifest = read_sealed(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: not a manifest of schema {SCHEMA_VERSION}; {remedy}")
    try:
        shard_entries(manifest)
        stage = stage_folder_name(folder.name.strip(".").split("-")[0], manifest["digest"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged (it lacks {error}); {remedy}") from error
    if folder.name not in (stage, f".{stage}.partial"):
        raise UserError(f"{path}: the manifest of {stage}; {remedy}")
    return manifest


def shard_entries(manifest: dict[str, Any]) -> list[ShardEntry]:
    """Return the shards that a manifest lists."""
    return [ShardEntry(**entry) for entry in manifest["shards"]]


def is_intact(folder: Path, digests: DigestCache) -> bool:
    """Return whether a stage is complete and every shard agrees with its manifest."""
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
    write_sealed(folder / MANIFEST, manifest)


def write_current(cache_dir: Path, frames_digest: str, edges_digest: str) -> None:
    """Record the frames and edges of the latest preprocessing."""
    content = {"frames": frames_digest, "edges": edges_digest}
    path = cache_dir / CURRENT
    if not path.exists() or path.read_bytes() != as_text(content):
        write_sealed(path, content)


def current_stages(cache_dir: Path) -> dict[str, str]:
    """Return the digests of the frames and edges of the latest preprocessing.

    Raises:
        UserError: nothing is preprocessed, or the file is damaged.
    """
    path = cache_dir / CURRENT
    try:
        content = read_sealed(path, f"`{REBUILD_COMMAND}` writes it again")
        return {"frames": str(content["frames"]), "edges": str(content["edges"])}
    except FileNotFoundError as error:
        raise UserError(f"{cache_dir}: no preprocessed data here; run `{REBUILD_COMMAND}` first") from error
    except KeyError as error:
        raise UserError(f"{path}: damaged; `{REBUILD_COMMAND}` writes it again") from error

"""Building of a stage that may be killed at any moment: the next run goes on from the finished pieces.

A stage is filled in ``.NAME.partial``. A piece (the shards of one chunk) is finished when its record is there, which is
written last, after its shards are on the disk. When all pieces are finished, the manifest is written and the folder
gets its name. Any number of processes may write pieces of one stage.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.digest_cache import DigestCache
from shared.digests import file_digest
from shared.errors import UserError
from shared.files import atomic_path, sync_folder, write_atomically
from shared.manifest import read_manifest, shard_entries, write_manifest
from shared.sealed import read_sealed, write_sealed
from shared.shards import ShardEntry

_RECORD_SUFFIX = ".done.json"
_POLL_SECONDS = 0.2
_ATTEMPTS = 10


@dataclass(frozen=True)
class Piece:
    """A finished part of a stage: its recipe, its shards, and the checksums of the input read for it.

    ``counts`` are rows of numbers that the stage sums over its pieces.
    """

    recipe: str
    shards: list[ShardEntry]
    checksums: dict[str, list[list[Any]]]
    counts: list[list[int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return JSON that :meth:`from_json` reads."""
        return {
            "recipe": self.recipe,
            "shards": [entry.as_json() for entry in self.shards],
            "checksums": self.checksums,
            "counts": self.counts,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Piece:
        """Return the piece that was written."""
        shards = [ShardEntry(**entry) for entry in content["shards"]]
        return cls(content["recipe"], shards, content["checksums"], content["counts"])


def finish_piece(folder: Path, name: str, piece: Piece) -> None:
    """Record that a piece is complete.

    The record need not survive a loss of power, nor be in order with the shards' names: a run that resumes from it
    compares every shard with its digest.
    """
    write_sealed(folder / f"{name}{_RECORD_SUFFIX}", piece.as_json(), durable=False)


class StageBuild:
    """A stage that is being built."""

    def __init__(self, folder: Path, digests: DigestCache) -> None:
        self.folder = folder
        self.partial = folder.with_name(f".{folder.name}.partial")
        self.resumed = 0  # pieces that an interrupted run left
        self._digests = digests
        self._finished: dict[str, Piece] = {}
        self._elsewhere: dict[str, tuple[Path, list[ShardEntry], list[list[int]]]] = {}

    def open(self, resume: bool, reuse: Iterable[Path]) -> None:
        """Begin the stage, or resume it from the pieces of an earlier run.

        Args:
            resume: keep the finished pieces of an interrupted run.
            reuse: stages whose pieces are taken over where their recipe is the same.
        """
        if not resume:
            shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)
        kept = set()
        for path in self.partial.glob(f"*{_RECORD_SUFFIX}"):
            try:
                piece = Piece.from_json(read_sealed(path, "it is made again"))
            except (UserError, KeyError, TypeError):  # lost with the power
                continue
            if all(_is_whole(self.partial / entry.file, entry) for entry in piece.shards):
                self._finished[piece.recipe] = piece
                kept |= {path.name, *(entry.file for entry in piece.shards)}
        for path in self.partial.iterdir():
            if path.name not in kept:
                path.unlink()
        self.resumed = len(self._finished)
        for folder in reuse:
            with contextlib.suppress(UserError):  # nothing is taken over from a damaged stage
                manifest = read_manifest(folder) or {"shards": [], "pieces": {}}
                entries = {entry.file: entry for entry in shard_entries(manifest)}
                for recipe, files in manifest["pieces"].items():
                    counts = manifest.get("piece_counts", {}).get(recipe, [])
                    self._elsewhere.setdefault(recipe, (folder, [entries[file] for file in files], counts))

    def take_over(self, recipe: str) -> Piece | None:
        """Return the finished piece of this recipe, from this build or linked from another stage; None if absent."""
        if recipe not in self._finished and recipe in self._elsewhere:
            folder, entries, counts = self._elsewhere[recipe]
            if all(self._link(folder / entry.file, entry) for entry in entries):
                self._finished[recipe] = Piece(recipe, entries, {}, counts)
        return self._finished.get(recipe)

    def finish(self, manifest: dict[str, Any], pieces: list[Piece], beside: Mapping[str, bytes] | None = None) -> None:
        """Write the manifest with all pieces, remove other files, and give the stage its name.

        Args:
            manifest: all but the shards.
            pieces: all, in order.
            beside: further small files, by name.
        """
        entries = [entry for piece in pieces for entry in piece.shards]
        for name, content in (beside or {}).items():
            write_atomically(self.partial / name, content)
        listed = {entry.file for entry in entries} | set(beside or {})
        for path in self.partial.iterdir():
            if path.name not in listed:
                path.unlink()
        parts = {
            "shards": [entry.as_json() for entry in entries],
            "pieces": {piece.recipe: [entry.file for entry in piece.shards] for piece in pieces},
            "piece_counts": {piece.recipe: piece.counts for piece in pieces if piece.counts},
        }
        write_manifest(self.partial, {**manifest, **parts})
        sync_folder(self.partial)
        if self.folder.exists():  # damaged, or being rebuilt on request
            shutil.rmtree(self.folder)
        self.partial.rename(self.folder)
        sync_folder(self.folder.parent)
        for entry in entries:
            self._digests.remember(self.folder / entry.file, entry.digest)

    def kept(self) -> int:
        """Return the number of finished pieces in the folder."""
        return sum(1 for _ in self.partial.glob(f"*{_RECORD_SUFFIX}"))

    def discard(self) -> None:
        """Remove the unfinished stage; again if a worker elsewhere is still writing."""
        for _ in range(_ATTEMPTS):
            shutil.rmtree(self.partial, ignore_errors=True)
            if not self.partial.exists():
                return
            time.sleep(_POLL_SECONDS)

    def _link(self, source: Path, entry: ShardEntry) -> bool:
        if not source.is_file() or source.stat().st_size != entry.bytes or self._digests.digest(source) != entry.digest:
            return False
        with atomic_path(self.partial / entry.file, durable=False) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(source, temporary)
        self._digests.remember(source, entry.digest)  # the link changed its stamp
        return True


@contextmanager
def build_stage(folder: Path, digests: DigestCache, resume: bool, reuse: Iterable[Path]) -> Iterator[StageBuild]:
    """Build ``folder``: a user's mistake discards the build, any other exception keeps its finished pieces."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    build = StageBuild(folder, digests)
    try:
        build.open(resume, reuse)
        yield build
    except UserError:
        build.discard()
        raise
    except OSError as error:
        kept = build.kept()
        if kept and error.errno is not None:
            what = f"{error.strerror}; {kept} finished pieces are kept, the same command goes on from them"
            raise OSError(error.errno, what, error.filename) from error
        raise
    finally:
        if build.partial.is_dir() and not build.kept():
            build.discard()


def _is_whole(path: Path, entry: ShardEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and file_digest(path) == entry.digest

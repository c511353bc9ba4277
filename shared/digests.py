"""Content digests of files and of settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from shared.files import write_atomically

_CHUNK_BYTES = 1 << 20


def file_digest(path: Path) -> str:
    """Return the XXH3 digest (128 bits, hex) of a file's bytes, read in chunks.

    It finds damage and need not withstand an attacker; BLAKE2b takes longer than writing a shard does.
    """
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def array_digest(values: np.ndarray) -> str:
    """Return the XXH3 digest (128 bits, hex) of an array's bytes in memory."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).tobytes())


def settings_digest(settings: dict[str, Any]) -> str:
    """Return the BLAKE2b digest (hex) of JSON-serialisable settings, independent of key order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class DigestCache:
    """A cache of file digests by (size, modification time, change time), so that unchanged files are not read again.

    The change time is set by the kernel and not by the file's owner, so an edit that restores the modification
    time is still seen. The cache is a JSON file; its loss costs only time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._dirty = False
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, RecursionError
        ):  # absent, of others, damaged
            loaded = json.loads(path.read_bytes())
            if loaded["checksum"] == settings_digest(loaded["files"]):
                self._known = loaded["files"]

    def digest(self, path: Path) -> str:
        """Return the digest of a file's bytes."""
        entry = self._known.get(str(path.resolve()))
        if entry and entry["stamp"] == _stamp(path):
            return str(entry["digest"])
        digest = file_digest(path)
        self.remember(path, digest)
        return digest

    def is_known(self, path: Path, digest: str) -> bool:
        """Return whether the file had this digest when it was last read and has the same stamp still."""
        return self._known.get(str(path.resolve())) == {"stamp": _stamp(path), "digest": digest}

    def remember(self, path: Path, digest: str) -> None:
        """Keep a digest that is known to be the file's."""
        self._known[str(path.resolve())] = {"stamp": _stamp(path), "digest": digest}
        self._dirty = True

    def save(self) -> None:
        """Write the cache if it changed and can be written (a shared folder may be read-only, a disk full)."""
        if not self._dirty:
            return
        with contextlib.suppress(OSError):
            known = {key: entry for key, entry in self._known.items() if os.path.exists(key)}
            content = {"checksum": settings_digest(known), "files": known}
            write_atomically(self._path, json.dumps(content, indent=1).encode())
            self._dirty = False


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]

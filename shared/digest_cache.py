"""Digests of files that are not read again while they are unchanged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from shared.digests import file_digest
from shared.errors import UserError
from shared.sealed import read_sealed, write_sealed


class DigestCache:
    """A cache of file digests by (size, modification time, change time), so that unchanged files are not read again.

    The change time is set by the kernel and not by the file's owner, so an edit that restores the modification
    time is still seen. The cache is a JSON file; its loss costs only time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._dirty = False
        with contextlib.suppress(OSError, UserError, KeyError):  # absent, of another user, damaged, of another version
            self._known = read_sealed(path, "files are read again")["files"]

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
            write_sealed(self._path, {"files": known})
            self._dirty = False


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]

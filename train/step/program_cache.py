"""Traced and compiled programs kept between runs, in the user's cache folder."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import xxhash

from shared.files import write_atomically

_LARGEST_BYTES = 1 << 30
_LARGEST_TRACED_BYTES = 128 << 20
"""Of traced programs, which take some hundred kB each."""

_TRACED = "traced"


def keep_compilations() -> None:
    """Keep what is compiled, so that the next run of the same shapes starts in seconds.

    In JAX_COMPILATION_CACHE_DIR if that is set, or in the user's cache folder, of which 1 GiB is kept, the least
    recently used going first. JAX tells its entries apart by the program, the compiler's version and the processor.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "joint-physnet-dcmnet" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Not by jax_compilation_cache_max_size: of a program that was killed while it wrote, or that set no such size,
        # JAX finds entries without a time, and keeps no program any more.
        remove_oldest(folder, _LARGEST_BYTES)
    # Small ones too: hundreds of them make up seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def remove_oldest(folder: Path, largest: int) -> None:
    """Remove the least recently used files until the others take at most so many bytes."""
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # another program removes the same ones
            stat = path.stat()
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    kept = 0
    for _, size, path in sorted(found, reverse=True):
        kept += size
        if kept > largest and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


@dataclass(frozen=True)
class KeptPrograms:
    """Serialised programs of one set of settings, sources and versions; losing one costs only time."""

    folder: Path
    digest: str

    def load(self, name: str) -> bytes | None:
        """Return the program of this name, or None if it is absent or damaged."""
        path = self._path(name)
        try:
            content = path.read_bytes()
            path.touch()
        except OSError:
            return None
        checksum, content = content[:16], content[16:]
        return content if xxhash.xxh3_128_digest(content) == checksum else None

    def save(self, name: str, content: bytes) -> None:
        """Keep a program; beyond a size of all, the least recently used ones are removed."""
        # A full or read-only disk is no reason to stop a training.
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(name), xxhash.xxh3_128_digest(content) + content)
            remove_oldest(self.folder, _LARGEST_TRACED_BYTES)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.digest[:24]}-{name[:24]}"


def kept_programs(digest: str) -> KeptPrograms | None:
    """Return the programs beside JAX's own compilation cache; None where that is not used."""
    folder: str | None = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (unknown to the type checker)
    return KeptPrograms(Path(folder) / _TRACED, digest) if folder else None

"""Traced and compiled programs kept between runs, in a cache that can only cost time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import xxhash
from jax._src import compilation_cache, config
from jax._src.compilation_cache_interface import CacheInterface
from jax._src.lru_cache import LRUCache

from shared.files import write_atomically
from shared.user_cache import note_not_kept, user_cache

_LARGEST_BYTES = 1 << 30
_LARGEST_TRACED_BYTES = 128 << 20
"""Of traced programs, which take some hundred kB each."""

_TRACED = "traced"
_CHECKSUM_BYTES = 16
_FORMATS = ("export", "serialization", "prng")
"""Of JAX's settings beyond those of its traces, parts of the names of those that exported programs contain."""


def keep_compilations() -> None:
    """Keep what is compiled, so that the next run of the same shapes starts in seconds.

    In the user's cache folder, of which 1 GiB is kept, the least recently used going first; or where the user's
    JAX_COMPILATION_CACHE_DIR says, within the user's limit, as JAX keeps it. JAX tells its entries apart by the
    program, the compiler's version and the processor.
    """
    if not _setting("jax_enable_compilation_cache"):
        return
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        own = user_cache()
        if own is None:
            return
        jax.config.update("jax_compilation_cache_dir", str(own / "jax"))
        remove_oldest(own / "jax", _LARGEST_BYTES)
    folder = _setting("jax_compilation_cache_dir")
    if folder and not _is_writable(Path(folder)):
        # With these, which XLA writes by itself, it would stop.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.reset_cache()
    compilation_cache.get_file_cache = _open_cache
    # Small ones too: hundreds of them make up seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def remove_oldest(folder: Path, largest: int) -> None:
    """Remove the least recently used files until the others take at most so many bytes."""
    found = []
    with contextlib.suppress(OSError):  # of another user
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


def trace_settings() -> dict[str, str]:
    """Return all settings of JAX that a traced program depends on, of whatever origin."""
    traced = {*config.trace_context_names()}
    names = {name for name in config.config_states if name in traced or any(part in name for part in _FORMATS)}
    return {name: repr(config.config_states[name].value) for name in sorted(names)}


@dataclass(frozen=True)
class KeptPrograms:
    """Serialised programs of one set of settings, sources and versions; losing one costs only time."""

    folder: Path
    digest: str
    largest: int = _LARGEST_TRACED_BYTES

    def load(self, name: str) -> bytes | None:
        """Return the program of this name, or None if it is absent or damaged."""
        return _load(self._path(name))

    def save(self, name: str, content: bytes) -> None:
        """Keep a program; beyond a size of all, the least recently used ones are removed."""
        # A full or read-only disk is no reason to stop a training.
        with contextlib.suppress(OSError):
            _save(self._path(name), content)
            remove_oldest(self.folder, self.largest)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.digest[:24]}-{name[:24]}"


def kept_programs(digest: str) -> KeptPrograms | None:
    """Return the programs beside JAX's own compilation cache; None where that is not used."""
    folder, limit = _setting("jax_compilation_cache_dir"), _setting("jax_compilation_cache_max_size")
    if not folder or not _setting("jax_enable_compilation_cache"):
        return None
    return KeptPrograms(Path(folder) / _TRACED, digest, min(_LARGEST_TRACED_BYTES, limit if limit >= 0 else 1 << 62))


class _OwnCache(CacheInterface):
    """JAX's compiled programs in this project's folder, each behind a checksum of it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._writes = True

    def get(self, key: str) -> bytes | None:
        """Return an entry; None if it is absent or damaged, when JAX compiles it and puts it again."""
        return _load(self._path / f"{key}-cache")

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, unless one could not be written before."""
        if self._writes:
            try:
                _save(self._path / f"{key}-cache", value)
            except OSError as error:
                self._writes = False
                _note(self._path, error)


class _UsersCache(CacheInterface):
    """JAX's own cache in the user's folder, whose faults are misses, and noted once; damaged entries are removed."""

    def __init__(self, cache: LRUCache) -> None:
        self._path = Path(str(cache.path))
        self._cache = cache
        self._works = True

    def get(self, key: str) -> bytes | None:
        """Return an entry; None if there is none that can be read."""
        if not self._works:
            return None
        try:
            content = self._cache.get(key)
        except Exception as error:  # noqa: BLE001 (whatever it is, of files, locks or owners' names: a miss)
            self._works = False
            _note(self._path, error)
            return None
        if content is None:
            return None
        try:
            compilation_cache.decompress_executable(content)
        except Exception:  # noqa: BLE001 (each compression has errors of its own)
            # JAX would warn of it at every start: it never writes over an entry.
            with contextlib.suppress(OSError):
                (self._path / f"{key}-cache").unlink()
            return None
        return content

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, if it is within the user's limit."""
        limited = self._cache.eviction_enabled
        if not self._works or (limited and len(value) > self._cache.max_size):
            return
        try:
            if limited:
                self._complete_times()
            self._cache.put(key, value)
        except Exception as error:  # noqa: BLE001 (as above)
            self._works = False
            _note(self._path, error)

    def _complete_times(self) -> None:
        """Write the times of use that are absent, without which JAX keeps nothing any more.

        They are where a program was killed while it wrote, or where one set no limit.
        """
        for entry in self._path.glob("*-cache"):
            time = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
            if not time.exists():
                time.write_bytes(entry.stat().st_mtime_ns.to_bytes(8, "little"))


def _open_cache(path: str) -> tuple[CacheInterface, str] | None:
    """Stand in for JAX's function of this name; called once, when the first program is compiled."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        return _OwnCache(path), path
    try:
        return _UsersCache(LRUCache(path, max_size=_setting("jax_compilation_cache_max_size"))), path
    except (OSError, RuntimeError) as error:
        _note(Path(path), error)
        return None


def _setting(name: str) -> Any:
    return config.config_states[name].value


def _load(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        with contextlib.suppress(OSError):  # of another user, or on a read-only disk
            path.touch()
    except OSError:
        return None
    checksum, content = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return content if xxhash.xxh3_128_digest(content) == checksum else None


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, xxhash.xxh3_128_digest(content) + content, durable=False)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
    except OSError:
        return False
    return True


def _note(folder: Path, error: Exception) -> None:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    note_not_kept(f"{folder} ({reason})")

"""Compiled programs kept between runs, in a cache that can only cost time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface
from jax._src.lru_cache import LRUCache

from shared.user_cache import note_not_kept
from train.model.kept_programs import own_folder, read_checked, remove_oldest, setting, write_checked

_LARGEST_BYTES = 1 << 30


def keep_compilations() -> None:
    """Keep what is compiled, so that the next run of the same shapes starts in seconds.

    In the user's cache folder, of which 1 GiB is kept, the least recently used going first; or where the user's
    JAX_COMPILATION_CACHE_DIR says, within the user's limit, as JAX keeps it. JAX tells its entries apart by the
    program, the compiler's version and the processor.
    """
    if not setting("jax_enable_compilation_cache"):
        return
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        own = own_folder()
        if own is None:
            return
        jax.config.update("jax_compilation_cache_dir", str(own))
        remove_oldest(own, _LARGEST_BYTES)
    folder = setting("jax_compilation_cache_dir")
    if folder and not _is_writable(Path(folder)):
        # With these, which XLA writes by itself, it would stop.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.reset_cache()
    compilation_cache.get_file_cache = _open_cache
    # Small ones too: hundreds of them make up seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class _OwnCache(CacheInterface):
    """JAX's compiled programs in this project's folder, each behind a checksum of it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._writes = True

    def get(self, key: str) -> bytes | None:
        """Return an entry; None if it is absent or damaged, when JAX compiles it and puts it again."""
        return read_checked(self._path / f"{key}-cache")

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, unless one could not be written before."""
        if self._writes:
            try:
                write_checked(self._path / f"{key}-cache", value)
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
        return _UsersCache(LRUCache(path, max_size=setting("jax_compilation_cache_max_size"))), path
    except (OSError, RuntimeError) as error:
        _note(Path(path), error)
        return None


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

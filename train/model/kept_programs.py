"""Traced programs kept between processes, under a digest of all that they depend on; losing one costs only time.

JAX keeps what it compiled, but to find it, it must trace the model again: seconds at each start. Here a program is
kept as ``jax.export`` serialises it (no pickle), behind a checksum.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import xxhash
from jax import export
from jax._src import config

from shared.digests import settings_digest
from shared.files import write_atomically
from shared.provenance import ROOT, sources_digest, versions
from shared.user_cache import user_cache

_LARGEST_BYTES = 128 << 20
"""Of all traced programs, which take some hundred kB each."""

_TRACED = "traced"
_CHECKSUM_BYTES = 16
_FORMATS = ("export", "serialization", "prng")
"""Of JAX's settings beyond those of its traces, parts of the names of those that exported programs contain."""

_PACKAGES = ("jax", "jaxlib", "flax", "e3x", "optax")
_LEVEL = "xla_backend_optimization_level"


@dataclass(frozen=True)
class KeptPrograms:
    """Serialised programs of one set of settings, sources and versions; losing one costs only time."""

    folder: Path
    digest: str
    largest: int = _LARGEST_BYTES

    def load(self, name: str) -> bytes | None:
        """Return the program of this name, or None if it is absent or damaged."""
        return read_checked(self._path(name))

    def save(self, name: str, content: bytes) -> None:
        """Keep a program; beyond a size of all, the least recently used ones are removed."""
        # A full or read-only disk is no reason to stop a training.
        with contextlib.suppress(OSError):
            write_checked(self._path(name), content)
            remove_oldest(self.folder, self.largest)

    def traced(
        self, name: str, function: Callable[..., Any], shapes: Sequence[jax.ShapeDtypeStruct], platform: str
    ) -> Callable[..., Any]:
        """Return the kept program of this name; where there is none, trace the function of flat arrays and keep it.

        Args:
            name: of the program, different for other shapes.
            function: takes arrays of ``shapes``, returns a list of arrays.
            shapes: of its arguments.
            platform: that it will be compiled for.
        """
        content = self.load(name)
        if content is None:
            content = bytes(export.export(jax.jit(function), platforms=[platform])(*shapes).serialize())
            self.save(name, content)
        call: Callable[..., Any] = export.deserialize(bytearray(content)).call
        return call

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.digest[:24]}-{name[:24]}"


def kept_programs(digest: str) -> KeptPrograms | None:
    """Return the programs beside JAX's own compilation cache, else in the user's cache folder; None for none."""
    if not setting("jax_enable_compilation_cache"):
        return None
    folder, limit = setting("jax_compilation_cache_dir"), setting("jax_compilation_cache_max_size")
    # JAX keeps its programs at addresses too (gs://...).
    place = Path(folder) if folder and "://" not in folder else own_folder()
    if place is None:
        return None
    return KeptPrograms(place / _TRACED, digest, min(_LARGEST_BYTES, limit if limit >= 0 else 1 << 62))


def own_folder() -> Path | None:
    """Return the folder of JAX's programs in the user's cache folder; None for a user without one."""
    own = user_cache()
    return own / "jax" if own else None


def program_digest(settings: dict[str, Any], sources: Iterable[Path]) -> str:
    """Return the digest of these settings and sources, the libraries' versions and JAX's settings of traces."""
    return settings_digest(
        {
            "settings": settings,
            "sources": sources_digest(sources),
            "versions": versions(_PACKAGES),
            "jax": trace_settings(),
        }
    )


def sources_of(*rooms: str) -> list[Path]:
    """Return the sources in these rooms of train/, and of what all of them stand on."""
    inside = [path for room in rooms for path in (ROOT / "train" / room).rglob("*.py")]
    return [*(ROOT / "shared").glob("*.py"), ROOT / "train" / "config.py", *inside]


def compiler_options(platform: str) -> dict[str, Any]:
    """Return XLA's options: on a processor, a third less compilation and steps of the same speed (measured).

    A level that the user's XLA_FLAGS name is left as it is.
    """
    return {_LEVEL: 1} if platform == "cpu" and _LEVEL not in os.environ.get("XLA_FLAGS", "") else {}


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Let Python not look for cycles among the objects of a trace, which takes a sixth of it and frees nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def trace_settings() -> dict[str, str]:
    """Return all settings of JAX that a traced program depends on, of whatever origin."""
    traced = {*config.trace_context_names()}
    names = {name for name in config.config_states if name in traced or any(part in name for part in _FORMATS)}
    return {name: repr(config.config_states[name].value) for name in sorted(names)}


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


def setting(name: str) -> Any:
    """Return the value of one of JAX's settings, of whatever origin."""
    return config.config_states[name].value


def read_checked(path: Path) -> bytes | None:
    """Return what :func:`write_checked` wrote; None if it is absent or damaged."""
    try:
        content = path.read_bytes()
        with contextlib.suppress(OSError):  # of another user, or on a read-only disk
            path.touch()
    except OSError:
        return None
    checksum, content = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return content if xxhash.xxh3_128_digest(content) == checksum else None


def write_checked(path: Path, content: bytes) -> None:
    """Write a file behind a checksum of its content.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, xxhash.xxh3_128_digest(content) + content, durable=False)

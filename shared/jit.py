"""Functions compiled by numba and kept between runs, in a cache that can only cost time.

Numba's own cache stops a program where it has no place to write, where its index or a kept function is damaged, and
where another user's files are in its way; and it does not see that a function changed which another file's function
calls.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeVar

import llvmlite
import numba
import numpy as np
import xxhash
from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from shared.files import write_atomically
from shared.user_cache import note_not_kept, user_cache

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_CHECKSUM_BYTES = 16
_PLACES = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")
"""Variables of numba that do not change what it compiles; all others are taken to."""


def jit(**options: Any) -> Callable[[FunctionT], FunctionT]:
    """Compile a function when it is first called, without the interpreter's lock, or take the kept one.

    Args:
        options: further ones of :func:`numba.njit`.
    """

    def decorate(function: FunctionT) -> FunctionT:
        dispatcher: Any = numba.njit(nogil=True, **options)(function)
        if dispatcher is not function:  # NUMBA_DISABLE_JIT
            dispatcher._cache = _KeptFunction(function)
        return dispatcher

    return decorate


class _KeptFunction(caching._Cache):
    """The compiled forms of one function, one file for each types of arguments, which are loaded whole or not at all.

    A file holds numba's own form, which is a pickle with machine code in it, behind a checksum of that and of all that
    it depends on. Nothing is unpickled whose checksum differs. The folders are those where Python and numba keep code.
    """

    def __init__(self, function: Any) -> None:
        self._function = function

    @property
    def cache_path(self) -> str:
        """The folder that is tried first."""
        return str(next(self._folders(), ""))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the function compiled for these types; None if it is not kept, is damaged or of other sources."""
        target_context.refresh()
        name, stamp = self._name(sig, target_context.codegen()), _stamp(self._function)
        if stamp is None:
            return None
        for folder in self._folders():
            content = self._read(folder / name)
            checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
            if checksum != _checksum(stamp, payload):
                continue
            try:
                kept = CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: S301 (checked, see above)
            except Exception:  # noqa: BLE001 (numba and LLVM raise what they like; a function can always be compiled)
                continue
            if tuple(kept.signature.args) == tuple(sig):
                return kept
        return None

    def _read(self, path: Path) -> bytes:
        """Return a file's content; none of one by another user who could not as well have changed the source."""
        trusted = {0, os.geteuid()}
        with contextlib.suppress(OSError):
            trusted.add(os.stat(self._function.__code__.co_filename).st_uid)
        with contextlib.suppress(OSError), path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_uid in trusted:
                return stream.read()
        return b""

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function in the first folder that can be written."""
        stamp = _stamp(self._function)
        if stamp is None or data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            return
        payload = dumps(data._reduce())
        content, name, failed = _checksum(stamp, payload) + payload, self._name(sig, data.codegen), None
        for folder in self._folders():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, content, durable=False)
                return
            except OSError as error:
                failed = failed or f"{folder} ({error.strerror or error})"
        note_not_kept(failed or "the cache of a user without a home")

    def enable(self) -> None:
        """Do nothing: the cache is always used."""

    def disable(self) -> None:
        """Do nothing: the cache is always used."""

    def flush(self) -> None:
        """Do nothing: what is no longer right is never loaded, and written over."""

    def _folders(self) -> Iterator[Path]:
        file = Path(self._function.__code__.co_filename)
        below = f"{file.parent.name}-{xxhash.xxh3_64_hexdigest(os.fsencode(file.parent))}"
        named = os.environ.get("NUMBA_CACHE_DIR")
        if named:
            yield Path(named) / below
            return
        yield file.parent / "__pycache__"
        own = user_cache()
        if own:
            yield own / "numba" / below

    def _name(self, sig: Any, codegen: Any) -> str:
        where = self._function.__module__, self._function.__qualname__, sys.implementation.cache_tag
        key = repr((where, sig, codegen.magic_tuple()))
        return f"{self._function.__module__}.{self._function.__name__}-{xxhash.xxh3_64_hexdigest(key.encode())}.jit"


def _checksum(stamp: bytes, payload: bytes) -> bytes:
    return xxhash.xxh3_128_digest(stamp + payload)


def _stamp(function: Any) -> bytes | None:
    """Return a digest of all that a compiled function depends on: sources, constants, versions, variables of numba.

    Returns:
        None where a source cannot be read.
    """
    variables = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] not in _PLACES)
    versions = numba.__version__, llvmlite.__version__, np.__version__, platform.python_version()
    digest = xxhash.xxh3_128(repr((versions, variables)).encode())
    try:
        for source in sorted({Path(__file__).read_bytes(), *_sources(function, set())}):
            digest.update(source)
    except OSError:
        return None
    return digest.digest()


def _sources(function: Any, seen: set[Any]) -> Iterator[bytes]:
    """Yield the files of a function and of the compiled functions that it calls, and the constants they take."""
    seen.add(function)
    yield Path(function.__code__.co_filename).read_bytes()
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        called = getattr(value, "py_func", None)
        if isinstance(called, FunctionType):
            if called not in seen:
                yield from _sources(called, seen)
        elif isinstance(value, np.ndarray):
            yield f"{name} {value.dtype} {value.shape}".encode() + value.tobytes()
        elif isinstance(value, bool | int | float | complex | str | tuple):
            yield f"{name} {value!r}".encode()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a comprehension
            yield from _names(constant)

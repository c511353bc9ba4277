"""Atomic writes of files, complete or absent whenever a program is killed, and errors that name their file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from shared.errors import UserError
from shared.signals import at_end, unbroken

_WITHOUT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}
"""Errors of file systems that cannot sync a folder (SMB, sshfs), and of folders that may not be read."""

_HDF5_ERRNO = re.compile(r"errno = (\d+)")


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it is renamed to ``path`` if the block ends without error.

    Two writers of one file, in any processes or on any machines, each write their own: the last one stays.

    Args:
        path: of the finished file.
        durable: sync file and name to the disk before the return, so that a loss of power leaves the old or the new.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")

    def remove(line: str = "") -> None:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

    try:
        with naming(path, temporary), at_end(remove):
            yield temporary
            if durable:
                _sync(temporary)
            with unbroken:
                temporary.replace(path)
            if durable:
                sync_folder(path.parent)
    finally:
        remove()


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give errors of the system in this context the file's name, where they have none or that of ``temporary``.

    Those of the HDF5 library become such errors too.

    Raises:
        OSError: with the file's name.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = _HDF5_ERRNO.search(str(error))
        if found is not None:
            number = int(found.group(1))
            raise OSError(number, os.strerror(number), str(path)) from error
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, _text(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a small file so that a reader sees the old content or the new one, never a part."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(content)


def require_readable(path: Path) -> None:
    """Look whether a file that a library refused can be read at all, before it is said to be damaged.

    Raises:
        UserError: it cannot; says why.
    """
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def sync_folder(path: Path) -> bool:
    """Make the names in a folder as durable as the files: a rename may otherwise be lost with the power.

    Returns:
        whether its file system can.
    """
    return _sync(path)


def sync_descriptor(descriptor: int) -> bool:
    """Write what was written to an open file or folder to the disk; return whether its file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _WITHOUT_SYNC:
            raise
        return False
    return True


def _sync(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, but not read
        return False
    try:
        return sync_descriptor(descriptor)
    finally:
        os.close(descriptor)

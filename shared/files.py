"""Atomic writes of files, complete or absent whenever a program is killed, and locks of folders."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from shared.errors import UserError
from shared.log import log

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it is renamed to ``path`` if the block ends without error.

    Two writers of one file, in any processes or on any machines, each write their own: the last one stays.

    Args:
        path: of the finished file.
        durable: sync file and name to the disk before the return, so that a loss of power leaves the old or the new.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def sync_folder(path: Path) -> None:
    """Make the names in a folder as durable as the files: a rename may otherwise be lost with the power."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; while another one holds it, log which and wait.

    The system releases the lock when its holder dies in any way.
    """
    lock, holder = FileLock(folder / ".lock"), folder / ".lock-holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with contextlib.suppress(OSError):
            who = holder.read_text(encoding="utf-8")
        log.info(f"{folder} is in use by {who}; waiting for it (Ctrl-C to stop)")
        lock.acquire(poll_interval=_POLL_SECONDS)
    try:
        with contextlib.suppress(OSError):  # it only serves the message
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()

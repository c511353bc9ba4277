"""Locks of folders, which the system releases when their holder ends in any way.

The library filelock takes every refusal for a lock that is held, and cannot lock a file of another user that may only
be read; where it stands, programs wait for ever on file systems without locks and in caches of a group.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from shared.log import log

_POLL_SECONDS = 0.2
_SECONDS_BETWEEN_LINES = 600.0

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
"""Errors of file systems that have no locks, or (the last) none for files that may only be read."""


class Lock:
    """A lock of a folder, held by one process or thread at a time, or by none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, and return whether it was free. Where there are no locks, warn, and return that it was.

        Raises:
            OSError: the lock's file can be neither written nor read.
        """
        descriptor = _open(self.folder / ".lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                error.filename = str(self.folder / ".lock")
                raise
            log.warning(
                f"warning: {self.folder}: no locks on this file system ({error.strerror}): run no other program there "
                "meanwhile"
            )
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    """Open a lock's file, or make it as writable as its folder, for a group that shares that."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        with contextlib.suppress(OSError):
            shared_with = path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            os.fchmod(descriptor, 0o644 | shared_with)
        return descriptor
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; while another one holds it, log which, and for how long, and wait."""
    lock, holder = Lock(folder), folder / ".lock-holder"
    began = said = time.monotonic()
    waiting = False
    while not lock.acquire():
        now = time.monotonic()
        if not waiting or now - said > _SECONDS_BETWEEN_LINES:
            who = "another process"
            with contextlib.suppress(OSError, UnicodeDecodeError):
                who = holder.read_text(encoding="utf-8")
            since = f" ({(now - began) / 60:.0f} minutes so far)" if waiting else ""
            log.info(f"{folder} is in use by {who}; waiting for it{since} (Ctrl-C to stop)")
            waiting, said = True, now
        time.sleep(_POLL_SECONDS)
    try:
        with contextlib.suppress(OSError):  # it only serves the message
            now_shown = time.strftime("%Y-%m-%d %H:%M:%S")
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now_shown}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()

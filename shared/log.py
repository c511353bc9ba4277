"""Logging of the programs: on the console, and of a run in a file of its folder too."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from shared.errors import Interrupted, UserError
from shared.signals import at_end

log = logging.getLogger("joint_physnet_dcmnet")
"""Prints bare messages on standard output; a program that embeds these may remove its handler."""


class _Console(logging.Handler):
    """Handler that prints to the present standard output; a closed pipe ends the program, as with print."""

    def emit(self, record: logging.LogRecord) -> None:
        # Above progress bars, which a plain print would break.
        tqdm.write(record.getMessage())


class _File(logging.FileHandler):
    """Handler that stops, with one line, when the file cannot be written: the console has the same messages."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.addFilter(lambda _: False)
        log.warning("warning: %s cannot be written, and holds nothing of what follows", self.baseFilename)

    def close(self) -> None:
        # Of a full disk the last message may still be waiting: no reason to end in another way.
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def log_file(path: Path | None, begin: str) -> Iterator[None]:
    """Append the messages of this context to a file, with the times, and the error that ends it.

    Args:
        path: of the file; None for none.
        begin: first line in the file.
    """
    if path is None:
        yield
        return
    try:
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        log.warning(f"warning: {path} cannot be written ({error.strerror}), and holds nothing of what follows")
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def write(text: str, error: BaseException | None = None) -> None:
        traceback = (type(error), error, error.__traceback__) if error else None
        handler.handle(log.makeRecord(log.name, logging.INFO, "", 0, text, (), traceback))

    def write_last(text: str) -> None:
        # Past Python's files, whose locks the thread that is ended may hold.
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, line.encode())

    write(f"begin: {begin}")
    log.addHandler(handler)
    try:
        with at_end(write_last):
            yield
    except Interrupted as stop:
        write(str(stop))
        raise
    except (UserError, OSError) as error:
        write(f"error: {error}")
        raise
    except BaseException as error:
        write(f"ended by {type(error).__name__}", error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(_Console())

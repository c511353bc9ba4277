"""Logging of the programs: on the console, and of a run in a file of its folder too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from shared.errors import Interrupted, UserError

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
        log.removeHandler(self)
        log.warning("warning: %s cannot be written, and holds nothing of what follows", self.baseFilename)


@contextmanager
def log_file(path: Path | None) -> Iterator[logging.Logger]:
    """Append the messages of this context to a file, with the times, and the error that ends it.

    Args:
        path: of the file; None for none.

    Yields:
        a logger that writes to the file alone.
    """
    aside = logging.getLogger(f"{log.name}.file")
    aside.propagate = False
    if path is None:
        yield aside
        return
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for logger in (log, aside):
        logger.addHandler(handler)
    try:
        yield aside
    except BaseException as error:
        if isinstance(error, Interrupted):
            aside.info(str(error))
        elif isinstance(error, UserError | OSError):
            aside.error("error: %s", error)
        else:
            aside.error("ended by %s", type(error).__name__, exc_info=error)
        raise
    finally:
        for logger in (log, aside):
            logger.removeHandler(handler)
        handler.close()


log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(_Console())

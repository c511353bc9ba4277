"""The one exception for a user's mistake, and the entry-point wrapper that prints it as one line."""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from shared.text import prepare_output, use_utf8

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 75
"""Exit code after a queue's signal (EX_TEMPFAIL in sysexits.h: try again), with everything saved."""
EXIT_STUCK = 70
"""Exit code after the watchdog ended a program that would wait for ever (EX_SOFTWARE in sysexits.h)."""


class UserError(Exception):
    """Bad input or settings. The message says what is wrong, where, and what to do about it."""


class Note(UserWarning):
    """Something that a user should know; the programs print it as a line, in a library it is a warning."""


class Interrupted(Exception):
    """The program was asked to stop and did so in good order, with everything saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _show_note(show: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, Note):
        print(f"note: {message}", file=sys.stderr)
    else:
        show(message, category, *where)


def run_program(main: Callable[[], None]) -> int:
    """Run ``main`` and return the exit code: 0, 2 for a user's mistake, 130 after Ctrl-C, 75 after a queue's signal.

    Errors of the operating system (no space left, permission denied) are the user's to solve too,
    so they get one line rather than a traceback. All others are bugs of the project and are raised.
    """
    use_utf8()
    prepare_output()
    warnings.showwarning = functools.partial(_show_note, warnings.showwarning)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        # Bytes of a path or an argument that are not UTF-8 come as such, and the libraries cannot take them.
        begin = max(error.object.rfind(mark, 0, error.start) for mark in '"\n') + 1
        name = re.split('["\n]', error.object[begin:], maxsplit=1)[0]
        print(f"error: {name}: this name is not in UTF-8; rename the file or folder", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # The reader of the output has gone (`… | head`). Nothing more can be written, and the
        # interpreter must not flush the closed pipe at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0

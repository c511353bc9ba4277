"""Text that goes in and out: paths in UTF-8, output that no character can stop, names of others cut and escaped."""

from __future__ import annotations

import io
import logging
import os
import sys

_LONGEST_NAME = 60


def use_utf8() -> None:
    """Begin this program again in Python's UTF-8 mode where the locale has another encoding.

    Python would spell a path in the locale's encoding, while HDF5, tensorstore and all of this project's files have
    UTF-8: the same name would mean two files.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    # The terminal keeps its encoding.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    own = {"PYTHONUTF8": "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING") or encoding}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **own})


def prepare_output() -> None:
    """Make output that no character can stop, and that appears line by line, in a queue's log file too."""
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the program ends)
    # Three lines of a user without a home; pictures are drawn all the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


def escaped(name: str) -> str:
    """Return a name on one line: control characters as their escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def shown(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name for tables and pictures: escaped, and of a longer one than ``longest`` the begin and the end."""
    whole, half = escaped(name), longest // 2
    return whole if len(whole) <= longest else f"{whole[:half]}…{whole[half + 1 - longest :]}"

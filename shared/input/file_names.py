"""Names of files as users give them: expansion of globs, and recognition of NPZ files."""

from __future__ import annotations

import atexit
import glob
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from shared.errors import UserError


def expand(names: Sequence[str], flag: str, pipes: bool = False) -> list[str]:
    """Expand names and globs to files, in order; an existing file of the same name takes precedence over a pattern.

    Args:
        names: of the files.
        flag: that names them.
        pipes: take pipes too; their reader must go through :func:`on_disk`.

    Raises:
        UserError: a glob that matches nothing, an empty name, or a pipe where none is taken.
    """
    found: list[str] = []
    for name in names:
        if not name.strip():
            raise UserError(f"{flag}: the name of a file is empty")
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"{flag}: {name!r} matches no file")
        for match in matches:
            if not pipes and is_pipe(Path(match)):
                raise UserError(
                    f"{flag}: {match} is a pipe, and files are read more than once; write it to a file first"
                )
        found.extend(matches)
    return found


def is_pipe(path: Path) -> bool:
    """Return whether a path is a pipe, /dev/stdin or the like, which can be read only once."""
    return path.exists() and not path.is_file() and not path.is_dir()


@cache
def on_disk(path: Path) -> Path:
    """Return the path of a file itself; of a pipe that of a copy, which goes when the program ends."""
    if not is_pipe(path):
        return path
    folder = Path(tempfile.mkdtemp(prefix="joint-physnet-dcmnet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / path.name
    # By its number: the pipe of another user (sudo) cannot be opened by name.
    source = open(0, "rb", closefd=False) if str(path) == "/dev/stdin" else path.open("rb")  # noqa: SIM115
    with source, copy.open("wb") as target:
        shutil.copyfileobj(source, target)
    return copy


def is_npz(name: str | Path) -> bool:
    """Return whether a file is NPZ by its suffix, or has none; ASE reads the others."""
    path = Path(name)
    if is_pipe(path):
        with on_disk(path).open("rb") as stream:
            return stream.read(2) == b"PK"
    return path.suffix.lower() == ".npz" or (path.suffix == "" and not path.is_dir())

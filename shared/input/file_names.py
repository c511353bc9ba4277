"""Names of files as users give them: globs, and which files are NPZ."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from shared.errors import UserError


def expand(names: Sequence[str], flag: str) -> list[str]:
    """Return the files that names and globs mean, in order; a file of the very name goes before a pattern.

    Raises:
        UserError: a glob that matches nothing.
    """
    found: list[str] = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"{flag}: {name!r} matches no file")
        found.extend(matches)
    return found


def is_npz(name: str | Path) -> bool:
    """Return whether a file is NPZ, or claims to be: by its suffix, or without one; others are read by ASE."""
    path = Path(name)
    return path.suffix.lower() == ".npz" or (path.suffix == "" and not path.is_dir())

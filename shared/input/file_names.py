"""Names of files as users give them: expansion of globs, and recognition of NPZ files."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from shared.errors import UserError


def expand(names: Sequence[str], flag: str) -> list[str]:
    """Expand names and globs to files, in order; an existing file of the same name takes precedence over a pattern.

    Raises:
        UserError: a glob that matches nothing, or an empty name.
    """
    found: list[str] = []
    for name in names:
        if not name.strip():
            raise UserError(f"{flag}: the name of a file is empty")
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"{flag}: {name!r} matches no file")
        found.extend(matches)
    return found


def is_npz(name: str | Path) -> bool:
    """Return whether a file is NPZ by its suffix, or has none; ASE reads the others."""
    path = Path(name)
    return path.suffix.lower() == ".npz" or (path.suffix == "" and not path.is_dir())

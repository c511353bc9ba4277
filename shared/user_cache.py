"""The folder in which this project keeps what only saves time, below the user's own cache folder."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from shared.log import log

_NAME = "joint-physnet-dcmnet"


def user_cache() -> Path | None:
    """Return the folder, which need not exist or be writable; None for a user without a home.

    XDG_CACHE_HOME counts where it is absolute, as its specification says.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / _NAME
    try:
        home = Path.home() if os.environ.get("HOME", "/") else None
    except RuntimeError:  # neither HOME nor an entry in the list of users: containers run under numbers of their own
        return None
    return home / ".cache" / _NAME if home and home.is_absolute() else None


_noted: list[str] = []


def note_not_kept(where: str) -> None:
    """Say, once for all caches and not in every worker, that compiled code cannot be kept.

    Args:
        where: the folder, and why.
    """
    if not _noted and multiprocessing.parent_process() is None:
        log.info(
            f"note: compiled code cannot be kept in {where}; each start compiles it again, for up to some minutes "
            "(NUMBA_CACHE_DIR and JAX_COMPILATION_CACHE_DIR name other folders)"
        )
    _noted.append(where)

"""What a run records of its program and machine: versions, the commit of the sources, the processor."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of these packages."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def git_commit() -> dict[str, Any]:
    """Return the commit of this program's sources; empty where they are not those of a git checkout.

    An environment inside another repository, or GIT_DIR, would name that one's commit.
    """
    here = Path(__file__).resolve()
    root = here.parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*command: str) -> str:
        command = ("git", "-C", str(root), *command)
        return subprocess.run(command, check=True, capture_output=True, timeout=10, env=environment).stdout.decode()

    try:
        if Path(git("rev-parse", "--show-toplevel").removesuffix("\n")).resolve() != root:
            return {}
        git("ls-files", "--error-unmatch", "--", str(here))
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.strip(), "modified": bool(status.strip())}


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

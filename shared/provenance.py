"""What a run records of its program and machine: versions, the commit of the sources, the processor."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

ROOT = Path(__file__).resolve().parents[1]
"""Folder of the packages of this project."""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of these packages."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def sources_digest(paths: Iterable[Path]) -> str:
    """Return the XXH3 digest (128 bits, hex) of source files and their places in the project."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def git_commit() -> dict[str, Any]:
    """Return the commit of this program's sources; empty where they are not those of a git checkout.

    An environment inside another repository, or GIT_DIR, would name that one's commit.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*command: str) -> str:
        command = ("git", "-C", str(ROOT), *command)
        return subprocess.run(command, check=True, capture_output=True, timeout=10, env=environment).stdout.decode()

    try:
        if Path(git("rev-parse", "--show-toplevel").removesuffix("\n")).resolve() != ROOT:
            return {}
        git("ls-files", "--error-unmatch", "--", str(Path(__file__).resolve()))
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

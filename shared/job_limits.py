"""What a program may use: the cores and the memory of its job, which a queue or a container may have bound.

Limits of Linux's control groups (v1 and v2) hold for all groups from a process's own up to the root; in a container
only the root may be visible.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may run on; a share of a core counts as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups("cpu"):
        quota, period = -1.0, 1.0
        with contextlib.suppress(OSError, ValueError):
            quota, period = map(float, (folder / "cpu.max").read_text(encoding="ascii").split())  # or "max"
        with contextlib.suppress(OSError, ValueError):
            quota = _number(folder / "cpu.cfs_quota_us")
            period = _number(folder / "cpu.cfs_period_us")
        if quota > 0:
            cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def available_memory() -> float:
    """Return the bytes of memory that are free for this process."""
    free = float(psutil.virtual_memory().available)
    for folder in _groups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):
                used = _number(folder / usage) - _statistic(folder / "memory.stat", cache)
                free = min(free, max(0.0, _number(folder / limit) - used))
    return free


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that may bound this process."""
    with contextlib.suppress(OSError):
        for line in _GROUPS_OF_PROCESS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            own = Path(path.lstrip("/"))
            for base in (_GROUPS / controllers, _GROUPS / controller) if controllers else (_GROUPS,):
                yield from (base / group for group in (own, *own.parents))


def _number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))


def _statistic(path: Path, name: str) -> float:
    """Return a number from a file of names and numbers: here memory that the system gives back when it is needed."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return next((float(line[1]) for line in lines if line[0] == name), 0.0)

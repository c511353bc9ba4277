"""How many processor cores a program may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the cores that this process may run on: what a queue or a container has bound it to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

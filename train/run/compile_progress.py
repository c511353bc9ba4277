"""Says that a run compiles, and how far it is: the one long wait in which nothing else is seen."""

from __future__ import annotations

import time
from collections.abc import Callable

from train.step.compiled_steps import Steps

_SILENT_SECONDS = 2.0
"""Kept programs are there sooner, and nothing is said."""

_SECONDS_BETWEEN_LINES = 10.0


class CompileProgress:
    """A line when it takes longer than a moment, and another one every ten seconds, on a terminal or not."""

    def __init__(self, steps: Steps, tell: Callable[[str], None]) -> None:
        self._steps, self._tell = steps, tell
        self._began = time.monotonic()
        self._next = self._began + _SILENT_SECONDS

    def tell(self) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        done, programs = self._steps.compiled()
        if now < self._next or done == programs:
            return
        if self._next == self._began + _SILENT_SECONDS:
            self._tell(f"compiling {programs} programs: half a minute or so the first time, seconds once they are kept")
        else:
            self._tell(f"compiling: {done} of {programs} programs after {now - self._began:.0f} s")
        self._next = now + _SECONDS_BETWEEN_LINES

"""Progress of a run's compilation, the one long wait without other output."""

from __future__ import annotations

import time
from collections.abc import Callable

from train.step.compiled_steps import Steps

_SILENT_SECONDS = 2.0
"""Seconds without a message; kept programs are loaded sooner."""

_SECONDS_BETWEEN_LINES = 10.0


class CompileProgress:
    """Lines on a compilation that takes longer than a moment, then every ten seconds, on a terminal or not."""

    def __init__(self, steps: Steps, log: Callable[[str], None]) -> None:
        self._steps, self._log = steps, log
        self._began = time.monotonic()
        self._next = self._began + _SILENT_SECONDS
        self._announced = False

    def report(self) -> None:
        """Log the progress, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        done, programs = self._steps.compiled()
        if done == programs:
            return
        if not self._announced:
            self._announced = True
            self._log(
                f"compiling {programs} programs: half a minute to a minute and a half the first time, "
                "seconds once they are kept"
            )
        else:
            self._log(f"compiling: {done} of {programs} programs after {now - self._began:.0f} s")
        self._next = now + _SECONDS_BETWEEN_LINES

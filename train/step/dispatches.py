"""Programs that run or wait on the devices, a few at most, and the usual time of their steps."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_MOST = 4
"""Most dispatches under way: XLA queues 32 per device of a processor, and one more blocks a thread they may need."""

_MEASURES_KEPT = 25


@dataclass(eq=False)
class Dispatch:
    """One call of a compiled program that takes one or more steps."""

    program: Hashable
    steps: int
    begun: float  # time.monotonic()
    output: Any = None  # an array that nobody gives up; None until the call has returned

    @property
    def ended(self) -> bool:
        """Return whether the devices have finished it, without waiting."""
        return self.output is not None and bool(self.output.is_ready())


@dataclass
class Dispatches:
    """Dispatches of the training thread, which a watchdog may read from another one at any time."""

    _unfinished: deque[Dispatch] = field(default_factory=deque)
    _seconds: dict[Hashable, deque[float]] = field(default_factory=dict)
    _last_end: float = 0.0

    @contextmanager
    def one(self, program: Hashable, steps: int) -> Iterator[Dispatch]:
        """Enclose the call of a program; the caller sets the output."""
        self._note_ends()
        while len(self._unfinished) >= _MOST:
            self._unfinished[0].output.block_until_ready()
            self._note_ends()
        dispatch = Dispatch(program, steps, time.monotonic())
        self._unfinished.append(dispatch)
        try:
            yield dispatch
        except BaseException:
            self._unfinished.remove(dispatch)
            raise

    def wait(self) -> None:
        """Wait until the devices have nothing to do."""
        for dispatch in self._unfinished:
            dispatch.output.block_until_ready()
        self._note_ends()

    def oldest(self) -> Dispatch | None:
        """Return the dispatch that the devices are at, if any."""
        return next((dispatch for dispatch in list(self._unfinished) if not dispatch.ended), None)

    def usual_seconds(self, program: Hashable) -> float | None:
        """Return the median time of one step in seconds; None before the first has ended."""
        measured = list(self._seconds.get(program, ()))
        return statistics.median(measured) if measured else None

    def _note_ends(self) -> None:
        """Record the programs that have ended: they end in order, each begins when the previous one ends."""
        ended: list[Dispatch] = []
        while self._unfinished and self._unfinished[0].ended:
            ended.append(self._unfinished.popleft())
        if ended:
            now = time.monotonic()
            seconds = (now - max(ended[0].begun, self._last_end)) / sum(dispatch.steps for dispatch in ended)
            for dispatch in ended:
                self._seconds.setdefault(dispatch.program, deque(maxlen=_MEASURES_KEPT)).append(seconds)
            self._last_end = now

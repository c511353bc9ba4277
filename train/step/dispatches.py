"""Programs that were handed to the devices and have not ended: a few at most, each with the time that it may need."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_MOST = 4
"""XLA lets 32 wait on each device of a processor. The next one waits in a thread that those before it may need."""

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
        """Whether the devices are done with it. Does not wait."""
        return self.output is not None and bool(self.output.is_ready())


@dataclass
class Dispatches:
    """Filled by the thread that trains; a watchdog may look from another one, at any time."""

    _unfinished: deque[Dispatch] = field(default_factory=deque)
    _seconds: dict[Hashable, deque[float]] = field(default_factory=dict)
    _last_end: float = 0.0

    @contextmanager
    def one(self, program: Hashable, steps: int) -> Iterator[Dispatch]:
        """Around the call of a program; whoever calls it sets the output."""
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
        """The one that the devices are at."""
        return next((dispatch for dispatch in list(self._unfinished) if not dispatch.ended), None)

    def usual_seconds(self, program: Hashable) -> float | None:
        """Median time of one step; None before the first has ended."""
        measured = list(self._seconds.get(program, ()))
        return statistics.median(measured) if measured else None

    def _note_ends(self) -> None:
        """Programs end in order, and one begins when the one before it ends."""
        ended: list[Dispatch] = []
        while self._unfinished and self._unfinished[0].ended:
            ended.append(self._unfinished.popleft())
        if ended:
            now = time.monotonic()
            seconds = (now - max(ended[0].begun, self._last_end)) / sum(dispatch.steps for dispatch in ended)
            for dispatch in ended:
                self._seconds.setdefault(dispatch.program, deque(maxlen=_MEASURES_KEPT)).append(seconds)
            self._last_end = now

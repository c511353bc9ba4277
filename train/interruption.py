"""Signals that ask a run to stop: remembered, and answered by the training loop between two dispatches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from shared.errors import EXIT_INTERRUPTED, EXIT_STOPPED, Interrupted

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what a queue sends before it kills; what Slurm's --signal=USR1@60 sends earlier."""

_SECONDS_BETWEEN_LOOKS = 0.2


class Interruption:
    """While this context is open, signals are remembered instead of ending the process; a second Ctrl-C still does."""

    def __init__(self) -> None:
        self.asked = 0
        """Number of the signal that asked to stop; 0 for none."""
        self.at_once = False
        """Whether a signal ends the program where it is, nothing being left to save."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python lets only the main thread handle signals; elsewhere (a notebook's worker) they stay as they are.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        if self.at_once:
            raise stopped(number, "with everything saved; the same command does what is left")

    def wait_for(self, future: Future[Result]) -> Result:
        """The result of work that began before the first step.

        Raises:
            Interrupted: asked to stop meanwhile.
        """

        def check() -> None:
            if self.asked:
                raise stopped(self.asked, "before the first step; nothing is lost, and the same command starts again")

        return self.wait_while(future, check)

    def wait_while(self, future: Future[Result], look: Callable[[], None]) -> Result:
        """The result of work in another thread; ``look`` is called again and again until it is there."""
        while True:
            look()
            try:
                return future.result(timeout=_SECONDS_BETWEEN_LOOKS)
            except TimeoutError:
                continue


def stopped(number: int, where: str) -> Interrupted:
    """The error that ends a program after the signal of this number."""
    code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
    return Interrupted(f"{signal.Signals(number).name}: stopped {where}", code)

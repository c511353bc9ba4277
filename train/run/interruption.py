"""Signals that ask a run to stop: remembered, and answered by the training loop between two dispatches."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from shared.errors import EXIT_INTERRUPTED, EXIT_STOPPED, Interrupted

Result = TypeVar("Result")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals of Ctrl-C, of a queue before it kills, and of Slurm's --signal=USR1@60 earlier."""

HEARD = b"\0"
"""Byte in the log that is no signal's number."""

_SECONDS_BETWEEN_LOOKS = 0.2


class Interruption:
    """A context in which signals are remembered instead of ending the process; a second Ctrl-C still ends it.

    The main thread remembers them as soon as it runs Python. Another thread can check that in ``log``, a file
    descriptor: the number of each signal that came, as one byte, and HEARD when those before it are remembered.
    """

    def __init__(self) -> None:
        self.asked = 0
        """Number of the signal that asked to stop; 0 for none."""
        self.at_once = False
        """Whether a signal ends the program where it is, nothing being left to save."""
        self.log = self._written = -1
        self._before: dict[int, Any] = {}
        self._log_before = -1

    def __enter__(self) -> Interruption:
        self.log, self._written = os.pipe()
        for end in (self.log, self._written):
            os.set_blocking(end, False)
        # Python lets only the main thread handle signals; elsewhere (a notebook's worker) they stay as they are.
        if threading.current_thread() is threading.main_thread():
            self._log_before = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._log_before)
        for end in (self.log, self._written):
            os.close(end)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._written, HEARD)
        if self.asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        if self.at_once:
            raise stopped(number, "with everything saved; the same command does what is left")

    def wait_for(self, future: Future[Result], look: Callable[[], None] = lambda: None) -> Result:
        """Return the result of work that began before the first step; ``look`` is called again and again meanwhile.

        Raises:
            Interrupted: asked to stop meanwhile.
        """

        def check() -> None:
            look()
            if self.asked:
                raise stopped(self.asked, "before the first step; nothing is lost, and the same command starts again")

        return self.wait_while(future, check)

    def wait_while(self, future: Future[Result], look: Callable[[], None]) -> Result:
        """Return the result of work in another thread; ``look`` is called again and again until it is there."""
        while True:
            look()
            try:
                return future.result(timeout=_SECONDS_BETWEEN_LOOKS)
            except TimeoutError:
                continue


def exit_code(number: int) -> int:
    """Return the exit code of a program that the signal of this number ended."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED


def stopped(number: int, where: str) -> Interrupted:
    """Return the error that ends a program after the signal of this number."""
    return Interrupted(f"{signal.Signals(number).name}: stopped {where}", exit_code(number))

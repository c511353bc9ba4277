"""Signals that ask a run to stop: remembered, and answered by the training loop between two dispatches."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from shared.errors import EXIT_INTERRUPTED, Interrupted
from shared.signals import SIGNALS, are_answered, end_program, exit_code, kept_by, say_when_stopped

Result = TypeVar("Result")

_SECONDS_BETWEEN_LOOKS = 0.2


class Interruption:
    """A context for what a run does with signals.

    In a program they end it at once, but between :meth:`keep` and :meth:`release`, where they are remembered, and a
    second Ctrl-C ends it. In a notebook they are remembered throughout, and afterwards are as they were.
    """

    def __init__(self) -> None:
        self.asked = 0
        """Number of the signal that asked to stop; 0 for none."""
        self.unanswered = 0
        """Number of a signal that came while the main thread was in a library, and is there still."""
        self._at_once = False
        self._kept = contextlib.ExitStack()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        say_when_stopped("stopped before the first step; nothing is lost, and the same command goes on")
        # Python lets only the main thread handle signals; elsewhere (a notebook's worker) they stay as they are.
        if not are_answered() and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def keep(self) -> None:
        """Remember signals from now on: there are steps to save."""
        if are_answered():
            self._kept.enter_context(kept_by(self))

    def release(self, where: str) -> None:
        """Let signals end the program where it is from now on, nothing being left to save.

        Raises:
            Interrupted: one came before.
        """
        say_when_stopped(f"stopped {where}")
        self._at_once = True
        self._kept.close()
        if self.asked:
            raise stopped(self.asked, where)

    def ask(self, number: int) -> None:
        """Remember the signal of this number; a second Ctrl-C ends the program."""
        if self.asked == number == signal.SIGINT:
            end_program(
                "SIGINT, twice: ended without waiting for a checkpoint; the same command goes on from the latest one",
                EXIT_INTERRUPTED,
            )
        self.asked = number

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        if self._at_once:
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


def stopped(number: int, where: str) -> Interrupted:
    """Return the error that ends a program after the signal of this number."""
    return Interrupted(f"{signal.Signals(number).name}: stopped {where}", exit_code(number))

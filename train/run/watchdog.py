"""A watchdog that ends a run that hangs, with a message, all threads' stacks and an exit code."""

from __future__ import annotations

import signal
import threading
import time
from typing import NoReturn

import jax

from shared.errors import EXIT_STUCK
from shared.signals import end_program, exit_code
from train.run.interruption import Interruption
from train.run_folder import RunFolder
from train.step.compiled_steps import Steps
from train.step.dispatches import Dispatch

_TIMES_USUAL = 100
_SHORTEST_SECONDS = 60.0
"""A step hangs if it takes this many times its usual time, and at least this many seconds."""

_LONGEST_SECONDS = 1800.0
"""Limit in seconds for steps without a usual time yet, and while programs are compiled in the threads of the steps.
Where several processes wait for the first one, which evaluates alone: for steps, and for answers to signals."""

_SECONDS_TO_ANSWER = 15.0
_STEPS_TO_ANSWER = 10
"""Longest time to answer a signal in seconds, half of what a queue grants; that of this many usual dispatches if it is
longer."""

_SECONDS_BETWEEN_LOOKS = 1.0


class Watchdog:
    """A context in which a thread checks that steps end, and that signals are answered.

    A thread that waits for a step that hangs does so inside XLA, where neither a signal nor an exception reaches it:
    another thread can only end the process.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._watched: tuple[Steps, RunFolder] | None = None
        self._dispatch: Dispatch | None = None
        self._seconds = 0.0  # that this one has taken
        self._undisturbed = 0.0  # of them, without anything being compiled
        self._signal_seconds = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def watch(self, steps: Steps, folder: RunFolder) -> None:
        """Watch these steps, of the run in this folder."""
        self._watched = steps, folder

    def _look_again_and_again(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            # Not the clock's time: a process that was stopped, by Ctrl-Z or a queue, does not hang.
            seconds, last = min(now - last, 2.0 * _SECONDS_BETWEEN_LOOKS), now
            if self._watched:
                self._look_at_steps(*self._watched, seconds)
            self._look_at_signals(seconds)

    def _look_at_steps(self, steps: Steps, folder: RunFolder, seconds: float) -> None:
        dispatch = steps.dispatches.oldest()
        if dispatch is not self._dispatch:
            self._dispatch, self._seconds, self._undisturbed = dispatch, 0.0, 0.0
        elif dispatch is not None:
            self._seconds += seconds
            self._undisturbed += 0.0 if steps.compiling else seconds
            usual = self._usual_seconds(steps, dispatch)
            limit = max(_SHORTEST_SECONDS, _TIMES_USUAL * usual)
            if not usual or jax.process_count() > 1:
                limit = _LONGEST_SECONDS
            if self._undisturbed > limit or self._seconds > max(limit, _LONGEST_SECONDS):
                what = "a step" if dispatch.steps == 1 else f"{dispatch.steps} steps"
                than = f" (usually {usual:.2g} s)" if usual else ""
                self._end(
                    f"error: {folder.path}: {what} did not end in {self._seconds:.0f} s{than}: the devices wait for "
                    "each other, or for a process that is gone. Please report the stacks that follow.",
                    EXIT_STUCK,
                )

    def _look_at_signals(self, seconds: float) -> None:
        number = self._interruption.unanswered
        self._signal_seconds = self._signal_seconds + seconds if number else 0.0
        if not number:
            return
        usual = self._usual_seconds(self._watched[0], self._dispatch) if self._watched and self._dispatch else 0.0
        patience = max(_SECONDS_TO_ANSWER, _STEPS_TO_ANSWER * usual)
        if self._signal_seconds > (patience if jax.process_count() == 1 else _LONGEST_SECONDS):
            self._end(
                f"{signal.Signals(number).name}: ended without being answered: for {self._signal_seconds:.0f} s "
                "the main thread was inside XLA or another library.",
                exit_code(number),
            )

    def _usual_seconds(self, steps: Steps, dispatch: Dispatch) -> float:
        """Return the usual seconds of a dispatch, 0 if there are none yet."""
        return dispatch.steps * (steps.dispatches.usual_seconds(dispatch.program) or 0.0)

    def _how_to_go_on(self) -> str:
        # A checkpoint that is not complete has another name.
        folders = self._watched[1].checkpoints.glob("*") if self._watched else ()
        numbers = [int(folder.name) for folder in folders if folder.name.isdigit()]
        if not numbers:
            return "Nothing was saved yet: the same command starts again."
        return f"checkpoints/{max(numbers)} is the latest state: the same command goes on from there."

    def _end(self, text: str, code: int) -> NoReturn:
        end_program(f"{text} {self._how_to_go_on()}", code, stacks=code == EXIT_STUCK)

"""Signals that ask a program to stop, answered in every phase by a thread of its own.

A program calls :func:`answer_signals` before it imports anything large. From then on a signal ends it at once, whatever
the main thread does (importing, compiling, a library's loop): all files are written complete or not at all, so nothing
has to be unwound, and an exception that appears anywhere in a library would be swallowed, or be printed by one of its
threads. Who has something to save first takes the signals over for that time, see :func:`kept_by`.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, Protocol

from shared.errors import EXIT_INTERRUPTED, EXIT_STOPPED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals of Ctrl-C, of a queue before it kills, and of Slurm's --signal=USR1@60 earlier."""

unbroken = threading.RLock()
"""Lock that a thread holds for the moments in which the program must not end, such as a rename; never for long."""

_HEARD = 0
"""Byte in the pipe that is no signal's number: the main thread has run Python since the signals before it."""

_STDERR = 2
_SECONDS_UNBROKEN = 2.0


class Keeper(Protocol):
    """One that has something to save before the program ends."""

    unanswered: int
    """Number of a signal that came while the main thread has not run Python since; 0 for none."""

    def ask(self, number: int) -> None:
        """Remember that the signal of this number asked to stop; called by another thread, within a moment."""


class _State:
    """What the process does with signals."""

    pipe: tuple[int, int] | None = None  # as soon as they are answered
    keeper: Keeper | None = None
    what = "stopped; the same command does what is left"
    actions: tuple[Callable[[str], None], ...] = ()


def answer_signals() -> None:
    """Let signals end this program from now on, with one line and the exit code 130 (Ctrl-C) or 75."""
    if _State.pipe is not None or threading.current_thread() is not threading.main_thread():
        return
    _State.pipe = os.pipe()
    os.set_blocking(_State.pipe[1], False)
    signal.set_wakeup_fd(_State.pipe[1], warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _note)
    os.register_at_fork(after_in_child=_forget)
    atexit.register(_ignore)  # the first, so the last to be called
    threading.Thread(target=_listen, args=(_State.pipe[0],), name="signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def are_answered() -> bool:
    """Return whether this process is a program that answers signals."""
    return _State.pipe is not None


def hold_signals() -> None:
    """Hold signals back until :func:`answer_signals`, in the program too that replaces this one by an exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def say_when_stopped(what: str) -> None:
    """Set the words after the signal's name in the line that a program prints when a signal ends it."""
    _State.what = what


@contextlib.contextmanager
def kept_by(keeper: Keeper) -> Iterator[None]:
    """Give the signals that come in this context to ``keeper``, which ends the program when it has saved."""
    before, _State.keeper = _State.keeper, keeper
    try:
        yield
    finally:
        _State.keeper = before


@contextlib.contextmanager
def at_end(action: Callable[[str], None]) -> Iterator[None]:
    """Call ``action`` with the last line if the program is ended in this context, from another thread."""
    with unbroken:
        _State.actions = (*_State.actions, action)
    try:
        yield
    finally:
        with unbroken:
            _State.actions = tuple(one for one in _State.actions if one is not action)


def exit_code(number: int) -> int:
    """Return the exit code of a program that the signal of this number ended."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED


def end_program(line: str, code: int, stacks: bool = False) -> NoReturn:
    """Print a line, and the stacks of all threads if asked to, and end the process where it is; for any thread."""
    unbroken.acquire(timeout=_SECONDS_UNBROKEN)  # and never released: the others change no file any more
    try:
        for action in reversed(_State.actions):
            with contextlib.suppress(Exception):  # whatever fails, the program ends
                action(line)
        # Past Python's files, whose locks a thread that hangs may hold. Below a progress bar, on a terminal.
        start = "\n" if os.isatty(_STDERR) else ""
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        os.write(_STDERR, f"{start}{line}\n".encode(encoding, "backslashreplace"))
        if stacks:
            faulthandler.dump_traceback(_STDERR)
    finally:
        os._exit(code)


def _note(number: int, frame: FrameType | None) -> None:
    """Note in the pipe that the main thread runs Python."""
    if _State.pipe is not None:
        with contextlib.suppress(BlockingIOError):
            os.write(_State.pipe[1], bytes([_HEARD]))


def _listen(pipe: int) -> None:
    while True:
        for number in os.read(pipe, 1):
            keeper = _State.keeper
            if number == _HEARD:
                if keeper is not None:
                    keeper.unanswered = 0
            elif number in SIGNALS:
                if keeper is None:
                    end_program(f"{signal.Signals(number).name}: {_State.what}", exit_code(number))
                keeper.unanswered = number
                keeper.ask(number)


def _ignore() -> None:
    """Ignore signals: all is done, and Python is about to let them kill the process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _forget() -> None:
    """Let signals end a forked process as usual: the pipe is its parent's."""
    _State.pipe = None
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)

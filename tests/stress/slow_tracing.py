"""``python -m train``, but that tracing goes on for long once the first step is compiled, with many operations.

By its path, with PYTHONPATH naming the sources to train with: they may be those of another commit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import random
import signal
import threading
import time
from typing import Any

import jax

from train import __main__


def _module(*names: str) -> Any:
    """The first that there is: the sources may be older than the rooms."""
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise SystemExit(f"none of {names}")


compiled = _module("train.step.compiled_steps", "train.compiled")
epoch, loop = _module("train.run.epoch", "train.feed"), _module("train.run.loop", "train.loop")

BETALN = jax.scipy.special.betaln
COMPILE = compiled.Steps._compile
ELEMENTS = 64
"""As many as the default radial basis has: XLA runs shorter operations at once instead of queueing them."""

LONGEST_PAUSE_SECONDS = 0.02
BURST_SECONDS = 0.25
ALL_BURSTS_SECONDS = 20.0

first_step_is_compiled = threading.Event()
bursts: list[float] = []


def slow_betaln(a: Any, b: Any) -> Any:
    """What e3x's radial functions call, at once, while they are traced."""
    time.sleep(LONGEST_PAUSE_SECONDS * random.random())
    if first_step_is_compiled.is_set() and sum(bursts) < ALL_BURSTS_SECONDS:
        bursts.append(BURST_SECONDS)
        end = time.monotonic() + BURST_SECONDS
        with jax.ensure_compile_time_eval():
            v = jax.numpy.arange(ELEMENTS)
            while time.monotonic() < end:
                BETALN(ELEMENTS - v, 1 + v)
    return BETALN(a, b)


def compile_and_tell(self: Any, what: Any, *more: Any) -> Any:
    """A program; the first argument is its name, or a key that begins with its name."""
    made = COMPILE(self, what, *more)
    if (what if isinstance(what, str) else what[0]).startswith("train"):
        first_step_is_compiled.set()
    return made


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR2)  # where it hangs, if it does
    jax.scipy.special.betaln = slow_betaln
    compiled.Steps._compile = compile_and_tell
    # A dispatch for every step, for each to meet what is traced beside it.
    epoch._SECONDS_PER_DISPATCH = 0.0
    # The evaluation at the end would take longer than all else.
    loop._finish = lambda *_, **__: None
    __main__._run()

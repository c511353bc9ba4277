"""A run that hangs is ended, with what is needed to go on; one that takes its time is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train.run.interruption import Interruption
from train.run.watchdog import Watchdog
from train.run_folder import RunFolder
from train.step.dispatches import Dispatches

ROOT = Path(__file__).parents[2]


class Ended(Exception):
    """Instead of the process."""


class Output:
    """Of a program that has ended, or never will."""

    def __init__(self, ready: bool) -> None:
        self.is_ready = lambda: ready


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    def end(self: Watchdog, text: str, code: int) -> None:
        raise Ended(text, code)

    monkeypatch.setattr(Watchdog, "_end", end)
    return Watchdog(Interruption())


def steps_at(dispatches: Dispatches, compiling: bool = False) -> Any:
    return SimpleNamespace(dispatches=dispatches, compiling=compiling)


def stuck(steps: int = 1, usual: float | None = None) -> Dispatches:
    """At steps that do not end, and which usually take so many seconds each."""
    dispatches = Dispatches()
    if usual is not None:
        dispatches._seconds["a"] = [usual]  # type: ignore[assignment]
    with dispatches.one("a", steps) as dispatch:
        dispatch.output = Output(ready=False)
    return dispatches


def seconds_until_the_end(dog: Watchdog, steps: Any) -> tuple[float, str, int]:
    for second in range(100_000):
        try:
            dog._look_at_steps(steps, RunFolder(Path("runs/x")), 1.0)
        except Ended as ended:
            return second, *ended.args
    raise AssertionError("never")


@pytest.mark.parametrize(
    ("steps", "usual", "expected"), [(1, 0.1, 60), (50, 0.01, 60), (1, 2.0, 200), (5, 2.0, 1000), (1, None, 1800)]
)
def test_a_step_may_take_a_hundred_times_its_usual_time(
    dog: Watchdog, steps: int, usual: float | None, expected: int
) -> None:
    seconds, text, code = seconds_until_the_end(dog, steps_at(stuck(steps, usual)))
    assert seconds == expected + 1
    assert code == 70
    assert "runs/x" in text


def test_time_in_which_something_is_compiled_does_not_count(dog: Watchdog) -> None:
    steps = steps_at(stuck(usual=0.1), compiling=True)
    for _ in range(1000):
        dog._look_at_steps(steps, RunFolder(Path("x")), 1.0)
    steps.compiling = False
    assert seconds_until_the_end(dog, steps)[0] == 60
    # But not for ever: that what is compiled waits for the step would be a way to hang, too.
    assert seconds_until_the_end(dog, steps_at(stuck(usual=0.1), compiling=True))[0] == 1801


def test_steps_that_end_are_new_ones(dog: Watchdog) -> None:
    for _ in range(50):
        steps = steps_at(stuck(usual=0.1))
        for _ in range(50):
            dog._look_at_steps(steps, RunFolder(Path("x")), 1.0)
    for _ in range(100):
        dog._look_at_steps(steps_at(Dispatches()), RunFolder(Path("x")), 1.0)


def test_signals_that_the_main_thread_remembers_are_answered(dog: Watchdog) -> None:
    interruption = dog._interruption
    for unanswered, seconds in ((0, 100), (signal.SIGINT, 15), (0, 1), (signal.SIGTERM, 15)):
        interruption.unanswered = unanswered
        for _ in range(seconds):
            dog._look_at_signals(1.0)
    with pytest.raises(Ended) as ended:
        dog._look_at_signals(1.0)
    assert ended.value.args[1] == 75


PROGRAM = """
from shared.signals import answer_signals
answer_signals()
import ctypes, sys, time
from pathlib import Path
from types import SimpleNamespace
from train.run import watchdog
from train.step.dispatches import Dispatches
from train.run.interruption import Interruption
from train.run_folder import RunFolder
watchdog._SECONDS_BETWEEN_LOOKS = 0.05
watchdog._SHORTEST_SECONDS = watchdog._SECONDS_TO_ANSWER = 1.0

def inside_a_library():
    mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    print("begun", flush=True)
    libc.pthread_mutex_lock(mutex)

how, folder = sys.argv[1:]
dispatches = Dispatches()
with Interruption() as interruption, watchdog.Watchdog(interruption) as dog:
    interruption.keep()
    dog.watch(SimpleNamespace(dispatches=dispatches, compiling=False), RunFolder(Path(folder)))
    if how == "step":
        dispatches._seconds["a"] = [0.001]
        with dispatches.one("a", 1):
            inside_a_library()
    elif how == "library":
        inside_a_library()
    else:
        print("begun", flush=True)
        while not interruption.asked:
            time.sleep(0.01)
        time.sleep(3.0)
        print("answered", flush=True)
"""


def begin(how: str, folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, how, str(folder)], cwd=ROOT, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "begun\n"
    return process  # type: ignore[no-any-return]


def test_process_that_hangs_in_a_step_is_ended(tmp_path: Path) -> None:
    for name in ("9", "12", "15.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    process = begin("step", tmp_path)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 70
    line = next(line for line in printed.splitlines() if line)
    assert line.startswith(f"error: {tmp_path}: a step did not end in 1 s (usually 0.001 s)")
    assert line.endswith("checkpoints/12 is the latest state: the same command goes on from there.")
    assert "in inside_a_library" in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_signal_that_reaches_nobody_ends_the_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = begin("library", tmp_path)
    time.sleep(0.5)  # until the main thread is inside
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert printed.strip().startswith(f"{number.name}: ended without being answered")
    assert "Nothing was saved yet: the same command starts again." in printed


def test_signal_whose_answer_takes_long_is_waited_for(tmp_path: Path) -> None:
    process = begin("answer", tmp_path)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert (printed, process.returncode) == ("answered\n", 0)


def test_process_that_was_stopped_has_not_hung(tmp_path: Path) -> None:
    process = begin("answer", tmp_path)
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    time.sleep(2.0)
    process.send_signal(signal.SIGCONT)
    printed, _ = process.communicate(timeout=60)
    assert (printed, process.returncode) == ("answered\n", 0)

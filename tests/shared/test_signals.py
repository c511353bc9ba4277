"""A program is ended by a signal in every phase: at once, with one line, and never by an exception in a library."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
from shared.signals import answer_signals, at_end, hold_signals, kept_by, say_when_stopped
answer_signals()
import ctypes, os, sys, threading, time
from pathlib import Path
from shared.files import atomic_path

def begin():
    print("begun", flush=True)

def native():
    mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    begin()
    libc.pthread_mutex_lock(mutex)

def swallowing():
    begin()
    while True:
        try:
            time.sleep(1.0)
        except BaseException:
            pass

def writing():
    with atomic_path(Path(sys.argv[2])) as temporary:
        temporary.write_text("half")
        begin()
        time.sleep(60.0)

def replaced():
    # As preprocessing is by training: the signal comes while neither program hears.
    hold_signals()
    os.execv(sys.executable, [sys.executable, "-c", "print('begun', flush=True)\\nimport time; time.sleep(1.0)\\n"
        "from shared.signals import answer_signals; answer_signals(); time.sleep(60.0)"])

class Keeper:
    asked = unanswered = 0
    def ask(self, number):
        self.asked = number

def keeping():
    keeper = Keeper()
    with kept_by(keeper):
        begin()
        while not keeper.asked or keeper.unanswered:
            time.sleep(0.01)
    print("saved", flush=True)
    say_when_stopped("stopped, and saved")
    os.kill(os.getpid(), keeper.asked)
    time.sleep(60.0)

def forking():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), 15)
        time.sleep(60.0)
    assert os.waitpid(child, 0)[1] == 15
    begin()
    time.sleep(60.0)

globals()[sys.argv[1]]()
"""


def start(how: str, *more: str) -> subprocess.Popen[str]:
    # Newer Pythons warn of forks beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, how, *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("how", ["native", "swallowing", "replaced", "forking"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_wherever_the_main_thread_is(how: str, number: signal.Signals, code: int) -> None:
    process = start(how)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=10)
    assert (process.returncode, printed) == (code, f"{number.name}: stopped; the same command does what is left\n")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    process = start("writing", str(tmp_path / "file"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert list(tmp_path.iterdir()) == []


def test_one_that_saves_first_is_waited_for() -> None:
    process = start("keeping")
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate(timeout=10)
    assert (process.returncode, printed) == (75, "saved\nSIGUSR1: stopped, and saved\n")

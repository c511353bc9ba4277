"""Stopped anywhere by any signal, the same command ends with the same parameters, bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.errors import UserError
from tests import support
from tests.end_to_end.processes import PROGRAM, Run
from train.__main__ import main

EPOCHS = 60

HANGS = """
import ctypes
from train import __main__
from train.step import compiled_steps as compiled
from train.run import watchdog
watchdog._SHORTEST_SECONDS, watchdog._SECONDS_BETWEEN_LOOKS = 5.0, 0.1
compiles, calls = compiled.Steps._compile, []

def compile(self, name, traced):
    executable = compiles(self, name, traced)

    def call(*arguments):
        calls.append(name)
        if name.startswith("train") and len(calls) > 30:
            # As inside XLA: no signal, and no exception, reaches it.
            mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)
        return executable(*arguments)

    return call

compiled.Steps._compile = compile
__main__._run()
"""


TELLS_OF_THE_MODEL = """
import sys
from train import __main__
try:
    __main__._run()
finally:
    print("the model's library was", "loaded" if "e3x" in sys.modules else "left alone")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two buckets of 10 molecules in all: five batches."""
    folder = tmp_path_factory.mktemp("data")
    support.run_preprocess(support.write_splits(folder / "input", train=5, valid=3), folder / "cache", max_buckets=2)
    return folder / "cache"


def start(cache: Path, runs: Path, program: Sequence[str] = PROGRAM, checkpoint_minutes: float = 0.05 / 60) -> Run:
    """Begin or continue; saved again and again, within epochs too."""
    settings = {"batch_size": 2, "epochs": EPOCHS, "checkpoint_minutes": checkpoint_minutes, "schedule": "cosine"}
    return Run(cache, runs, "run", program=program, **settings)


@pytest.fixture(scope="module")
def uninterrupted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Saved at its end alone, which changes nothing."""
    run = start(cache, tmp_path_factory.mktemp("whole") / "runs", checkpoint_minutes=60.0)
    run.finish()
    return run


def assert_same(run: Run, expected: Run) -> None:
    assert run.metrics() == expected.metrics()
    weights, whole = (load_file(r.folder / "best" / "weights.safetensors") for r in (run, expected))
    for name in whole:
        np.testing.assert_array_equal(weights[name], whole[name], err_msg=name)


def test_killed_and_continued(uninterrupted: Run, cache: Path, tmp_path: Path) -> None:
    run = start(cache, tmp_path / "runs")
    run.wait_for_epochs(3)
    assert run.stop(signal.SIGKILL)[0] == -9
    run = start(cache, tmp_path / "runs")
    assert "continuing" in run.finish()
    assert_same(run, uninterrupted)


@pytest.mark.slow
def test_signals_and_kills_and_a_step_that_hangs(uninterrupted: Run, cache: Path, tmp_path: Path) -> None:
    """One run, stopped by each of them in turn, and by the watchdog when it hangs."""
    run = start(cache, tmp_path / "runs")
    run.wait_for_epochs(3)
    code, printed, seconds = run.stop(signal.SIGTERM)
    assert (code, "SIGTERM: stopped after" in printed) == (75, True), printed
    assert seconds < 10

    for number, expected in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = len(run.metrics())
        run = start(cache, tmp_path / "runs")
        run.wait_for_epochs(before + 5)
        code, printed, _ = run.stop(number)
        assert code == expected, printed
        assert "Traceback" not in printed
        assert "continuing" in printed

    run = start(cache, tmp_path / "runs", ["-c", HANGS])
    printed, _ = run.process.communicate(timeout=300)
    assert run.process.returncode == 70, printed
    assert "error: " in printed
    latest = max(int(folder.name) for folder in (run.folder / "checkpoints").iterdir() if folder.name.isdigit())
    assert f"checkpoints/{latest} is the latest state: the same command goes on from there." in printed
    assert "in train_resident" in printed
    assert len(run.metrics()) < EPOCHS

    run = start(cache, tmp_path / "runs")
    run.finish()
    assert_same(run, uninterrupted)


def test_stopped_before_the_first_step(cache: Path, tmp_path: Path) -> None:
    """While the step is being compiled, which nothing can interrupt: a model that was not compiled before."""
    run = Run(cache, tmp_path / "runs", "run", n_dcm=3, epochs=1000)
    while not (run.folder / "config.toml").exists():
        assert run.process.poll() is None
    code, printed, seconds = run.stop(signal.SIGUSR1)
    assert code == 75, printed
    assert "before the first step" in printed
    assert seconds < 10


def test_repeated_from_a_run(uninterrupted: Run, tmp_path: Path) -> None:
    """--from-run: the same settings and data under another name give the same bytes.

    By the programs that were kept: the model's library, which takes seconds to import and to trace, is not asked for.
    """
    flags = "--from-run", str(uninterrupted.folder), "--runs-dir", str(tmp_path)
    again = Run.of(*flags, program=["-c", TELLS_OF_THE_MODEL])
    printed = again.finish()
    assert "the model's library was left alone" in printed
    assert "note" not in printed
    again.folder = tmp_path / "run-again"
    assert_same(again, uninterrupted)
    record = json.loads((again.folder / "run.json").read_text())
    assert record["data"] == json.loads((uninterrupted.folder / "run.json").read_text())["data"]
    assert set(record["git"]) in (set(), {"commit", "modified"})
    assert record["versions"]["jax"] == jax.__version__

    with pytest.raises(UserError, match="leave out --config"):
        main(["--from-run", str(uninterrupted.folder), "--config", "other.toml"])
    with pytest.raises(UserError, match="not a run"):
        main(["--from-run", str(tmp_path / "nothing")])

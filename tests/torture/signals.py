"""Signals at random moments of every program: answered in seconds, and the same command goes on bit for bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from tests.torture.world import Case, Outcome, World, drawn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL)
PROGRAMS = ("preprocess", "train", "evaluate", "report")
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
ANSWER_SECONDS = 30.0
"""What Slurm grants between SIGTERM and SIGKILL."""

_FIRST_LINE_SECONDS = 0.15
"""Until Python runs a program's first line, a signal ends it without a word."""


def cases(world: World, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Each sends signals, one after the other, at random moments of one program after the other."""
    usual = {name: _quiet(world, name).seconds for name in PROGRAMS}
    for number, (name, sent) in enumerate(drawn(rng, [(p, s) for p in PROGRAMS for s in SIGNALS], count)):
        seed = int(rng.integers(2**32))
        yield Case(
            f"{sent.name} to {name} (seed {seed})", partial(_signalled, world, name, sent, usual[name], seed, number)
        )


def _quiet(world: World, program: str) -> Outcome:
    ended = _start(world, program, "measured")
    assert ended.code == 0, ended.out + ended.err
    _clear(world, "measured")
    return ended


def _start(world: World, program: str, name: str, **how: object) -> Outcome:
    """One program from its beginning; for evaluate and report, of a finished run."""
    if program == "preprocess":
        return world.preprocess(cache=world.folder / f"cache-{name}", **how)
    if program == "train":
        return world.train(name, **how)
    if not (world.runs / name).exists():
        world.copy_run(name)
    words = ["-m", f"train.{program}", "--run", str(world.runs / name), "--split", "valid"]
    more = ["--no-plot-results", "--limits", "off"] if program == "evaluate" else []
    if program == "report":
        predictions = world.runs / name / "predictions-valid.h5"
        if not predictions.exists():
            made = _start(world, "evaluate", name)
            assert made.code == 0, made.out + made.err
    return world.run([*words, *more], **how)


def _clear(world: World, name: str) -> None:
    for folder in (world.runs / name, world.folder / f"cache-{name}"):
        shutil.rmtree(folder, ignore_errors=True)


def _signalled(world: World, program: str, sent: signal.Signals, usual: float, seed: int, number: int) -> str:
    rng = np.random.default_rng(seed)
    name = f"signalled-{number}"
    told = ""
    for _ in range(2):
        moment, answered = float(rng.uniform(_FIRST_LINE_SECONDS, usual)), [0.0]

        def disturb(process: subprocess.Popen[bytes], moment: float = moment, answered: list[float] = answered) -> None:
            time.sleep(moment)
            if process.poll() is None:
                process.send_signal(sent)
                answered[0] = time.monotonic()

        ended = _start(world, program, name, disturb=disturb)
        after = time.monotonic() - answered[0] if answered[0] else 0.0
        told += f"after {moment:.2f} s: exit code {ended.code} {after:.1f} s later\n{ended.out}{ended.err}\n"
        if sent is signal.SIGKILL and ended.code == -signal.SIGKILL:
            continue
        if fault := ended.fault:
            return f"{fault}\n{told}"
        if ended.code not in (0, CODES[sent]):
            return f"exit code {ended.code}\n{told}"
        if ended.code and after > ANSWER_SECONDS:
            return f"answered after {after:.0f} s\n{told}"
    ended = _start(world, program, name)
    told += f"then: exit code {ended.code}\n{ended.out}{ended.err}"
    fault = ended.fault or ("" if ended.code == 0 else f"the same command then ends with {ended.code}")
    if not fault and program != "preprocess":
        fault = world.differs(name)
    if not fault and program == "preprocess":
        cache = world.folder / f"cache-{name}"
        same = all(
            (cache / path.relative_to(world.cache)).read_bytes() == path.read_bytes()
            for path in world.cache.glob("*-*/*")
            if path.is_file()
        )
        fault = "" if same else "other shards than undisturbed"
    _clear(world, name)
    return f"{fault}\n{told}" if fault else ""

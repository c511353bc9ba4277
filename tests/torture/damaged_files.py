"""Bits flipped, files cut, emptied, zeroed or removed: in a run's folder and in the preprocessed data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.torture.world import Case, World, damage, drawn, files_below


def cases(world: World, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Each damages one file, then goes on training (all is done: nothing may change), or evaluates."""
    run = [path.relative_to(world.runs / "quiet") for path in files_below(world.runs / "quiet")]
    kept = [path for path in run if path.name not in (".lock", "train.log")]
    data = [path.relative_to(world.cache) for path in files_below(world.cache) if not path.name.startswith(".")]
    for number, (where, path) in enumerate(
        drawn(rng, [("run", path) for path in kept] + [("data", path) for path in data], count)
    ):
        seed = int(rng.integers(2**32))
        act = partial(_in_run if where == "run" else _in_data, world, path, seed, number)
        yield Case(f"{where}/{path} (seed {seed})", act)


def _in_run(world: World, path: Path, seed: int, number: int) -> str:
    rng = np.random.default_rng(seed)
    name = f"damaged-{number}"
    folder = world.copy_run(name)
    what = damage(folder / path, rng)
    evaluate = bool(rng.integers(2))
    if evaluate:
        flags = ["--run", str(folder), "--split", "valid", "--no-plot-results", "--limits", "off"]
        ended = world.run(["-m", "train.evaluate", *flags])
    else:
        ended = world.train(name)
    fault = ended.fault
    if not fault and ended.code == 0:
        fault = _other_numbers(world, name)
    shutil.rmtree(folder)
    doing = "evaluated" if evaluate else "gone on"
    return f"{what}, {doing}: {fault}\n{ended.out}{ended.err}" if fault else ""


def _other_numbers(world: World, name: str) -> str:
    """What a program that reported success left: the numbers that it has are those of the undisturbed run."""
    try:
        found = world.results(name)
    except (OSError, ValueError, KeyError):
        return ""  # a file that this program does not need is still damaged
    wrong = [key for key in ("weights", "errors") if found[key] != world.reference[key]]
    return f"exit code 0 with other {' and '.join(wrong)}" if wrong else ""


def _in_data(world: World, path: Path, seed: int, number: int) -> str:
    rng = np.random.default_rng(seed)
    cache, name = world.folder / f"cache-{number}", f"of-damaged-{number}"
    shutil.copytree(world.cache, cache)
    what = damage(cache / path, rng)
    trained = world.train(name, cache=cache)
    fault = trained.fault
    if not fault and trained.code == 0:
        fault = world.differs(name)
    ended = trained
    if not fault and trained.code != 0:
        # What the line says: preprocess again.
        ended = world.preprocess(cache=cache)
        fault = ended.fault or (f"preprocess ends with {ended.code}" if ended.code else "")
        if not fault:
            ended = world.train(name, cache=cache)
            fault = ended.fault or (f"then train ends with {ended.code}" if ended.code else world.differs(name))
    shutil.rmtree(cache)
    shutil.rmtree(world.runs / name, ignore_errors=True)
    return f"{what}: {fault}\n{trained.out}{trained.err}\n--\n{ended.out}{ended.err}" if fault else ""

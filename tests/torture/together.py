"""Programs at the same time: one name twice, other data in one cache, cleaning and evaluating meanwhile."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from tests import support
from tests.torture.world import Case, Outcome, World, drawn


def cases(world: World, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Pairs of programs, the second a random time after the first."""
    kinds = {
        "one name": _one_name,
        "two files, one cache": _two_data,
        "preprocess twice": _preprocess_twice,
        "clean-cache beside a training": _cleaning,
        "evaluate beside a training": _evaluating,
    }
    for number, kind in enumerate(drawn(rng, list(kinds), count)):
        delay = float(rng.uniform(0.0, 5.0))
        yield Case(f"{kind}, {delay:.2f} s apart", partial(kinds[kind], world, delay, number))


def _both(first: Callable[[], Outcome], second: Callable[[], Outcome], delay: float) -> tuple[Outcome, Outcome]:
    def later() -> Outcome:
        time.sleep(delay)
        return second()

    with ThreadPoolExecutor(2) as pool:
        futures = pool.submit(first), pool.submit(later)
        return futures[0].result(), futures[1].result()


def _told(*ended: Outcome) -> str:
    return "".join(f"\nexit code {one.code}\n{one.out}{one.err}" for one in ended)


def _one_name(world: World, delay: float, number: int) -> str:
    """One of them trains; the other is refused, or finds it finished."""
    name = f"both-{number}"
    ended = _both(lambda: world.train(name), lambda: world.train(name), delay)
    fault = ended[0].fault or ended[1].fault
    fault = fault or ("" if 0 in (ended[0].code, ended[1].code) else "none of them trained")
    fault = fault or world.differs(name)
    shutil.rmtree(world.runs / name, ignore_errors=True)
    return f"{fault}{_told(*ended)}" if fault else ""


def _two_data(world: World, delay: float, number: int) -> str:
    """Each trains on its own files."""
    cache = world.folder / f"shared-{number}"
    other = World(world.folder, support.write_splits(world.folder / f"input-{number}", train=6, valid=4))

    def both(of: World, name: str) -> Outcome:
        return of.preprocess("--then-train", *of.training(name, cache=cache)[2:], cache=cache)

    ended = _both(lambda: both(world, f"first-{number}"), lambda: both(other, f"second-{number}"), delay)
    fault = ended[0].fault or ended[1].fault or ("" if ended[0].code == ended[1].code == 0 else "one did not train")
    fault = fault or world.differs(f"first-{number}")
    if not fault:
        alone = both(World(world.folder, other.files), f"alone-{number}")
        fault = alone.fault
        found = other.results(f"second-{number}")
        fault = fault or ("" if found == other.results(f"alone-{number}") else "the second trained on other data")
    for name in ("first", "second", "alone"):
        shutil.rmtree(world.runs / f"{name}-{number}", ignore_errors=True)
    shutil.rmtree(cache)
    return f"{fault}{_told(*ended)}" if fault else ""


def _preprocess_twice(world: World, delay: float, number: int) -> str:
    cache = world.folder / f"twice-{number}"
    ended = _both(lambda: world.preprocess(cache=cache), lambda: world.preprocess(cache=cache), delay / 3)
    fault = ended[0].fault or ended[1].fault or ("" if ended[0].code == ended[1].code == 0 else "one failed")
    same = all(
        (cache / path.relative_to(world.cache)).read_bytes() == path.read_bytes()
        for path in world.cache.glob("*-*/*")
        if path.is_file()
    )
    shutil.rmtree(cache)
    fault = fault or ("" if same else "other shards than undisturbed")
    return f"{fault}{_told(*ended)}" if fault else ""


def _cleaning(world: World, delay: float, number: int) -> str:
    """What the training reads stays; it was recorded by the run before anything was read."""
    cache, name = world.folder / f"cleaned-{number}", f"beside-cleaning-{number}"
    shutil.copytree(world.cache, cache)
    words = ["-m", "preprocess.clean_cache", "--cache-dir", str(cache), "--runs-dir", str(world.runs)]
    ended = _both(lambda: world.train(name, cache=cache), lambda: world.run(words), delay)
    fault = ended[0].fault or ended[1].fault or (f"exit code {ended[0].code}" if ended[0].code else "")
    fault = fault or world.differs(name)
    shutil.rmtree(cache)
    shutil.rmtree(world.runs / name, ignore_errors=True)
    return f"{fault}{_told(*ended)}" if fault else ""


def _evaluating(world: World, delay: float, number: int) -> str:
    """The evaluation has results of some epoch, or says that there are none yet; the training is undisturbed."""
    name = f"evaluated-{number}"
    words = ["-m", "train.evaluate", "--run", str(world.runs / name), "--split", "test", "--limits", "off"]
    ended = _both(lambda: world.train(name), lambda: world.run(words), delay)
    fault = ended[0].fault or ended[1].fault or (f"exit code {ended[0].code}" if ended[0].code else "")
    fault = fault or world.differs(name)
    shutil.rmtree(world.runs / name, ignore_errors=True)
    return f"{fault}{_told(*ended)}" if fault else ""

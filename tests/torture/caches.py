"""Damaged, unwritable, foreign caches of programs, and JAX's switches: the same weights bit for bit, or one line."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tests.torture.world import Case, Outcome, World, damage, drawn, files_below

SWITCHES: tuple[dict[str, str | None], ...] = (
    {"JAX_ENABLE_X64": "1"},
    {"JAX_ENABLE_X64": "maybe"},
    {"JAX_THREEFRY_PARTITIONABLE": "0"},
    {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    {"JAX_NUMPY_DTYPE_PROMOTION": "strict"},
    {"JAX_NUMPY_RANK_PROMOTION": "raise"},
    {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
    {"JAX_DEBUG_NANS": "1"},
    {"JAX_DEBUG_INFS": "1"},
    {"JAX_ENABLE_CHECKS": "1"},
    {"JAX_DISABLE_JIT": "1"},
    {"JAX_LOG_COMPILES": "1"},
    {"JAX_TRANSFER_GUARD": "disallow"},
    {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    {"JAX_COMPILATION_CACHE_MAX_SIZE": "100000"},
    {"JAX_PLATFORMS": "nonsense"},
    {"JAX_PLATFORMS": None},
    {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    {"HOME": None},
    {"HOME": "/nonexistent", "XDG_CACHE_HOME": None},
    {"XDG_CACHE_HOME": "relative"},
    {"XDG_CACHE_HOME": "/proc/nowhere"},
    {"NUMBA_CACHE_DIR": "/proc/nowhere"},
    {"JAX_COMPILATION_CACHE_DIR": "/proc/nowhere"},
    {"MPLCONFIGDIR": "/proc/nowhere"},
    {"NUMBA_DISABLE_JIT": "1"},
    {"PYTHONDONTWRITEBYTECODE": "1"},
)
MAY_DIFFER = ("XLA_FLAGS",)
"""Another number of devices adds in another order."""


def cases(world: World, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """In turn a switch, with a plain training after it, until none is left, and damage to a file of the caches."""
    switches = rng.permutation(len(SWITCHES)).tolist()[: (count + 1) // 2]
    xdg = world.folder / "xdg"
    kept = [path.relative_to(xdg) for path in files_below(xdg)]
    damages = enumerate(drawn(rng, kept, count - len(switches)))
    for number in switches:
        yield _switch_case(world, number)
        for i, path in itertools.islice(damages, 1):
            yield _damage_case(world, rng, i, path)
    for i, path in damages:
        yield _damage_case(world, rng, i, path)


def _switch_case(world: World, number: int) -> Case:
    switch = SWITCHES[number]
    shown = " ".join(f"{name}={value}" if value is not None else f"no {name}" for name, value in switch.items())
    return Case(shown, partial(_switched, world, switch, number))


def _damage_case(world: World, rng: np.random.Generator, number: int, path: Path) -> Case:
    seed = int(rng.integers(2**32))
    return Case(f"{path} (seed {seed})", partial(_damaged, world, path, seed, number))


def _switched(world: World, switch: dict[str, str | None], number: int) -> str:
    xdg = world.folder / f"xdg-{number}"
    shutil.copytree(world.folder / "xdg", xdg)
    told = ""
    for name, changes in ((f"switched-{number}", switch), (f"plain-{number}", {})):
        ended = world.train(name, environment=world.environment(**{"XDG_CACHE_HOME": str(xdg), **changes}))
        told += f"{name}: exit code {ended.code}\n{ended.out}{ended.err}\n"
        if "JAX_LOG_COMPILES" in changes:
            others = [line for line in ended.err.splitlines() if not line.startswith("WARNING:jax")]
            ended = replace(ended, err="\n".join(others))  # those were asked for
        fault = _fault(world, ended, name, may_differ=bool(set(changes) & set(MAY_DIFFER)), may_refuse=bool(changes))
        if fault:
            return f"{name}: {fault}\n{told}"
        shutil.rmtree(world.runs / name, ignore_errors=True)
    shutil.rmtree(xdg)
    return ""


def _damaged(world: World, path: Path, seed: int, number: int) -> str:
    rng = np.random.default_rng(seed)
    xdg = world.folder / f"xdg-damaged-{number}"
    shutil.copytree(world.folder / "xdg", xdg)
    what, told = damage(xdg / path, rng), ""
    quiet = []
    for i in range(2):
        name = f"beside-damage-{number}-{i}"
        ended = world.train(name, environment=world.environment(XDG_CACHE_HOME=str(xdg)))
        told += f"{name}: exit code {ended.code}\n{ended.out}{ended.err}\n"
        if fault := _fault(world, ended, name):
            return f"{what}: {fault}\n{told}"
        quiet.append(not ended.err.strip())
        shutil.rmtree(world.runs / name, ignore_errors=True)
    shutil.rmtree(xdg)
    return "" if quiet[1] else f"{what}: not healed\n{told}"


def _fault(world: World, ended: Outcome, name: str, may_differ: bool = False, may_refuse: bool = False) -> str:
    if fault := ended.fault:
        return fault
    if ended.code:
        return "" if may_refuse and ended.code == 2 else f"exit code {ended.code}"
    if len(ended.err.strip().splitlines()) > 1:
        return "more than one line"
    return "" if may_differ else world.differs(name)

"""Torture the real programs, and see that every case ends as an undisturbed run, or as one true line.

python -m tests.torture                                  # every kind, 40 cases of each
python -m tests.torture --kinds signals --cases 200 --seed 7
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shared.settings import parse_flags
from tests.torture import caches, damaged_files, signals, surroundings, together
from tests.torture.world import Case, World

Cases = Callable[[World, np.random.Generator, int], Iterator[Case]]
KINDS: Mapping[str, Cases] = MappingProxyType(
    {
        "caches": caches.cases,
        "damaged_files": damaged_files.cases,
        "signals": signals.cases,
        "surroundings": surroundings.cases,
        "together": together.cases,
    }
)


@dataclass(frozen=True)
class TortureConfig:
    """What is tortured, and how often."""

    kinds: tuple[str, ...] = tuple(KINDS)
    """Which kinds."""

    cases: int = 40
    """Cases of each kind."""

    seed: int = 0
    """Seed of all that is drawn."""


def torture(kind: str, world: World, count: int, seed: int) -> tuple[int, list[str]]:
    """Return the number of cases, and the faults found; prints each case as it ends."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    number, faults = 0, []
    for case in KINDS[kind](world, rng, count):
        start = time.monotonic()
        fault = case.act()
        number += 1
        first = fault.splitlines()[0] if fault else "ok"
        print(f"{kind} {number:>3}  {time.monotonic() - start:5.1f} s  {case.name}: {first}", flush=True)
        if fault:
            faults.append(f"{kind}, {case.name}: {fault}")
    return number, faults


def main() -> None:
    """Torture, and print the counts."""
    config = parse_flags(TortureConfig, "python -m tests.torture")
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        Path(folder).chmod(0o755)
        world = World.build(Path(folder) / "world")
        counts = {kind: torture(kind, world, config.cases, config.seed) for kind in config.kinds}
    for _, faults in counts.values():
        for fault in faults:
            print(f"\nFAULT {fault}")
    for kind, (number, faults) in counts.items():
        print(f"{kind}: {number} cases, {len(faults)} faults (seed {config.seed})")
    sys.exit(any(faults for _, faults in counts.values()))


if __name__ == "__main__":
    main()

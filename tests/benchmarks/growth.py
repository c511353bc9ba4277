"""How the cost of a sample grows: with the size of the set (streamed from shards), with atoms, with grid points.

The sets are shuffled whole, so that every batch gathers rows from all over the shards. They were just written, and so
are mostly in the page cache: the disk is not what is measured. Rounds alternate; medians, warmed up and blocked on.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro

from tests.benchmarks.padding_cost import dense_batch, timed_step
from tests.benchmarks.preprocess_rate import RateConfig, make_pair
from tests.benchmarks.throughput import Arm
from train.config import TrainConfig
from train.step.devices import start_devices


@dataclass(frozen=True)
class GrowthConfig:
    """Sizes to measure at."""

    samples: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Molecules in the set, of 3 atoms and 16 grid points each."""

    atoms: tuple[int, ...] = (3, 6, 12, 24, 60)
    """Atoms, all within the cutoffs of each other, at 500 grid points."""

    grid: tuple[int, ...] = (100, 1_000, 10_000)
    """Grid points, of molecules of 6 atoms."""

    batch_size: int = 8
    """For atoms and grid points (32 for the sets)."""

    rounds: int = 3
    """Rounds that each size takes, in turn."""


def prepare_set(folder: Path, samples: int) -> Path:
    """Preprocess random molecules; returns the cache."""
    folder.mkdir()
    config = RateConfig(atoms=3, grid=16)
    flags: list[str] = []
    for split, rows in (("train", samples), ("valid", 100)):
        make_pair(folder, split, rows, config)
        for kind in ("efd", "esp"):
            flags += [f"--{split}-{kind}", str(folder / f"{split}-{kind}.npz")]
    command = [sys.executable, "-m", "preprocess", *flags, "--cache-dir", str(folder / "cache"), "--checks", "off"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "cache"


def cost_of_sets(config: GrowthConfig, root: Path) -> list[float]:
    """Seconds for each molecule of a streamed epoch."""
    arms = []
    for samples in config.samples:
        settings = {"cache_dir": str(prepare_set(root / str(samples), samples)), "data_placement": "stream"}
        arms.append(Arm(f"{samples:,}", "ours", settings, molecules=3_000))
    for arm in arms:
        arm.run(keep=False)
    for _ in range(config.rounds):
        for arm in arms:
            arm.run()
    for arm in arms:
        wait, peak = arm.median("input_wait"), arm.median("peak_mib")
        seconds = arm.median("seconds", per="molecules")
        print(f"samples {arm.label:>10}{seconds * 1e3:>10.3f} ms/molecule  input wait {wait:.1%}  peak {peak:,.0f} MiB")
        arm.close()
    return [arm.median("seconds", per="molecules") for arm in arms]


def cost_of_shapes(config: GrowthConfig, shapes: Sequence[tuple[int, int]]) -> list[float]:
    """Seconds for each molecule of a training step at (atoms, grid points)."""
    settings = replace(TrainConfig(), batch_size=config.batch_size)
    runs: list[Callable[[], float]] = [timed_step(settings, dense_batch(*shape, config.batch_size)) for shape in shapes]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(config.rounds):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(statistics.median(run() for _ in range(3)))
    costs = [statistics.median(seconds) / config.batch_size for seconds in times]
    for (atoms, grid), cost in zip(shapes, costs, strict=True):
        print(f"atoms {atoms:>3}  grid points {grid:>6,}{cost * 1e3:>10.3f} ms/molecule")
    return costs


def exponents(sizes: Sequence[int], costs: Sequence[float]) -> str:
    """Slopes of log(cost) over log(size): over the whole range, and between the last two."""
    logs = np.log(sizes), np.log(costs)
    last = np.diff(logs[1])[-1] / np.diff(logs[0])[-1]
    return f"exponent {np.polyfit(*logs, 1)[0]:.2f}, between the last two {last:.2f}"


def main() -> None:
    """Measure and print."""
    config = tyro.cli(GrowthConfig, description=__doc__)
    start_devices(replace(TrainConfig(), batch_size=16))
    with tempfile.TemporaryDirectory() as folder:
        costs = cost_of_sets(config, Path(folder))
    print(f"  {max(costs) / min(costs) - 1:.0%} between the cheapest and the dearest")
    costs = cost_of_shapes(config, [(atoms, 500) for atoms in config.atoms])
    print(f"  {exponents(config.atoms, costs)} (edges: 2)")
    costs = cost_of_shapes(config, [(6, grid) for grid in config.grid])
    print(f"  {exponents(config.grid, costs)} (algorithm: 1)")
    print(f"{len(jax.devices())} device(s) of {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    main()

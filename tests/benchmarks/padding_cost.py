"""What a padded atom, edge and grid point cost in a training step: the weights of :mod:`preprocess.stages.buckets`.

A grid of bucket shapes is timed in turn (dense molecules: every pair of atoms is an edge) and the cost
``atoms * (grid + ATOM_COST + EDGE_COST * (atoms - 1))`` is fitted to the medians by non-negative least squares.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np
import scipy.optimize
import tyro

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.neighbor_list import build_edges
from train.config import TrainConfig
from train.data.batch import Batch, empty_batch
from train.step.compiled_steps import Steps
from train.step.devices import all_devices, start_devices
from train.step.metrics import zero_sums


@dataclass(frozen=True)
class CostConfig:
    """Time training steps of several shapes and fit their cost."""

    atoms: tuple[int, ...] = (3, 6, 9)
    grid: tuple[int, ...] = (256, 640)
    batch_size: int = 32
    rounds: int = 7


def dense_batch(atoms: int, grid: int, batch_size: int) -> Batch:
    """Molecules of ``atoms`` atoms in which every pair is an edge, without padding."""
    rng = np.random.default_rng(0)
    pairs = atoms * (atoms - 1)
    shape = BucketShape(FrameShape(atoms, grid), EdgeShape(pairs, pairs))
    line = np.arange(atoms)[None, :, None] * np.array([0.6, 0.1, 0.0])
    positions = line + 0.05 * rng.normal(size=(batch_size, atoms, 3))
    edges = build_edges(positions, np.full(batch_size, atoms), 100.0)._asdict()
    return empty_batch(shape, batch_size)._replace(
        molecule_mask=np.ones(batch_size, bool),
        atomic_numbers=rng.choice([1, 6, 8], size=(batch_size, atoms)).astype(np.int32),
        positions=positions.astype(np.float32),
        grid=rng.normal(scale=6.0, size=(batch_size, grid, 3)).astype(np.float32),
        esp_mask=np.ones((batch_size, grid), bool),
        **{f"{network}_{name}": values for network in ("physnet", "dcmnet") for name, values in edges.items()},
    )


def timed_step(config: TrainConfig, batch: Batch) -> Callable[[], float]:
    """A compiled step on one batch; calling it gives its seconds."""
    devices = all_devices()
    steps = Steps(config, 1000, devices)
    state = steps.create_state(seed=0)
    placed = devices.place_batch(batch, config.batch_size)

    def run() -> float:
        nonlocal state
        sums = devices.place(zero_sums())
        start = time.perf_counter()
        state, sums, loss = steps.train(state, sums, placed)
        loss.block_until_ready()
        return time.perf_counter() - start

    run()
    return run


def main() -> None:
    """Time every shape in turn and print the fitted costs."""
    bench = tyro.cli(CostConfig, description=__doc__)
    config = replace(TrainConfig(), batch_size=bench.batch_size)
    start_devices(config)
    shapes = list(itertools.product(bench.atoms, bench.grid))
    runs = {shape: timed_step(config, dense_batch(*shape, bench.batch_size)) for shape in shapes}
    times: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for _ in range(bench.rounds):
        for shape, run in runs.items():
            times[shape].append(run())
    measured = np.array([statistics.median(times[shape]) / bench.batch_size for shape in shapes])
    a, g = np.array(shapes, dtype=float).T
    terms = np.stack([a * g, a, a * (a - 1)], axis=1)
    # Relative residuals: the small shapes count as much as the large ones.
    cost, residual = scipy.optimize.nnls(terms / measured[:, None], np.ones(len(measured)))
    print(f"{jax.local_devices()[0].device_kind}, batch size {bench.batch_size}")
    for shape, seconds, fitted in zip(shapes, measured, terms @ cost, strict=True):
        print(f"atoms {shape[0]:>3}  grid {shape[1]:>5}  {seconds * 1e3:8.3f} ms/molecule  fit {fitted * 1e3:8.3f}")
    print(f"one (grid point, atom) pair {cost[0] * 1e9:.2f} ns; in units of it:")
    print(f"ATOM_COST {cost[1] / cost[0]:.0f}   EDGE_COST {cost[2] / cost[0]:.0f}   relative residual {residual:.3f}")


if __name__ == "__main__":
    main()

"""``make bench``: a training step at several batch sizes against batch size 1 with Python edge loops.

The reference arm is the honest rendering of the script in common use, with the same model and the same compiled
step: edge lists in nested Python loops for every batch, batch size 1, every loss fetched as soon as it is asked for.
(It is favoured in one point: its grids are padded too, because unpadded ones would compile again for each size.)
The arms take turns, since a machine's speed drifts; medians are compared. Warmed up and blocked on.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro

from shared.batch import Batch
from shared.cache import open_cache
from train.config import TrainConfig
from train.joint import build_model
from train.loader import BatchPlan, Loader
from train.loop import split_loader
from train.losses import loss_weights
from train.metrics import named_metrics, zero_sums
from train.state import build_optimizer, create_state, state_sharding
from train.step import build_steps


@dataclass(frozen=True)
class BenchConfig:
    """Compare batch sizes with the reference arm on one bucket of a preprocessed cache."""

    cache_dir: str = "data_cache"
    """Preprocessed shards (the bucket with the most training molecules is used)."""

    batch_sizes: tuple[int, ...] = (1, 8, 32, 128)
    """Batch sizes of ours."""

    molecules: int = 256
    """Molecules in a round of ours."""

    reference_molecules: int = 64
    """Molecules in a round of the reference arm."""

    rounds: int = 5
    """Rounds that each arm takes, in turn."""

    output: str = ""
    """JSON file for the figures (none if empty)."""


def python_edges(positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Edge list of one molecule in nested Python loops."""
    dst, src = [], []
    for i in range(len(positions)):
        for j in range(len(positions)):
            if i != j and math.dist(positions[i], positions[j]) < cutoff:
                dst.append(i)
                src.append(j)
    return np.asarray(dst, np.int32), np.asarray(src, np.int32)


def reference_batches(loader: Loader, plans: list[BatchPlan], config: TrainConfig) -> Iterator[Batch]:
    """Batches of one molecule whose edges are built in Python, every time."""
    for plan in plans:
        batch = loader.read(plan)
        real = batch.positions[0][batch.atomic_numbers[0] > 0]
        edges = {}
        for network, cutoff in (("physnet", config.physnet_cutoff), ("dcmnet", config.dcmnet_cutoff)):
            dst, src = python_edges(real.tolist(), cutoff)  # type: ignore[arg-type]
            for name, values in ((f"{network}_dst", dst), (f"{network}_src", src)):
                padded = getattr(batch, name).copy()
                padded[0, : len(values)] = values
                edges[name] = padded
            edges[f"{network}_n_edges"] = np.asarray([len(dst)], np.int32)
        yield batch._replace(**edges)


class Arm:
    """One way of training: its own state and compiled step, timed a round at a time."""

    def __init__(self, bench: BenchConfig, batch_size: int, reference: bool) -> None:
        self.config = replace(TrainConfig(), batch_size=batch_size, cache_dir=bench.cache_dir)
        cache = open_cache(Path(bench.cache_dir), self.config.physnet_cutoff, self.config.dcmnet_cutoff)
        self.loader = split_loader(cache, "train", self.config)
        largest = max(self.loader.buckets, key=len)
        self.loader.buckets = [largest]
        count = bench.reference_molecules if reference else bench.molecules
        rows = np.resize(np.arange(len(largest)), max(count, batch_size))
        full = len(rows) - len(rows) % batch_size
        self.plans = [BatchPlan(0, rows[i : i + batch_size]) for i in range(0, full, batch_size)]
        self.molecules = full
        self.reference = reference
        model = build_model(self.config)
        optimizer = build_optimizer(self.config, len(self.plans))
        steps = build_steps(model, loss_weights(self.config), optimizer, self.config.ema_decay)
        self.state = create_state(model, optimizer, self.loader.read(self.plans[0]), seed=0)
        start = time.perf_counter()
        self.step = steps.train
        self.round(self.plans[:1])
        self.compile_seconds = time.perf_counter() - start

    def round(self, plans: list[BatchPlan] | None = None) -> float:
        """Seconds per molecule over one round."""
        plans = self.plans if plans is None else plans
        sums = jax.device_put(zero_sums(), state_sharding())
        start = time.perf_counter()
        if self.reference:
            for batch in reference_batches(self.loader, plans, self.config):
                self.state, sums, loss = self.step(self.state, sums, batch)
                float(loss)
        else:
            for _, batch in self.loader.stream(plans):
                self.state, sums, loss = self.step(self.state, sums, batch)
        named_metrics(sums)  # waits for the device
        return (time.perf_counter() - start) / sum(len(plan.rows) for plan in plans)


def main() -> None:
    """Run every arm in turn and print the table."""
    bench = tyro.cli(BenchConfig, description=__doc__)
    arms = {"reference": Arm(bench, 1, reference=True)}
    arms |= {f"batch {size}": Arm(bench, size, reference=False) for size in bench.batch_sizes}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm.round()  # warm-up
    for _ in range(bench.rounds):
        for name, arm in arms.items():
            times[name].append(arm.round())
    shape = asdict(next(iter(arms.values())).loader.buckets[0].shape)
    device = jax.local_devices()[0]
    print(f"{device.platform} {device.device_kind}, {platform.machine()}, jax {jax.__version__}, bucket {shape}")
    print(f"{'arm':<12}{'ms/molecule':>13}{'min':>8}{'max':>8}{'ratio':>8}{'compile s':>11}")
    base = statistics.median(times["reference"])
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        rows.append({"arm": name, "seconds_per_molecule": median, "ratio": base / median})
        print(
            f"{name:<12}{median * 1e3:>13.3f}{min(values) * 1e3:>8.3f}{max(values) * 1e3:>8.3f}"
            f"{base / median:>8.1f}{arms[name].compile_seconds:>11.1f}"
        )
    if bench.output:
        Path(bench.output).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

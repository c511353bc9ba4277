"""Reading of shuffled batches: the training loader against Grain, on the same mapped shards.

Grain (`pip install grain`) is the data loader that JAX projects use: its map-style dataset shuffles by seed and index,
takes one record at a time, stacks records into batches, and reads ahead in threads. Here it gets each molecule as a
dictionary of the same rows of the same maps. Reading is from the page cache; the two take turns; medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import grain
import numpy as np
import tyro

from train.data.batch import Batch
from train.data.dataset import BucketArrays, open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader, in_blocks


@dataclass(frozen=True)
class ReaderConfig:
    """What is read."""

    cache_dir: str = "data_cache"
    physnet_cutoff: float = 6.0
    dcmnet_cutoff: float = 10.0
    batch_size: int = 32
    epochs: int = 3
    """Epochs in a round."""
    threads: int = 2
    """Of Grain."""
    rounds: int = 3


class Molecules(grain.sources.RandomAccessDataSource[dict[str, np.ndarray]]):
    """One bucket for Grain: a record for each molecule."""

    def __init__(self, bucket: BucketArrays) -> None:
        names = [name for name in Batch._fields if name in bucket.shards[0]]
        self._arrays = {name: bucket.column(name) for name in (*names, "n_grid")}

    def __len__(self) -> int:
        return len(self._arrays["energy"])

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self._arrays.items()}


def with_grain(loader: Loader, config: ReaderConfig) -> Callable[[], int]:
    """An epoch's batches of every bucket, one after the other."""
    sources = [Molecules(bucket) for bucket in loader.buckets]
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=16 * config.batch_size)

    def run() -> int:
        molecules = 0
        for epoch in range(config.epochs):
            for source in sources:
                records = grain.MapDataset.source(source).seed(epoch).shuffle().to_iter_dataset(options)
                for batch in records.batch(config.batch_size):
                    molecules += len(batch["energy"])
        return molecules

    return run


def with_ours(loader: Loader, config: ReaderConfig, blocks: bool) -> Callable[[], int]:
    """The same with the loader: batch by batch, or in the blocks that streaming reads."""

    def run() -> int:
        molecules = 0
        for epoch in range(config.epochs):
            plans = loader.plan(0, epoch)
            if blocks:
                wanted = in_blocks(plans, loader.block_length)
                read = loader.stream_blocks(wanted, lambda block: loader.read_block(block, len(block.plans)))
                molecules += sum(int(batches.result().molecule_mask.sum()) for _, batches in read)
            else:
                molecules += sum(int(batch.molecule_mask.sum()) for _, batch in loader.stream(plans, loader.read))
        return molecules

    return run


def main() -> None:
    """Time the readers in turn."""
    config = tyro.cli(ReaderConfig, description=__doc__)
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    loader = Loader(cache.load_split("train"), config.batch_size, EspSelection(radius_factor=1.0))
    readers = {
        "grain": with_grain(loader, config),
        "ours, batch by batch": with_ours(loader, config, blocks=False),
        "ours, in blocks": with_ours(loader, config, blocks=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(config.rounds + 1):
        for name, run in readers.items():
            start = time.perf_counter()
            molecules = run()
            if turn:  # the first one warms up
                rates[name].append(molecules / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name:<24}{statistics.median(values):>12,.0f} molecules/s")


if __name__ == "__main__":
    main()

"""Batches of fixed shapes from mapped shards: a seeded shuffle that interleaves the buckets, read ahead by a thread."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from train.data.batch import Batch, map_arrays
from train.data.dataset import BucketArrays
from train.data.esp_mask import EspSelection, esp_mask

Wanted = TypeVar("Wanted")
Prepared = TypeVar("Prepared")

_READ_AHEAD = 4
_BLOCKS_AHEAD = 1
_LONGEST_RUN = 64
_BLOCK_BYTES = 32 << 20
"""Largest memory of the batches that are read together: enough for several to share the cost of a read."""


@dataclass(frozen=True)
class BatchPlan:
    """Rows of one bucket that make one batch of an epoch; fewer than the batch size only at a bucket's end."""

    bucket: int
    rows: np.ndarray


@dataclass(frozen=True)
class Block:
    """Consecutive batches of one bucket, which are read, or dispatched, together."""

    plans: list[BatchPlan]

    @property
    def bucket(self) -> int:
        """Index of the bucket."""
        return self.plans[0].bucket


class Loader:
    """One split of the data as a stream of batches."""

    def __init__(
        self, buckets: Sequence[BucketArrays], batch_size: int, selection: EspSelection, divisible_by: int = 1
    ) -> None:
        """Read batches of ``batch_size`` molecules, in arrays whose length is the next multiple of ``divisible_by``."""
        self.buckets = list(buckets)
        self.batch_size = batch_size
        self.places = -(-batch_size // divisible_by) * divisible_by
        self._selection = selection

    def __len__(self) -> int:
        """Molecules in the split."""
        return sum(len(bucket) for bucket in self.buckets)

    @property
    def batches_per_epoch(self) -> int:
        """Steps in one pass; the last batch of each bucket may be partly empty."""
        return sum(-(-len(bucket) // self.batch_size) for bucket in self.buckets)

    @property
    def nbytes(self) -> int:
        """Memory that all molecules take."""
        return sum(len(bucket) * _bytes_of_molecule(bucket) for bucket in self.buckets)

    def run_length(self, bucket: int) -> int:
        """Return how many batches of a bucket may follow each other: about an eighth of them, a quarter of an only one.

        Runs are what one dispatch to the device can cover. The buckets still take turns often.
        """
        batches = -(-len(self.buckets[bucket]) // self.batch_size)
        return max(1, min(_LONGEST_RUN, -(-batches // (8 if len(self.buckets) > 1 else 4))))

    def block_length(self, bucket: int) -> int:
        """Return how many batches of a bucket are read together: a run, or as many as the memory of a block holds."""
        batch = self.places * _bytes_of_molecule(self.buckets[bucket])
        return max(1, min(self.run_length(bucket), _BLOCK_BYTES // batch))

    def plan(self, seed: int | None = None, epoch: int = 0) -> list[BatchPlan]:
        """Return the batches of one pass, in order.

        Args:
            seed: shuffles the molecules within their buckets (a permutation of all of them), and the runs of batches of
                all buckets among each other, as a function of (seed, epoch) alone; None keeps the order of the data.
            epoch: which pass.
        """
        generator = None if seed is None else np.random.default_rng([seed, epoch])
        runs: list[list[BatchPlan]] = []
        for index, bucket in enumerate(self.buckets):
            rows = np.arange(len(bucket)) if generator is None else generator.permutation(len(bucket))
            # Each batch in the file's order, so that a map of a large file is read forwards: a batch is a set.
            batches = [
                BatchPlan(index, np.sort(rows[start : start + self.batch_size]))
                for start in range(0, len(rows), self.batch_size)
            ]
            length = self.run_length(index)
            runs.extend(batches[start : start + length] for start in range(0, len(batches), length))
        if generator is not None:
            runs = [runs[i] for i in generator.permutation(len(runs))]
        return list(itertools.chain.from_iterable(runs))

    def read(self, plan: BatchPlan, part: slice | None = None) -> Batch:
        """Read one batch, or some of its places; places beyond the rows are molecules without atoms."""
        return self.read_rows(plan.bucket, plan.rows[part] if part else plan.rows, self._length(part))

    def _length(self, part: slice | None) -> int:
        return len(range(self.places)[part]) if part else self.places

    def read_rows(self, index: int, rows: np.ndarray, places: int) -> Batch:
        """Read rows of a bucket, followed by empty molecules up to the number of places."""
        return self._read_places(index, rows, np.arange(len(rows)), places)

    def _read_places(self, index: int, rows: np.ndarray, to: np.ndarray, places: int) -> Batch:
        """Read rows of a bucket, each to its own place; other places are empty molecules."""
        arrays = self.buckets[index].place((*_arrays_of(self.buckets[index]), "n_grid"), rows, to, places)
        n_grid = arrays.pop("n_grid")
        mask = esp_mask(
            self._selection,
            arrays["positions"],
            arrays["atomic_numbers"],
            arrays["grid"],
            arrays["esp"],
            n_grid,
        )
        real = np.zeros(places, bool)
        real[to] = True
        return Batch(molecule_mask=real, esp_mask=mask, **arrays)

    def read_block(self, block: Block, length: int, part: slice | None = None) -> Batch:
        """Read the batches of a block, or some of their places: arrays (length, places, ...), empty beyond its batches.

        All rows are read in the file's order, and each shard at once: a batch by itself would touch new pages, and
        other shards, for each of its molecules, at a cost that grows with the data.
        """
        places = self._length(part)
        rows = np.full((length, places), -1)
        for i, plan in enumerate(block.plans):
            own = plan.rows[part] if part else plan.rows
            rows[i, : len(own)] = own
        flat = rows.ravel()
        order = np.argsort(flat, kind="stable")
        to = order[np.searchsorted(flat, 0, sorter=order) :]
        arrays = self._read_places(block.bucket, flat[to], to, flat.size)
        return map_arrays(lambda array: array.reshape(*rows.shape, *array.shape[1:]), arrays)

    def stream(
        self, plans: Sequence[BatchPlan], prepare: Callable[[BatchPlan], Prepared]
    ) -> Iterator[tuple[BatchPlan, Prepared]]:
        """Yield the planned batches, prepared by a thread a few batches ahead; its errors are raised here.

        Args:
            plans: of the batches.
            prepare: reads a batch (:meth:`read`), and perhaps places it on a device.
        """
        return ((plan, prepared.result()) for plan, prepared in _ahead(plans, prepare, _READ_AHEAD))

    def stream_blocks(
        self, blocks: Sequence[Block], prepare: Callable[[Block], Prepared]
    ) -> Iterator[tuple[Block, Future[Prepared]]]:
        """Yield blocks as :meth:`stream` yields batches, but as futures."""
        return _ahead(blocks, prepare, _BLOCKS_AHEAD)


def in_blocks(plans: Sequence[BatchPlan], length: Callable[[int], int]) -> list[Block]:
    """Group consecutive batches of one bucket into blocks of at most ``length(bucket)``."""
    blocks: list[Block] = []
    for bucket, group in itertools.groupby(plans, key=lambda plan: plan.bucket):
        batches, most = list(group), length(bucket)
        blocks.extend(Block(batches[start : start + most]) for start in range(0, len(batches), most))
    return blocks


def _ahead(
    wanted: Sequence[Wanted], prepare: Callable[[Wanted], Prepared], ahead: int
) -> Iterator[tuple[Wanted, Future[Prepared]]]:
    """Yield each of ``wanted`` with its preparation by a thread, which works ``ahead`` items in advance."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="loader")
    pending: deque[tuple[Wanted, Future[Prepared]]] = deque()
    try:
        for item in wanted:
            pending.append((item, executor.submit(prepare, item)))
            if len(pending) > ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        executor.shutdown(cancel_futures=True)


def _bytes_of_molecule(bucket: BucketArrays) -> int:
    one = {name: bucket.shards[0][name][:1] for name in _arrays_of(bucket)}
    # The two masks are computed: one byte for each grid point, and one for the molecule.
    return sum(values.nbytes for values in one.values()) + one["esp"].size + 1


def _arrays_of(bucket: BucketArrays) -> list[str]:
    """Return the arrays of a batch that the shards hold; the two masks are computed."""
    return [name for name in Batch._fields if name in bucket.shards[0]]

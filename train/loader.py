"""Batches of fixed shapes from mapped shards: a seeded shuffle that interleaves the buckets, read ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from shared.batch import Batch
from shared.cache import BucketArrays
from train.esp_points import EspSelection, esp_mask

_READ_AHEAD = 4


@dataclass(frozen=True)
class BatchPlan:
    """One batch of an epoch: which rows of which bucket. Shorter than the batch size only at a bucket's end."""

    bucket: int
    rows: np.ndarray


class Loader:
    """One split of the data as a stream of batches."""

    def __init__(self, buckets: Sequence[BucketArrays], batch_size: int, selection: EspSelection) -> None:
        self.buckets = list(buckets)
        self.batch_size = batch_size
        self._selection = selection

    def __len__(self) -> int:
        """Molecules in the split."""
        return sum(len(bucket) for bucket in self.buckets)

    @property
    def batches_per_epoch(self) -> int:
        """Steps in one pass; the last batch of each bucket may be partly empty."""
        return sum(-(-len(bucket) // self.batch_size) for bucket in self.buckets)

    def plan(self, seed: int | None = None, epoch: int = 0) -> list[BatchPlan]:
        """The batches of one pass, in order.

        Args:
            seed: shuffles the molecules within their buckets, and the batches of all buckets among each other,
                as a function of (seed, epoch) alone; None keeps the order of the data.
            epoch: which pass.
        """
        generator = None if seed is None else np.random.default_rng([seed, epoch])
        batches: list[BatchPlan] = []
        for index, bucket in enumerate(self.buckets):
            rows = np.arange(len(bucket)) if generator is None else generator.permutation(len(bucket))
            batches.extend(
                BatchPlan(index, rows[start : start + self.batch_size])
                for start in range(0, len(rows), self.batch_size)
            )
        if generator is not None:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def read(self, plan: BatchPlan) -> Batch:
        """Gather one batch; rows that are missing to the batch size are molecules without atoms."""
        bucket = self.buckets[plan.bucket]
        # In the file's order, so that a map of a large file is read forwards; a batch is a set, its order is free.
        rows = np.sort(plan.rows)
        gathered = {name: self._gather(bucket, name, rows) for name in _GATHERED}
        mask = esp_mask(
            self._selection,
            gathered["positions"],
            gathered["atomic_numbers"],
            gathered["grid"],
            gathered["esp"],
            self._gather(bucket, "n_grid", rows),
        )
        return Batch(molecule_mask=np.arange(self.batch_size) < len(rows), esp_mask=mask, **gathered)

    def _gather(self, bucket: BucketArrays, name: str, rows: np.ndarray) -> np.ndarray:
        values = bucket.take(name, rows)
        missing = self.batch_size - len(rows)
        return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1)) if missing else values

    def stream(self, plans: Sequence[BatchPlan]) -> Iterator[tuple[BatchPlan, Batch]]:
        """The planned batches, gathered by a thread a few batches ahead. An error there is raised here."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        pending: deque[tuple[BatchPlan, Future[Batch]]] = deque()
        try:
            for plan in plans:
                pending.append((plan, pool.submit(self.read, plan)))
                if len(pending) > _READ_AHEAD:
                    first, batch = pending.popleft()
                    yield first, batch.result()
            for first, batch in pending:
                yield first, batch.result()
        finally:
            pool.shutdown(cancel_futures=True)


_GATHERED = tuple(name for name in Batch._fields if name not in ("molecule_mask", "esp_mask"))

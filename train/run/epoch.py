"""How batches reach the device: kept there whole, or streamed from the shards. The sequence of batches is the same."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from shared.errors import UserError
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.loader import BatchPlan, Block, Loader, in_blocks
from train.step.compiled_steps import Steps
from train.step.devices import Devices, agreed
from train.step.metrics import MetricSums
from train.step.optimizer import TrainState

_SHARE_OF_MEMORY = 0.3
"""Data that take less than this share of the free memory are kept on the device."""

_SECONDS_PER_DISPATCH = 0.5
"""One dispatch covers at most about this much work, so that an interruption does not wait for long."""

_SECONDS_BETWEEN_SIGNS = 0.2
"""While a bucket's step is being compiled."""

_IN_FLIGHT = 2
"""Dispatches that the device has ahead of it: enough never to wait for the host, few enough to be interrupted."""


class Dispatched(NamedTuple):
    """What one dispatch gives; the loss may not have arrived yet."""

    state: TrainState
    sums: MetricSums
    loss: Any  # () array, that of the last step; None if there was none
    steps: int
    molecules: int


class Feed(ABC):
    """Takes training steps over planned batches, many of them in one dispatch."""

    input_wait: float = 0.0
    """Seconds since the start of the epoch that the device had nothing to do because its next batch was not there."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        self.steps, self.loader = steps, loader
        self._compiling: dict[int, Future[Any]] = {}
        self._steps_per_dispatch: dict[int, int] = {}

    def prepare(self, plans: Sequence[BatchPlan]) -> None:
        """Begin to compile for every bucket of these batches, in their order."""
        for bucket in dict.fromkeys(plan.bucket for plan in plans):
            self._compiling[bucket] = self._prepare(bucket)

    @abstractmethod
    def _prepare(self, bucket: int) -> Future[Any]:
        """Begin to compile for a bucket."""

    def _wait_for(self, bucket: int, state: TrainState, sums: MetricSums) -> Iterator[Dispatched]:
        """No progress, again and again, until the bucket's step is compiled: whoever counts it can also stop."""
        compiling = self._compiling.pop(bucket, None)
        while compiling is not None:
            try:
                compiling.result(timeout=_SECONDS_BETWEEN_SIGNS)
                return
            except TimeoutError:
                yield Dispatched(state, sums, None, 0, 0)

    def epoch(self, state: TrainState, sums: MetricSums, plans: Sequence[BatchPlan]) -> Iterator[Dispatched]:
        """Take the steps in order; the arrays that came in are given up."""
        self.input_wait = 0.0
        in_flight: deque[Any] = deque()
        for block, placed in self._placed(in_blocks(plans, self._block_length)):
            arrays = self._when_placed(placed, in_flight)
            yield from self._wait_for(block.bucket, state, sums)
            for first, last in self._dispatches(block):
                start = time.perf_counter()
                state, sums, loss = self._train(state, sums, block, arrays, first, last)
                if block.bucket not in self._steps_per_dispatch and last < len(block.plans):
                    self._measure(block.bucket, loss, start, first)
                in_flight.append(loss)
                if len(in_flight) > _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                molecules = sum(len(plan.rows) for plan in block.plans[first:last])
                yield Dispatched(state, sums, loss, last - first, molecules)

    def _when_placed(self, placed: Future[Any], in_flight: Sequence[Any]) -> Any:
        """A block's arrays. If they are late, the time counts from when the device has nothing left to do."""
        if not placed.done():
            if in_flight:
                in_flight[-1].block_until_ready()
            start = time.perf_counter()
            wait([placed])
            self.input_wait += time.perf_counter() - start
        return placed.result()

    @abstractmethod
    def _block_length(self, bucket: int) -> int:
        """Most batches in a block; that of all blocks' arrays."""

    @abstractmethod
    def _placed(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        """Each block with what the device needs of it."""

    @abstractmethod
    def _train(
        self, state: TrainState, sums: MetricSums, block: Block, placed: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take some of a block's steps."""

    def _dispatches(self, block: Block) -> Iterator[tuple[int, int]]:
        """First and last steps of each dispatch of a block: single steps until their duration is known."""
        first, steps = 0, len(block.plans)
        while first < steps:
            last = min(steps, first + self._steps_per_dispatch.get(block.bucket, 1))
            yield first, last
            first = last

    def _measure(self, bucket: int, loss: Any, start: float, first: int) -> None:
        """Time the second step of a block: the first one may have compiled."""
        loss.block_until_ready()
        if first:
            seconds = time.perf_counter() - start
            # The same in every process, although each has its own clock.
            self._steps_per_dispatch[bucket] = agreed(max(1, int(_SECONDS_PER_DISPATCH / seconds)))


class StreamFeed(Feed):
    """Reads blocks ahead in a thread, which also starts their transfer. Memory: a few blocks."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._part = steps.devices.own_part(loader.places)

    def _prepare(self, bucket: int) -> Future[Any]:
        return self.steps.prepare_train_block(self._read(Block([BatchPlan(bucket, np.arange(1))])))

    def _block_length(self, bucket: int) -> int:
        return self.loader.block_length(bucket)

    def _read(self, block: Block) -> Batch:
        batches = self.loader.read_block(block, self._block_length(block.bucket), self._part)
        return self.steps.devices.place_block(batches, self.loader.places)

    def _placed(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        return self.loader.stream_blocks(blocks, self._read)

    def _train(
        self, state: TrainState, sums: MetricSums, block: Block, placed: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        return self.steps.train_block(state, sums, placed, first, last)


class ResidentFeed(Feed):
    """Keeps every bucket on the device, where batches are gathered."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._data = [
            steps.devices.place(loader.gather(index, np.arange(len(bucket)), len(bucket)))
            for index, bucket in enumerate(loader.buckets)
        ]

    def _prepare(self, bucket: int) -> Future[Any]:
        rows = self.steps.devices.place_rows(self._row_numbers([], self._block_length(bucket)))
        return self.steps.prepare_train_resident(self._data[bucket], rows)

    def _block_length(self, bucket: int) -> int:
        return self.loader.run_length(bucket)

    def _placed(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        for block in blocks:
            rows = self._row_numbers(block.plans, self._block_length(block.bucket))
            placed: Future[Any] = Future()
            placed.set_result(self.steps.devices.place_rows(rows))
            yield block, placed

    def _train(
        self, state: TrainState, sums: MetricSums, block: Block, placed: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        return self.steps.train_resident(state, sums, self._data[block.bucket], placed, first, last)

    def _row_numbers(self, plans: Sequence[BatchPlan], length: int) -> np.ndarray:
        rows = np.full((length, self.loader.places), -1, np.int32)
        for i, plan in enumerate(plans):
            rows[i, : len(plan.rows)] = plan.rows
        return rows


def build_feed(config: TrainConfig, steps: Steps, loader: Loader) -> Feed:
    """The way that the settings name, or that the size of the data asks for.

    Raises:
        UserError: the data are to be on the device, and do not fit.
    """
    needed, free = loader.nbytes, _free_memory(steps.devices)
    # Several processes each read their own part; and they might not agree on the memory that is free.
    fits = needed < _SHARE_OF_MEMORY * free and jax.process_count() == 1
    if config.data_placement == "device" and needed >= 0.9 * free:
        raise UserError(
            f"--data-placement device: the training data take {needed / 1e9:.1f} GB of a device's memory, of which "
            f"{free / 1e9:.1f} GB are free; use --data-placement stream"
        )
    resident = config.data_placement == "device" or (config.data_placement == "auto" and fits)
    return ResidentFeed(steps, loader) if resident else StreamFeed(steps, loader)


def _free_memory(devices: Devices) -> float:
    """Bytes that one device may take: the least of this process's devices."""
    if devices.platform == "cpu":
        # Every host device holds a copy.
        return float(psutil.virtual_memory().available) / devices.local_count
    statistics: list[Any] = [device.memory_stats() or {} for device in devices.mesh.local_devices]
    free = [entry.get("bytes_limit", 0) - entry.get("bytes_in_use", 0) for entry in statistics]
    return float(min(free))

"""How batches reach the device: kept there whole, or streamed from the shards. The sequence of batches is the same."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from shared.batch import Batch
from shared.errors import UserError
from train.compiled import Steps
from train.config import TrainConfig
from train.devices import Devices, agreed
from train.loader import BatchPlan, Loader
from train.metrics import MetricSums
from train.state import TrainState

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
    """Takes training steps over planned batches."""

    input_wait: float = 0.0
    """Seconds since the start of the epoch that the device had nothing to do because its next batch was not there."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        self.steps, self.loader = steps, loader

        self._compiling: dict[int, Future[Any]] = {}

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

    @abstractmethod
    def epoch(self, state: TrainState, sums: MetricSums, plans: Sequence[BatchPlan]) -> Iterator[Dispatched]:
        """Take the steps in order; the arrays that came in are given up."""


class StreamFeed(Feed):
    """Reads ahead in a thread, which also starts the transfer to the device. Memory: a few batches."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._part = steps.devices.own_part(loader.places)

    def _prepare(self, bucket: int) -> Future[Any]:
        return self.steps.prepare_train(self._read(BatchPlan(bucket, np.arange(1))))

    def _read(self, plan: BatchPlan) -> Batch:
        return self.steps.devices.place_batch(self.loader.read(plan, self._part), self.loader.places)

    def epoch(self, state: TrainState, sums: MetricSums, plans: Sequence[BatchPlan]) -> Iterator[Dispatched]:
        self.input_wait = 0.0
        in_flight: deque[Any] = deque()
        batches = self.loader.stream(plans, self._read)
        while True:
            start = time.perf_counter()
            try:
                plan, batch = next(batches)
            except StopIteration:
                return
            if in_flight and in_flight[-1].is_ready():
                self.input_wait += time.perf_counter() - start
            yield from self._wait_for(plan.bucket, state, sums)
            state, sums, loss = self.steps.train(state, sums, batch)
            in_flight.append(loss)
            if len(in_flight) > _IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            yield Dispatched(state, sums, loss, 1, len(plan.rows))


class ResidentFeed(Feed):
    """Keeps every bucket on the device; batches are gathered there, and one dispatch takes many steps."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._data = [
            steps.devices.place(loader.gather(index, np.arange(len(bucket)), len(bucket)))
            for index, bucket in enumerate(loader.buckets)
        ]
        self._steps_per_dispatch: dict[int, int] = {}

    def _prepare(self, bucket: int) -> Future[Any]:
        rows = self.steps.devices.place_rows(self._row_numbers([], self.loader.run_length(bucket)))
        return self.steps.prepare_train_resident(self._data[bucket], rows)

    def epoch(self, state: TrainState, sums: MetricSums, plans: Sequence[BatchPlan]) -> Iterator[Dispatched]:
        self.input_wait = 0.0
        in_flight: deque[Any] = deque()
        for bucket, batches in itertools.groupby(plans, key=lambda plan: plan.bucket):
            length = self.loader.run_length(bucket)
            yield from self._wait_for(bucket, state, sums)
            for run in _chunks(list(batches), length):
                rows = self.steps.devices.place_rows(self._row_numbers(run, length))
                for first, last in self._dispatches(bucket, len(run)):
                    start = time.perf_counter()
                    state, sums, loss = self.steps.train_resident(state, sums, self._data[bucket], rows, first, last)
                    if bucket not in self._steps_per_dispatch and last < len(run):
                        self._measure(bucket, loss, start, first)
                    in_flight.append(loss)
                    if len(in_flight) > _IN_FLIGHT:
                        in_flight.popleft().block_until_ready()
                    molecules = sum(len(plan.rows) for plan in run[first:last])
                    yield Dispatched(state, sums, loss, last - first, molecules)

    def _row_numbers(self, run: Sequence[BatchPlan], length: int) -> np.ndarray:
        rows = np.full((length, self.loader.places), -1, np.int32)
        for i, plan in enumerate(run):
            rows[i, : len(plan.rows)] = plan.rows
        return rows

    def _dispatches(self, bucket: int, steps: int) -> Iterator[tuple[int, int]]:
        """First and last steps of each dispatch of a run: single steps until their duration is known."""
        first = 0
        while first < steps:
            last = min(steps, first + self._steps_per_dispatch.get(bucket, 1))
            yield first, last
            first = last

    def _measure(self, bucket: int, loss: Any, start: float, first: int) -> None:
        """Time the second step of a run: the first one may have compiled."""
        loss.block_until_ready()
        if first:
            seconds = time.perf_counter() - start
            # The same in every process, although each has its own clock.
            self._steps_per_dispatch[bucket] = agreed(max(1, int(_SECONDS_PER_DISPATCH / seconds)))


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


def _chunks(plans: list[BatchPlan], length: int) -> Iterator[list[BatchPlan]]:
    return (plans[start : start + length] for start in range(0, len(plans), length))

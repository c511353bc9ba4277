"""Batches of an epoch, kept whole on the devices or streamed from the shards, in the same order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from shared.errors import UserError
from shared.job_limits import available_memory
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.loader import BatchPlan, Block, Loader
from train.step.compiled_steps import Steps
from train.step.devices import Devices
from train.step.metrics import MetricSums
from train.step.optimizer import TrainState

_SHARE_OF_MEMORY = 0.3
"""Largest share of the free memory that data kept on the device may take."""


class Blocks(ABC):
    """Blocks of batches as arrays on the devices, and the training step that takes them."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        self.steps, self.loader = steps, loader

    @abstractmethod
    def prepare(self, bucket: int) -> Future[Any]:
        """Begin to compile the training step of a bucket."""

    @abstractmethod
    def length(self, bucket: int) -> int:
        """Return the largest number of batches in a block, which is the length of its arrays."""

    @abstractmethod
    def place(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        """Yield each block with its arrays, whose transfer may still be under way."""

    @abstractmethod
    def train(
        self, state: TrainState, sums: MetricSums, block: Block, arrays: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take the steps ``first`` to ``last`` (exclusive) of a block, see :meth:`Steps.train_block`."""


class StreamedBlocks(Blocks):
    """Blocks that a thread reads ahead and transfers; they take the memory of a few blocks."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._part = steps.devices.own_part(loader.places)

    def prepare(self, bucket: int) -> Future[Any]:
        """Begin to compile the step on a block of batches."""
        return self.steps.prepare_train_block(self._read(Block([BatchPlan(bucket, np.arange(1))])))

    def length(self, bucket: int) -> int:
        """Return as many batches as are read together."""
        return self.loader.block_length(bucket)

    def place(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        """Yield each block with the future of its batches."""
        return self.loader.stream_blocks(blocks, self._read)

    def train(
        self, state: TrainState, sums: MetricSums, block: Block, arrays: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take steps on batches (steps, molecules, ...)."""
        return self.steps.train_block(state, sums, arrays, first, last)

    def _read(self, block: Block) -> Batch:
        batches = self.loader.read_block(block, self.length(block.bucket), self._part)
        return self.steps.devices.place_block(batches, self.loader.places)


class ResidentBlocks(Blocks):
    """Buckets kept on the device, where the step gathers its batches."""

    def __init__(self, steps: Steps, loader: Loader) -> None:
        super().__init__(steps, loader)
        self._data = [
            steps.devices.place(loader.read_rows(index, np.arange(len(bucket)), len(bucket)))
            for index, bucket in enumerate(loader.buckets)
        ]

    def prepare(self, bucket: int) -> Future[Any]:
        """Begin to compile the step on the bucket's molecules."""
        rows = self.steps.devices.place_rows(self._row_numbers([], self.length(bucket)))
        return self.steps.prepare_train_resident(self._data[bucket], rows)

    def length(self, bucket: int) -> int:
        """Return as many batches as may follow each other."""
        return self.loader.run_length(bucket)

    def place(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Future[Any]]]:
        """Yield each block with its row numbers (steps, molecules)."""
        for block in blocks:
            rows = self._row_numbers(block.plans, self.length(block.bucket))
            placed: Future[Any] = Future()
            placed.set_result(self.steps.devices.place_rows(rows))
            yield block, placed

    def train(
        self, state: TrainState, sums: MetricSums, block: Block, arrays: Any, first: int, last: int
    ) -> tuple[TrainState, MetricSums, Any]:
        """Take steps on the molecules of these rows (steps, molecules)."""
        return self.steps.train_resident(state, sums, self._data[block.bucket], arrays, first, last)

    def _row_numbers(self, plans: Sequence[BatchPlan], length: int) -> np.ndarray:
        rows = np.full((length, self.loader.places), -1, np.int32)
        for i, plan in enumerate(plans):
            rows[i, : len(plan.rows)] = plan.rows
        return rows


def open_blocks(config: TrainConfig, steps: Steps, loader: Loader) -> Blocks:
    """Return the batches, placed as the settings say, or else by the size of the data.

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
    return ResidentBlocks(steps, loader) if resident else StreamedBlocks(steps, loader)


def _free_memory(devices: Devices) -> float:
    """Return the bytes that are free on each device: the least of this process's devices."""
    if devices.platform == "cpu":
        # Every host device holds a copy.
        return available_memory() / devices.local_count
    statistics: list[Any] = [device.memory_stats() or {} for device in devices.mesh.local_devices]
    free = [entry.get("bytes_limit", 0) - entry.get("bytes_in_use", 0) for entry in statistics]
    return float(min(free))

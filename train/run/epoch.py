"""The training steps of an epoch, many in one dispatch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from train.data.loader import BatchPlan, Block, in_blocks
from train.run.blocks import Blocks
from train.step.devices import agreed
from train.step.metrics import MetricSums
from train.step.optimizer import TrainState

_SECONDS_PER_DISPATCH = 0.5
"""Seconds of work in one dispatch at most, so that an interruption does not wait for long."""

_SECONDS_BETWEEN_LOOKS = 0.2
"""Interval of checks while a bucket's step is being compiled."""

_IN_FLIGHT = 2
"""Dispatches queued on the device: enough never to wait for the host, few enough to be interrupted."""


class Dispatched(NamedTuple):
    """Result of one dispatch; the loss may not have arrived yet."""

    state: TrainState
    sums: MetricSums
    loss: Any  # () array, that of the last step
    steps: int
    molecules: int


class EpochRunner:
    """Runner of the steps of all epochs, which learns how many of them a dispatch may hold."""

    input_wait: float = 0.0
    """Seconds of the epoch in which the device was idle because its next batch was not there."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._compiling: dict[int, Future[Any]] = {}
        self._steps_per_dispatch: dict[int, int] = {}

    def prepare(self, plans: Sequence[BatchPlan]) -> None:
        """Begin to compile for every bucket of these batches, in their order."""
        for bucket in dict.fromkeys(plan.bucket for plan in plans):
            self._compiling[bucket] = self._blocks.prepare(bucket)

    def run(
        self,
        state: TrainState,
        sums: MetricSums,
        plans: Sequence[BatchPlan],
        while_compiling: Callable[[], None] = lambda: None,
    ) -> Iterator[Dispatched]:
        """Take the steps in order; yield after each dispatch.

        Args:
            state: its arrays are given up.
            sums: given up.
            plans: the batches.
            while_compiling: called again and again while a step is awaited that is not compiled yet; may raise.
        """
        self.input_wait = 0.0
        in_flight: deque[Any] = deque()
        for block, placed in self._blocks.place(in_blocks(plans, self._blocks.length)):
            arrays = self._when_placed(placed, in_flight)
            self._when_compiled(block.bucket, while_compiling)
            for first, last in self._dispatches(block):
                start = time.perf_counter()
                state, sums, loss = self._blocks.train(state, sums, block, arrays, first, last)
                if block.bucket not in self._steps_per_dispatch and last < len(block.plans):
                    self._measure(block.bucket, loss, start, first)
                in_flight.append(loss)
                if len(in_flight) > _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                molecules = sum(len(plan.rows) for plan in block.plans[first:last])
                yield Dispatched(state, sums, loss, last - first, molecules)

    def _when_placed(self, placed: Future[Any], in_flight: Sequence[Any]) -> Any:
        """Return a block's arrays, and count the time for which the device is idle until they arrive."""
        if not placed.done():
            if in_flight:
                in_flight[-1].block_until_ready()
            start = time.perf_counter()
            wait([placed])
            self.input_wait += time.perf_counter() - start
        return placed.result()

    def _when_compiled(self, bucket: int, while_compiling: Callable[[], None]) -> None:
        compiling = self._compiling.pop(bucket, None)
        while compiling is not None:
            try:
                compiling.result(timeout=_SECONDS_BETWEEN_LOOKS)
                return
            except TimeoutError:
                while_compiling()

    def _dispatches(self, block: Block) -> Iterator[tuple[int, int]]:
        """Yield the first and last steps of each dispatch of a block: single steps until their duration is known."""
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

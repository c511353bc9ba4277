"""The devices that share a batch, in this process and in others, and the placement of arrays on them."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shared.errors import EXIT_USER_ERROR, UserError
from shared.job_limits import usable_cores
from shared.log import log
from shared.signals import end_program
from train.config import TrainConfig
from train.data.batch import Batch, map_arrays
from train.step.start import require_devices

Tree = TypeVar("Tree")

AXIS = "data"
"""Name of the one mesh axis: molecules of a batch are divided along it."""

_PATIENCE = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 1200,
    "xla_cpu_collective_call_terminate_timeout_seconds": 3600,
}
"""Flags of XLA, read when its first program is compiled."""

_SECONDS_TO_MEET = 300.0
"""Longest wait for other processes: as long as JAX's own."""

_DEVICE_COUNT = "xla_force_host_platform_device_count"
"""Flag of XLA, which holds where --host-devices is not given."""

_MOLECULES_PER_CORE = 8
"""Fewest molecules per core: with fewer, the overhead of operations exceeds their work."""


@dataclass(frozen=True)
class Devices:
    """Devices in a row; each takes its share of every batch, and all hold the same state."""

    mesh: Mesh

    @cached_property
    def replicated(self) -> NamedSharding:
        """The whole array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @cached_property
    def divided(self) -> NamedSharding:
        """The first axis, molecules, divided among the devices."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @cached_property
    def divided_rows(self) -> NamedSharding:
        """(steps, molecules, ...): the second axis divided among the devices."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXIS))

    @property
    def count(self) -> int:
        """Number of devices, in all processes."""
        return int(self.mesh.size)

    @property
    def local_count(self) -> int:
        """Number of devices of this process."""
        return len(self.mesh.local_devices)

    @property
    def platform(self) -> str:
        """Platform of the devices: "cpu", "gpu" or "tpu"."""
        return str(self.mesh.devices.flat[0].platform)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return jax.process_index() == 0

    def padded(self, molecules: int) -> int:
        """Return the smallest number of places, at least ``molecules``, that divides evenly among the devices."""
        return -(-molecules // self.count) * self.count

    def own_part(self, places: int) -> slice:
        """Return which of the ``places`` of a padded batch this process reads."""
        parts = self.divided.addressable_devices_indices_map((places,)).values()
        bounds = [part[0].indices(places) for part in parts if part is not None]
        return slice(min(start for start, *_ in bounds), max(stop for _, stop, *_ in bounds))

    def place(self, tree: Tree) -> Tree:
        """Copy arrays of the host, equal in every process, whole to every device."""
        if jax.process_count() > 1:
            # From the host, whatever device they are on: arrays made of others cannot be saved.
            tree = jax.tree.map(np.asarray, tree)
        return jax.device_put(tree, self.replicated)

    def place_batch(self, batch: Batch, places: int) -> Batch:
        """Place this process's part of a batch of ``places`` molecules on its devices."""
        return self._place_part(batch, self.divided, 0, places)

    def place_block(self, block: Batch, places: int) -> Batch:
        """Place this process's part of a block (steps, molecules, ...) of batches of ``places`` molecules."""
        return self._place_part(block, self.divided_rows, 1, places)

    def _place_part(self, batch: Batch, sharding: NamedSharding, axis: int, places: int) -> Batch:
        if jax.process_count() == 1:
            return jax.device_put(batch, sharding)

        def put(array: np.ndarray) -> jax.Array:
            shape = (*array.shape[:axis], places, *array.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, array, shape)

        return map_arrays(put, batch)

    def place_rows(self, rows: np.ndarray) -> jax.Array:
        """Place row numbers (steps, places), which every process knows; each device gets its columns."""
        return jax.make_array_from_callback(rows.shape, self.divided_rows, lambda index: rows[index])


def all_devices() -> Devices:
    """Return every device of every process."""
    return _in_a_row(jax.devices())


def own_devices() -> Devices:
    """Return the devices of this process."""
    return _in_a_row(jax.local_devices())


def _in_a_row(devices: list[Any]) -> Devices:
    return Devices(Mesh(np.asarray(devices), (AXIS,)))


def agreed(number: int) -> int:
    """Return the first process's number, where each process measures another one."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def largest(number: int) -> int:
    """Return the largest of all processes' numbers."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.asarray(number))))


def digest_of_first(digest: str) -> str:
    """Return the first 16 hex digits of the first process's digest, where others may have read another one."""
    digest = digest[:16]
    if jax.process_count() == 1:
        return digest
    found = multihost_utils.broadcast_one_to_all(np.frombuffer(digest.encode(), np.uint8))
    return np.asarray(found, np.uint8).tobytes().decode()


def start_devices(config: TrainConfig) -> None:
    """Join the other processes, and divide the processor among host devices, before JAX is used.

    On a processor, one device per core is faster than one device whose single operations are shared out: the
    operations of a batch of small molecules are too short for that.

    Raises:
        UserError: the settings contradict each other, or the other processes cannot be reached.
    """
    _be_patient()
    precision = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}[config.matmul_precision]
    jax.config.update("jax_default_matmul_precision", precision)
    if config.host_devices:
        # It wins over the environment.
        words = os.environ["XLA_FLAGS"].split()
        os.environ["XLA_FLAGS"] = " ".join(word for word in words if _DEVICE_COUNT not in word)
    named = _DEVICE_COUNT in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ
    if config.host_devices or not named:
        # Where JAX is in use already (a notebook), its devices stay as they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", host_devices(config))
    # Single operations run in the thread that calls them, instead of in a queue. The queue is that of the devices, has
    # as many threads as the processor has cores, and lets 32 operations wait on each device. If they do when a step
    # begins, its part on their device waits for their end in one thread, its part on another device waits for that part
    # in the second thread, and the operations wait for a thread: for ever, on two cores. Steps on several devices are
    # queued all the same.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _join(config)
    require_devices()
    if jax.process_count() > 1 and len({d.process_index for d in jax.devices()}) != jax.process_count():
        raise UserError("a process has no device; give every process at least one")


def _be_patient() -> None:
    """Raise the time that the devices of a processor may wait for each other.

    They share a few threads with the compiler. While it makes the steps of further buckets in the background, on a busy
    machine, one device may wait in the queue for more than the 40 seconds after which XLA ends the whole process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for name, seconds in _PATIENCE.items():
        if name not in flags:
            flags += f" --{name}={seconds}"
    os.environ["XLA_FLAGS"] = flags.strip()


def host_devices(config: TrainConfig) -> int:
    """Return how many devices the processor is divided into."""
    processes = max(config.processes, 1)
    return config.host_devices or max(1, min(usable_cores(), config.batch_size // processes // _MOLECULES_PER_CORE))


def _join(config: TrainConfig) -> None:
    if config.coordinator:
        if config.processes < 2 or not 0 <= config.process_id < config.processes:
            raise UserError(
                f"--coordinator {config.coordinator}: also needs --processes (2 or more) and --process-id from 0 to "
                f"processes - 1, but they are {config.processes} and {config.process_id}"
            )
        arguments: dict[str, Any] = {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process_id,
        }
    elif config.distributed:
        arguments = {}
    else:
        return
    who = "the processes of this job"
    if config.coordinator:
        who = f"{config.processes} processes at {config.coordinator}"
    how = (
        "start them with srun or mpirun and --distributed, or give each --coordinator HOST:PORT --processes N "
        "--process-id I"
    )
    log.info(f"train: waiting for {who}, for up to {_SECONDS_TO_MEET:.0f} s")
    # XLA would wait without a word, and end the process with the stacks of C++.
    line = f"error: {who} did not find each other in {_SECONDS_TO_MEET:.0f} s; {how}"
    limit = threading.Timer(_SECONDS_TO_MEET, end_program, (line, EXIT_USER_ERROR))
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=int(_SECONDS_TO_MEET) + 60)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{who} did not find each other ({reason}); {how}") from error
    finally:
        limit.cancel()

"""Full checkpoints of a run, with Orbax: parameters, optimizer, running average, position, best epoch so far."""

from __future__ import annotations

import json
import time
from collections import namedtuple
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import xxhash

from shared.errors import UserError
from train.step.devices import agreed
from train.step.metrics import MetricSums, zero_sums
from train.step.optimizer import TrainState

_FORMAT = 6
"""5 had no sum of the errors of the charges' sums; older ones are refused."""

_LACKS: dict[int, tuple[str, ...]] = {5: ("charge_sum",), _FORMAT: ()}
"""Formats that are read, and the sums that they lack."""


@dataclass(frozen=True)
class Progress:
    """The state of a run beside its arrays: the shuffle is a function of (seed, epoch)."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches taken of the epoch after them
    seconds: float = 0.0  # spent on those
    best_score: float | None = None  # of best_epoch; None before the first evaluation
    best_epoch: int = 0  # 0: none yet


class Saved(NamedTuple):
    """Contents of a checkpoint."""

    state: TrainState
    sums: MetricSums  # of the epoch so far
    progress: Progress


class _DamagedError(Exception):
    """A checkpoint that cannot be read as it was written."""


class Checkpoints:
    """The latest checkpoints of one run, written in the background, each complete or absent."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """Return the number of the newest checkpoint."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, saved: Saved, step: int) -> None:
        """Start writing the checkpoint of this number of steps; the arrays are copied before this returns.

        Nothing happens if it exists already.
        """
        if step in self._manager.all_steps():
            return
        arrays = {"state": saved.state, "sums": saved.sums}
        progress = asdict(saved.progress)
        description = {"format": _FORMAT, "checksum": _checksum(arrays, progress), **progress}
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(description))
        try:
            self._manager.save(step, args=items, force=True)
        except (OSError, ValueError) as error:  # of the save before, too, which was in the background
            raise self._not_written(error) from error

    def restore(self, like: TrainState) -> tuple[Saved | None, list[str]]:
        """Return the newest checkpoint that can be read, placed as ``like`` is (None if there is none).

        Newer ones, which could not be read, are moved out of the way; the returned texts name them.

        Raises:
            UserError: it was written by another version of this program, or none can be read.
        """
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                saved = self._read(step, like)
            except _DamagedError as error:
                damaged.append(f"{self._folder / str(step)}: damaged ({error})")
                continue
            self._set_aside(steps[: len(damaged)])
            return saved, damaged
        if damaged:
            raise UserError(
                f"{damaged[0]}, and so are all {len(damaged)} checkpoints; train under another --name, with "
                "--init-from this run if its best/ can still be read"
            )
        return None, []

    def _set_aside(self, steps: list[int]) -> None:
        """Move unreadable checkpoints away without removing them: a disk may have been unavailable for a moment."""
        if not steps:
            return
        aside = self._folder.with_name(self._folder.name + "-damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in steps:
                (self._folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        agreed(0)  # the others wait until it is done
        self._manager.reload()

    def _read(self, step: int, like: TrainState) -> Saved:
        try:
            progress = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
            found = progress.pop("format", 1)
        except (OSError, ValueError, AttributeError) as error:
            raise _DamagedError(_first_line(error)) from error
        if found not in _LACKS:
            raise UserError(
                f"{self._folder}: checkpoints of format {found}, but this program continues format {_FORMAT}; train "
                "under another --name (best/ of this run stays usable)"
            )
        # Of an epoch that it was saved in, a mean over the rest would be wrong.
        absent = jnp.zeros(()) if progress.get("batch") == 0 else jnp.full((), jnp.nan)
        zeros = zero_sums()._replace(**dict.fromkeys(_LACKS[found], absent))._asdict()
        values = {name: jax.device_put(value, like.step.sharding) for name, value in zeros.items()}
        lacking = {name: values.pop(name) for name in _LACKS[found]}
        sums = namedtuple("_Sums", values)(**values)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like, "sums": sums})
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            read = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            raise _DamagedError(_first_line(error)) from error
        if progress.pop("checksum", None) != _checksum(read, progress):
            raise _DamagedError("it has another checksum")
        return Saved(read["state"], MetricSums(**read["sums"]._asdict(), **lacking), Progress(**progress))

    def close(self) -> None:
        """Wait for the write under way."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._not_written(error) from error
        finally:
            self._manager.close()

    def _not_written(self, error: Exception) -> UserError:
        return UserError(
            f"{self._folder}: a checkpoint cannot be written ({_first_line(error)}); is the disk full? What was saved "
            "before stays, and the same command continues from there"
        )


def _checksum(arrays: Any, progress: dict[str, Any]) -> str:
    digest = xxhash.xxh3_128(json.dumps(progress, sort_keys=True).encode())
    for leaf in jax.tree.leaves(arrays):
        digest.update(np.asarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

"""Full checkpoints of a run, through Orbax: parameters, optimizer, running average, position, best-so-far."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import xxhash

from shared.errors import UserError
from train.step.devices import agreed
from train.step.metrics import MetricSums, zero_sums
from train.step.optimizer import TrainState, as_adam, from_adam

_FORMAT = 5
"""1: parameters as a tree of arrays. 2: as one vector, at the ends of epochs, numbered by them. 3: anywhere, numbered
by steps, with the sums of the epoch so far and a checksum. 4: the best score instead of the best loss, AMSGrad's state
instead of Adam's. 5: with counts of each target in the sums."""

_READ_FORMATS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Progress:
    """Where a run stands beside its arrays. The shuffle is a function of (seed, epoch), so these are all its state."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches taken of the epoch after them
    seconds: float = 0.0  # spent on those
    best_score: float | None = None  # of best_epoch; None in a checkpoint of an older format
    best_epoch: int = 0  # 0: none yet


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    sums: MetricSums  # of the epoch so far
    progress: Progress


class _EarlierSums(NamedTuple):
    """What formats 3 and 4 hold of MetricSums."""

    molecules: Any
    atoms: Any
    esp_molecules: Any
    loss: Any
    energy: Any
    forces: Any
    dipole: Any
    dipole_dcm: Any
    esp: Any
    esp_point_charges: Any
    monopole: Any

    def completed(self) -> MetricSums:
        """With the counts of each target: the data of that time lacked none."""
        counts = {"energy_molecules": self.molecules, "force_atoms": self.atoms, "dipole_molecules": self.molecules}
        return MetricSums(**self._asdict(), **counts)


class _DamagedError(Exception):
    """A checkpoint that cannot be read as it was written."""


class Checkpoints:
    """The last few checkpoints of one run, written in the background, each complete or absent."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """Number of the newest checkpoint."""
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
        """The newest checkpoint that can be read, placed as ``like`` is (None if there is none).

        Newer ones, which could not be read, are moved out of the way; the texts say which they were.

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
        """Not removed: the cause may have been a disk that is away for a moment."""
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
        if found not in _READ_FORMATS:
            raise UserError(
                f"{self._folder}: checkpoints of format {found}, but this program continues formats 2 to 5; train "
                "under another --name (best/ of this run stays usable)"
            )
        sums: Any = jax.tree.map(lambda x: jax.device_put(x, like.step.sharding), zero_sums())
        if 2 < found < 5:
            sums = _EarlierSums(*(getattr(sums, name) for name in _EarlierSums._fields))
        if found < 4:
            like = like._replace(opt_state=as_adam(like.opt_state))
        arrays: Any = {"state": like, "sums": sums} if found > 2 else like
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, arrays)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            read = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            raise _DamagedError(_first_line(error)) from error
        if found > 2 and progress.pop("checksum", None) != _checksum(read, progress):
            raise _DamagedError("it has another checksum")
        progress.pop("best_loss", None)
        state, sums = (read["state"], read["sums"]) if found > 2 else (read, sums)
        if found < 4:
            state = state._replace(opt_state=from_adam(state.opt_state))
        if 2 < found < 5:
            sums = sums.completed()
        return Saved(state, sums, Progress(**progress))

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

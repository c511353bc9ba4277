"""Full checkpoints of a run, through Orbax: parameters, optimizer, schedule position, EMA, best-so-far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from shared.errors import UserError
from train.state import TrainState

_KEPT = 2
_FORMAT = 2
"""1: parameters as a tree of arrays. 2: as one vector."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands beside its arrays. The shuffle is a function of (seed, epoch), so the epoch is its state."""

    epoch: int = 0  # epochs finished
    best_loss: float = float("inf")
    best_epoch: int = 0


class Checkpoints:
    """The last few checkpoints of one run, written in the background, each complete or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Start writing a checkpoint; the arrays are copied before this returns."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave({"format": _FORMAT, **asdict(progress)})
        )
        self._manager.save(progress.epoch, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The latest checkpoint, placed as ``like`` is; None if there is none.

        Raises:
            UserError: it was written by another version of this program.
        """
        latest = self._manager.latest_step()
        if latest is None:
            return None
        abstract: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        kept = self._manager.restore(latest, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
        found = kept.pop("format", 1)
        if found != _FORMAT:
            raise UserError(
                f"{self._folder}: checkpoints of format {found}, but this program continues format {_FORMAT}; train "
                "under another --name (best/ of this run stays usable)"
            )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(latest, args=items)["state"], Progress(**kept)

    def close(self) -> None:
        """Wait for the write under way."""
        self._manager.wait_until_finished()
        self._manager.close()

"""Full checkpoints of a run, through Orbax: parameters, optimizer, schedule position, EMA, best-so-far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from train.state import TrainState

_KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands beside its arrays. The shuffle is a function of (seed, epoch), so the epoch is its state."""

    epoch: int = 0  # epochs finished
    best_loss: float = float("inf")
    best_epoch: int = 0


class Checkpoints:
    """The last few checkpoints of one run, written in the background, each complete or absent."""

    def __init__(self, folder: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Start writing a checkpoint; the arrays are copied before this returns."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(asdict(progress)))
        self._manager.save(progress.epoch, args=items, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The latest checkpoint, placed as ``like`` is; None if there is none."""
        latest = self._manager.latest_step()
        if latest is None:
            return None
        abstract: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(latest, args=items)
        return restored["state"], Progress(**restored["progress"])

    def close(self) -> None:
        """Wait for the write under way."""
        self._manager.wait_until_finished()
        self._manager.close()

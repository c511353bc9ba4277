"""The errors of every epoch for TensorBoard and Weights & Biases, where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Any

from shared.errors import UserError
from train.config import TrainConfig
from train.run_folder import RunFolder


def require_trackers(config: TrainConfig) -> None:
    """Check that the trackers of the settings are installed; TensorBoard may be missing.

    Raises:
        UserError: --wandb, and it is not installed.
    """
    if config.wandb and _module("wandb") is None:
        raise UserError(f"--wandb {config.wandb}: wandb is not installed; .venv/bin/pip install wandb")


class Tracker:
    """Writer to the trackers of the settings; it writes nothing in a process that is not the first."""

    def __init__(self, config: TrainConfig, folder: RunFolder, epochs_done: int, active: bool = True) -> None:
        """Open the trackers of a run with ``epochs_done`` epochs, and withdraw the entries of later ones.

        Raises:
            UserError: Weights & Biases refuses to log.
        """
        tensorboard = _module("tensorboardX") if config.tensorboard and active else None
        self._writer: Any = None
        if tensorboard is not None:
            purge = epochs_done + 1 if epochs_done else None
            self._writer = tensorboard.SummaryWriter(str(folder.tensorboard), purge_step=purge)
        self._run: Any = None
        if config.wandb and active:
            wandb: Any = _module("wandb")
            try:
                self._run = wandb.init(
                    project=config.wandb,
                    name=config.name,
                    # The same run again, where it is continued.
                    id=folder.run_id,
                    resume="allow",
                    dir=str(folder.path),
                    config=asdict(config),
                )
            except wandb.errors.Error as error:
                raise UserError(f"--wandb {config.wandb}: {error}; log in, or set WANDB_MODE=offline") from error

    def log(self, record: dict[str, Any]) -> None:
        """Write one line of metrics.jsonl, as numbers named ``valid/energy_mae_ev`` and so on, over the epochs."""
        numbers = dict(_flat(record))
        epoch = int(numbers.pop("epoch"))
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()
        if self._run is not None:
            self._run.log(numbers, step=epoch)

    def close(self) -> None:
        """Close the trackers."""
        if self._writer is not None:
            self._writer.close()
        if self._run is not None:
            self._run.finish()


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}/")
        elif not isinstance(value, list):  # of single members
            yield prefix + name, value


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None

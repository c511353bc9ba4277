"""Beginning of a run's epochs from its newest checkpoint, and what must not be begun anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shared.errors import UserError
from train import run_folder
from train.data.training_facts import dipole_errors
from train.model.saved_model import TrainedModel, load_weights, save_weights
from train.run.checkpoint import Checkpoints, Progress, Saved
from train.run.session import Session
from train.run_folder import RunFolder
from train.step.devices import agreed
from train.step.optimizer import TrainState

Score = Callable[[dict[str, float]], float]
"""Function of the metrics on the validation split: the smaller, the better."""


_RESULTS = (
    *("metrics.jsonl", "best/*", "evaluation-*.json", "predictions-*.h5", "report-*.html"),
    "checkpoints-damaged/*",
)
"""Patterns of what a run without checkpoints may not have."""


def require_no_results(folder: RunFolder) -> None:
    """Check that a run without checkpoints has nothing that a new beginning would replace.

    Raises:
        UserError: it has results; names them, and what can be done.
    """
    path = folder.path
    found = [one for part in _RESULTS for one in sorted(path.glob(part)) if one.is_dir() or one.stat().st_size]
    if found:
        names = ", ".join(str(one.relative_to(path)) for one in found)
        weights = f" with --init-from {path}" if folder.best.is_dir() else ""
        raise UserError(
            f"{path}: has results ({names}) but no checkpoints, without which it cannot go on, and is not begun anew "
            f"over them; train under another --name{weights}, or delete the folder"
        )


def restore(session: Session, checkpoints: Checkpoints, score: Score) -> Saved:
    """Return the newest checkpoint that can be read, with the run's best weights there, and log what was damaged.

    Raises:
        UserError: no checkpoint can be read, or they are of another run.
    """
    config, folder = session.config, session.folder
    saved, removed = checkpoints.restore(session.steps.abstract_state())
    assert saved is not None
    for text in removed:
        session.log(f"warning: {text}; going on from the one before")
    progress = saved.progress
    records = {record["epoch"]: record for record in run_folder.read_metrics(folder, progress.epoch)}
    scores = {epoch: score(record["valid"]) for epoch, record in records.items()}
    known = progress.best_score is not None and progress.best_by == config.best_by
    if not known and progress.best_epoch in scores:
        progress = replace(progress, best_score=scores[progress.best_epoch])
    progress = _complete_best(session, saved.state, replace(progress, best_by=config.best_by), scores, records)
    missing = [str(epoch) for epoch in range(1, progress.epoch + 1) if epoch not in records]
    if missing:
        session.log(f"warning: {folder.metrics_file} has lost the metrics of epoch {', '.join(missing)}")
    return saved._replace(progress=progress)


def _complete_best(
    session: Session, state: TrainState, progress: Progress, scores: dict[int, float], records: dict[int, Any]
) -> Progress:
    """Take this state's weights for the best where those are lost or damaged; between two epochs, the next one's."""
    folder, reason = session.folder, ""
    if progress.best_epoch and session.is_first:
        try:
            load_weights(folder.best)
        except UserError as error:
            reason = str(error)
    if not agreed(int(bool(reason))):
        return progress
    if session.is_first and folder.best.exists():
        folder.best.rename(folder.best.with_name(f"best-damaged-{time.time_ns()}"))
    if progress.batch or not progress.epoch:
        session.log(f"warning: {reason}; the next epoch's weights are the best from here on")
        return replace(progress, best_score=None, best_epoch=0)
    save_best(session, state, records.get(progress.epoch, {}).get("valid", {}))
    session.log(f"warning: {reason}; best/ holds the weights of epoch {progress.epoch} now")
    return replace(progress, best_score=scores.get(progress.epoch), best_epoch=progress.epoch)


def save_best(session: Session, state: TrainState, valid_metrics: dict[str, float]) -> None:
    """Write the averaged weights of a state to best/, with its errors on the validation split, in the first process."""
    if session.is_first:
        params = session.steps.parameters.to_host(state.ema_params)
        facts = replace(session.facts, dipole_errors=dipole_errors(valid_metrics))
        trained = TrainedModel(session.config, session.cache.reference_energies_ev, params, facts)
        save_weights(session.folder.best, trained)

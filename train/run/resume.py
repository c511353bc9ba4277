"""Beginning of a run's epochs from its newest checkpoint, and what must not be begun anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shared.errors import UserError
from train import run_folder
from train.data.training_facts import dipole_errors
from train.model.members import split_members
from train.model.saved_model import TrainedModel, load_weights, save_weights
from train.run.checkpoint import Best, Checkpoints, Saved
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
    bests = []
    for member, best in enumerate(progress.bests):
        valid = {epoch: found[member] for epoch, record in records.items() if (found := valid_metrics(record))[member:]}
        known = best.score is not None and progress.best_by == config.best_by
        if not known and best.epoch in valid:
            best = replace(best, score=score(valid[best.epoch]))
        bests.append(_complete_best(session, saved, member, best, valid.get(progress.epoch), score))
    progress = replace(progress, best_by=config.best_by).with_bests(bests)
    missing = [str(epoch) for epoch in range(1, progress.epoch + 1) if epoch not in records]
    if missing:
        session.log(f"warning: {folder.metrics_file} has lost the metrics of epoch {', '.join(missing)}")
    return saved._replace(progress=progress)


def valid_metrics(record: dict[str, Any]) -> list[dict[str, float]]:
    """Return the errors of each model on the validation split, in a line of metrics.jsonl."""
    return [one["valid"] for one in record.get("members", [record])]


def _complete_best(
    session: Session, saved: Saved, member: int, best: Best, valid: dict[str, float] | None, score: Score
) -> Best:
    """Take this state's weights for the best where those are lost or damaged; between two epochs, the next one's.

    Args:
        session: of the run.
        saved: the newest checkpoint.
        member: whose best weights.
        best: their epoch.
        valid: the member's errors in the checkpoint's epoch, if they are known.
        score: of errors.
    """
    progress, reason = saved.progress, ""
    path = session.folder.best_folders(session.config.members)[member]
    if best.epoch and session.is_first:
        try:
            load_weights(path)
        except UserError as error:
            reason = str(error)
    if not agreed(int(bool(reason))):
        return best
    if session.is_first and path.exists():
        path.rename(session.folder.path / f"{path.name}-damaged-{time.time_ns()}")
    if progress.batch or not progress.epoch:
        session.log(f"warning: {reason}; the next epoch's weights are the best from here on")
        return Best()
    save_best(session, saved.state, {member: valid or {}})
    name = path.relative_to(session.folder.path)
    session.log(f"warning: {reason}; {name}/ holds the weights of epoch {progress.epoch} now")
    return Best(score(valid) if valid else None, progress.epoch)


def save_best(session: Session, state: TrainState, improved: dict[int, dict[str, float]]) -> None:
    """Write the averaged weights of some models of a state to best/, in the first process.

    Args:
        session: of the run.
        state: all models'.
        improved: the errors on the validation split of those models, by their number.
    """
    if not session.is_first:
        return
    vectors = split_members(state.ema_params, session.config.members)
    for member, metrics in improved.items():
        facts = replace(session.facts, dipole_errors=dipole_errors(metrics))
        params = session.steps.parameters.to_host(vectors[member])
        trained = TrainedModel(session.config, session.cache.reference_energies_ev, params, facts)
        save_weights(session.folder.best_folders(session.config.members)[member], trained)

"""Diagnosis of a run that diverged: the step, its molecules, the largest gradient, and the checkpoint before it."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import numpy as np

from shared.errors import UserError
from shared.files import write_atomically
from shared.schema import NAME_ARRAY
from train.data.loader import BatchPlan
from train.model.members import split_members
from train.run.checkpoint import Progress
from train.run.session import Session
from train.step.optimizer import TrainState

_MOLECULES_NAMED = 4


def diverged(session: Session, state: TrainState, progress: Progress, checkpoint: int | None) -> UserError:
    """Return the error that ends the run, and write all details to ``divergence.json``.

    Of an ensemble it is about the member whose step was refused first.

    Args:
        session: of the run.
        state: before the step that was refused, and with its number.
        progress: of the epoch in which that was.
        checkpoint: the latest one, if there is any.
    """
    taken = np.atleast_1d(jax.device_get(state.step))
    member = int(taken.argmin())  # the others went on
    step = int(taken[member])
    plans = session.plans(progress.epoch)
    batch = step - progress.epoch * len(plans)
    plan = plans[batch]
    molecules = _molecules(session, plan)
    norms, loss = _gradient_norms(session, state, plan, member)
    # NaN counts as the largest of all.
    largest = max(norms, key=lambda name: math.inf if math.isnan(norms[name]) else norms[name])
    best_epoch = progress.bests[member].epoch
    name = session.folder.best_folders(len(taken))[member].relative_to(session.folder.path)
    best = f"{name}/ holds epoch {best_epoch}" if best_epoch else f"there is no {name}/ yet"
    kept = f"checkpoints/{checkpoint} is the latest state" if checkpoint is not None else "no checkpoint was saved yet"
    record: dict[str, Any] = {
        "step": step,
        "epoch": progress.epoch + 1,
        "batch": batch + 1,
        "loss": loss,
        "largest_loss": session.config.largest_loss,
        "molecules": molecules,
        "gradient_norms": norms,
        "best_epoch": best_epoch,
        "checkpoint": checkpoint,
    }
    if len(taken) > 1:
        record["member"] = member
    path = session.folder.divergence_file
    if session.is_first:
        write_atomically(path, json.dumps(record, indent=1).encode())
    shown = ", ".join(f"row {molecule['row']} {molecule['name']}".rstrip() for molecule in molecules[:_MOLECULES_NAMED])
    more = ", ..." if len(molecules) > _MOLECULES_NAMED else ""
    bound = session.config.largest_loss
    whose = f"member {member} (seed {session.config.seed + member}) " if len(taken) > 1 else ""
    return UserError(
        f"{session.folder.path}: {whose}diverged at step {step} (epoch {progress.epoch + 1}, batch {batch + 1} of "
        f"{len(plans)}): loss {loss:.3g} (--largest-loss {bound:.3g}), largest gradient {norms[largest]:.3g} of "
        f"{largest}, training molecules {shown}{more} (all in {path}); {best}, {kept}: look at these molecules, or "
        f"start another --name with a lower --learning-rate, --init-from {session.folder.path} if best/ is good"
    )


def _molecules(session: Session, plan: BatchPlan) -> list[dict[str, Any]]:
    bucket = session.loader.buckets[plan.bucket]
    names = (bytes(name).decode("utf-8", "replace") for name in bucket.take(NAME_ARRAY, plan.rows))
    rows = (int(row) for row in bucket.take("row", plan.rows))
    return [{"row": row, "name": name} for row, name in zip(rows, names, strict=True)]


def _gradient_norms(
    session: Session, state: TrainState, plan: BatchPlan, member: int
) -> tuple[dict[str, float], float]:
    """Return the norm of the loss's gradient for each array of a member's parameters, and the loss."""
    steps, loader = session.steps, session.loader
    batch = loader.read(plan, steps.devices.own_part(loader.places))
    params = steps.devices.place(split_members(state.params, steps.members)[member])
    gradient, loss, _ = steps.gradient(params, steps.devices.place_batch(batch, loader.places))
    tree = steps.parameters.to_host(gradient)
    norms = [float(np.linalg.norm(leaf.astype(np.float64))) for leaf in jax.tree.leaves(tree)]
    return dict(zip((name for name, _ in steps.parameters.shapes), norms, strict=True)), float(loss)

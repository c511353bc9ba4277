"""A run from start to end: epochs, evaluation, best weights, checkpoints, and its output."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from shared.errors import Interrupted, UserError
from shared.log import log_file
from train import run_folder
from train.config import TrainConfig
from train.data.quantities import DIPOLE, DIPOLE_DCM, ENERGY, ESP, FORCES
from train.evaluation.evaluator import evaluate_split, finish_run
from train.model.members import split_members
from train.run.checkpoint import Best, Checkpoints, Progress, Saved
from train.run.compile_progress import CompileProgress
from train.run.divergence import diverged
from train.run.epoch import Dispatched, EpochRunner
from train.run.interruption import Interruption, stopped
from train.run.resume import require_no_results, restore, save_best
from train.run.session import Session, describe_session, first_state, open_session, prepare_evaluation, split_loader
from train.run.tracking import Tracker
from train.run.watchdog import Watchdog
from train.step.compiled_steps import Steps
from train.step.devices import agreed, largest, own_devices
from train.step.losses import loss_weights
from train.step.metrics import mean_error, mean_metrics, named_metrics
from train.step.optimizer import TrainState

_SAVE, _DIVERGED = 1, 1000
"""Actions after a dispatch, beside the number of a signal: the largest of all processes' numbers counts."""

_STEPS_BETWEEN_AGREEMENTS = 20
"""Steps between agreements: several processes act after the same step, and agreeing makes the devices wait."""


def train(config: TrainConfig) -> Path:
    """Train, or continue, the run that the settings name, and return its folder.

    Raises:
        UserError: no such preprocessed data, a folder that holds another run, or a diverged training.
        Interrupted: a signal asked to stop; everything is saved.
    """
    with Interruption() as interruption, Watchdog(interruption) as watchdog:
        session = open_session(config, interruption)
        try:
            path = session.folder.log_file if session.is_first else None
            with log_file(path, shlex.join(sys.orig_argv)):
                watchdog.watch(session.steps, session.folder)
                _train(session)
        finally:
            session.steps.close()
            session.lock.release()
    return session.folder.path


def _train(session: Session) -> None:
    for text in describe_session(session):
        session.log(text)
    with _Training(session) as training:
        training.run()
    session.interruption.release("after the last epoch, and saved; the same command evaluates it")
    _finish(session, plots=session.config.plot_results)


class _Training:
    """The epochs of a run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._config = session.config
        self._epochs = EpochRunner(session.blocks)
        self._compiling = CompileProgress(session.steps, session.log)
        folder = session.folder
        self._checkpoints = Checkpoints(folder.checkpoints, session.config.keep_checkpoints, folder.run_id)
        self._saved_at = time.monotonic()
        self._evaluations: list[Future[Any]] = []
        self._state: TrainState
        self._sums: Any
        self._progress: Progress
        self._tracker: Tracker | None = None

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoints.close()
        if self._tracker is not None:
            self._tracker.close()

    def run(self) -> None:
        """Train the epochs that the run still lacks."""
        session, config = self._session, self._config
        self._begin()
        self._tracker = Tracker(config, session.folder, self._progress.epoch, active=session.is_first)
        while self._progress.epoch < config.epochs and not self._stops_early():
            train_metrics = self._train_epoch()
            valid_metrics = self._evaluate()
            if not math.isfinite(mean_metrics(valid_metrics)["loss"]):
                raise UserError(
                    f"{session.folder.path}: the validation loss of epoch {self._progress.epoch + 1} is not a number, "
                    "though the training loss is: look for values that are not finite in the validation split "
                    "(make check-data), or train with a lower --learning-rate"
                )
            self._end_epoch(train_metrics, valid_metrics)
        if self._stops_early():
            session.log(
                f"no better epoch for the last {config.early_stopping} (--early-stopping): the best was "
                f"epoch {', '.join(str(best.epoch) for best in self._progress.bests)}"
            )

    def _begin(self) -> None:
        """Load the newest checkpoint's state, or create the first one, while the steps are being compiled."""
        session = self._session
        steps = session.steps
        new = self._checkpoints.latest() is None
        if new:
            require_no_results(session.folder)
        creating = steps.prepare_create() if new else None
        self._epochs.prepare(session.plans(0))
        self._evaluations = prepare_evaluation(session)
        # All tracing ends before the first step begins, see Steps; what is traced is compiled meanwhile and afterwards.
        session.interruption.wait_for(steps.traced(), self._compiling.report)
        if creating is not None:
            session.interruption.wait_for(creating, self._compiling.report)
            self._state = first_state(session)
            self._progress = Progress.before(self._config.members, self._config.best_by)
            self._sums = steps.zero_sums()
            # So that a run with results has a checkpoint, and what cannot be saved is known before any work.
            self._save()
        else:
            self._state, self._sums, self._progress = restore(session, self._checkpoints, self._score)
        if session.is_first:
            records = run_folder.read_metrics(session.folder, self._progress.epoch)
            run_folder.rewrite_metrics(session.folder, records)
        session.interruption.keep()
        self._log_where()

    def _score(self, valid_metrics: dict[str, float]) -> float:
        if self._config.best_by == "loss":
            return valid_metrics["loss"]
        return mean_error(valid_metrics, loss_weights(self._config))

    def _log_where(self) -> None:
        epoch, batch, epochs = self._progress.epoch, self._progress.batch, self._config.epochs
        if epoch >= epochs:
            self._session.log(f"this run has finished its {epoch} epochs; more --epochs (make's EPOCHS=) continue it")
        elif batch:
            batches = self._session.loader.batches_per_epoch
            self._session.log(f"continuing in epoch {epoch + 1} of {epochs}, after batch {batch} of {batches}")
        elif epoch:
            self._session.log(f"continuing after epoch {epoch} of {epochs}")

    def _stops_early(self) -> bool:
        patience, progress = self._config.early_stopping, self._progress
        return bool(patience) and progress.best_epoch > 0 and progress.epoch - progress.best_epoch >= patience

    def _train_epoch(self) -> dict[str, float]:
        session, done = self._session, self._progress.batch
        plans = session.plans(self._progress.epoch)
        start = time.perf_counter() - self._progress.seconds
        with tqdm(
            total=len(session.loader),
            initial=sum(len(plan.rows) for plan in plans[:done]),
            desc=f"epoch {self._progress.epoch + 1}",
            unit="mol",
            leave=False,
            disable=None if session.is_first else True,
        ) as bar:
            for loss, dispatched in self._dispatches(plans[done:]):
                self._progress = replace(
                    self._progress,
                    batch=self._progress.batch + dispatched.steps,
                    seconds=time.perf_counter() - start,
                )
                bar.update(dispatched.molecules)
                if loss is not None:
                    bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                self._answer(loss, dispatched.steps)
        metrics = mean_metrics([named_metrics(sums) for sums in split_members(self._sums, self._config.members)])
        self._progress = replace(self._progress, seconds=time.perf_counter() - start)
        if not math.isfinite(metrics["loss"]):
            raise self._diverged()
        return metrics

    def _dispatches(self, plans: list[Any]) -> Iterator[tuple[float | None, Dispatched]]:
        """Yield each dispatch, and a loss if one has arrived that was not seen yet.

        Asking for one that has not arrived would make the device wait for the host.
        """
        waiting: Any = None
        for dispatched in self._epochs.run(self._state, self._sums, plans, self._while_compiling):
            # These replace the arguments, whose memory is donated.
            self._state, self._sums = dispatched.state, dispatched.sums
            loss = None
            if waiting is not None and waiting.is_ready():
                loss, waiting = float(np.mean(waiting)), None  # of members, NaN if that of one is
            waiting = dispatched.loss if waiting is None else waiting
            yield loss, dispatched

    def _while_compiling(self) -> None:
        self._compiling.report()
        self._answer(None, 0)

    def _answer(self, loss: float | None, steps: int) -> None:
        """Save, stop, or end with the diagnosis of a divergence, if it is time to."""
        todo = _DIVERGED if loss is not None and not math.isfinite(loss) else self._session.interruption.asked
        todo = todo or (_SAVE if self._save_is_due else 0)
        if jax.process_count() > 1:
            before = self._progress.batch - steps
            if before // _STEPS_BETWEEN_AGREEMENTS == self._progress.batch // _STEPS_BETWEEN_AGREEMENTS:
                return
            todo = largest(todo)
        if todo == _DIVERGED:
            raise self._diverged()
        if todo:
            self._save()
        if todo > _SAVE:
            raise self._stopped(todo)

    def _evaluate(self) -> list[dict[str, float]]:
        """Return the errors of each member on the validation split."""
        session = self._session

        def answer() -> None:
            self._compiling.report()
            if session.interruption.asked and jax.process_count() == 1:
                self._save()
                raise self._stopped(session.interruption.asked)

        for future in self._evaluations:
            session.interruption.wait_while(future, answer)
        self._evaluations = []
        evaluated = evaluate_split(session.steps, self._state.ema_params, session.valid, not session.is_first, answer)
        return evaluated[: self._config.members]

    def _end_epoch(self, train_metrics: dict[str, float], valid_metrics: list[dict[str, float]]) -> None:
        session, config = self._session, self._config
        epoch = self._progress.epoch + 1
        seconds = self._progress.seconds
        self._progress = replace(self._progress, epoch=epoch, batch=0, seconds=0.0)
        self._sums = session.steps.zero_sums()
        self._checkpoints.wait_for_first()
        bests, improved = list(self._progress.bests), {}
        for member, metrics in enumerate(valid_metrics):
            score, before = self._score(metrics), bests[member].score
            if before is None or score < before:
                bests[member], improved[member] = Best(score, epoch), metrics
        self._progress = self._progress.with_bests(bests)
        if improved:
            save_best(session, self._state, improved)
        record = {
            "epoch": epoch,
            "seconds": seconds,
            "samples_per_second": len(session.loader) / seconds,
            "input_wait_seconds": self._epochs.input_wait,
            "best_epoch": self._progress.best_epoch,
            "train": train_metrics,
            "valid": mean_metrics(valid_metrics),
        }
        if config.members > 1:
            record["members"] = [
                {"seed": config.seed + member, "best_epoch": best.epoch, "valid": metrics}
                for member, (best, metrics) in enumerate(zip(bests, valid_metrics, strict=True))
            ]
        if session.is_first:
            run_folder.append_metrics(session.folder, record)
        if self._tracker is not None:
            self._tracker.log(record)
        session.log(_epoch_line(record, config.epochs, best=self._progress.best_epoch == epoch))
        last = epoch == config.epochs or self._stops_early()
        named = bool(config.checkpoint_epochs) and epoch % config.checkpoint_epochs == 0
        if last or named or agreed(self._save_is_due):
            self._save()
        if not last and (asked := largest(session.interruption.asked)):
            self._save()
            raise self._stopped(asked)
        if config.plot_freq and epoch % config.plot_freq == 0 and not last:
            _finish(session, plots=True, quiet=True)

    @property
    def _save_is_due(self) -> bool:
        minutes = self._config.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_at > 60.0 * minutes

    def _save(self) -> None:
        # A loss arrives late: a refused step may be among those of this state, which must not be gone on from.
        if not np.isfinite(self._sums.loss).all():
            raise self._diverged()
        # An epoch has one place more than batches: that after the last one, before its evaluation.
        places = self._session.loader.batches_per_epoch + 1
        step = self._progress.epoch * places + self._progress.batch
        self._checkpoints.save(Saved(self._state, self._sums, self._progress), step)
        self._saved_at = time.monotonic()

    def _stopped(self, number: int) -> Interrupted:
        progress = self._progress
        where = f"after batch {progress.batch} of epoch {progress.epoch + 1}"
        if not progress.batch:
            where = f"after epoch {progress.epoch}" if progress.epoch else "before the first step"
        return stopped(number, f"{where}, and saved; the same command continues there")

    def _diverged(self) -> Exception:
        return diverged(self._session, self._state, self._progress, self._checkpoints.latest())


def _finish(session: Session, plots: bool, quiet: bool = False) -> None:
    """Evaluate the best weights in the first process, which can look only at arrays of its own devices."""
    if not session.is_first:
        return
    steps, valid = session.steps, session.valid
    if jax.process_count() > 1:
        own = own_devices()
        steps = Steps(session.config, valid.batches_per_epoch, own)
        valid = split_loader(session.cache, "valid", session.config, own)
    fitted_charges = session.config.limits == "on" and not quiet
    finish_run(
        session.folder,
        steps,
        valid,
        "valid",
        plots,
        quiet,
        fitted_charges=fitted_charges,
        training=lambda: None if session.config.init_from else session.loader,
    )


_SHOWN = (("E", 2, (ENERGY,)), ("F", 1, (FORCES,)), ("D", 4, (DIPOLE, DIPOLE_DCM)), ("ESP", 3, (ESP,)))
"""Label, digits and quantities in the line of an epoch."""


def _epoch_line(record: dict[str, Any], epochs: int, best: bool) -> str:
    valid = record["valid"]
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        f"{record['samples_per_second']:6.0f} mol/s",
        f"loss {record['train']['loss']:.4g} / {valid['loss']:.4g}",
    ]
    # Errors without references in the validation split are left out.
    for label, digits, quantities in _SHOWN:
        known = [valid[one.metric] * one.error_factor for one in quantities if one.metric in valid]
        if known:
            errors = " / ".join(f"{error:.{digits}f}" for error in known)
            parts.append(f"{label} {errors} {quantities[0].error_unit}")
    return "  ".join(parts + ["*"] * best)

"""A run from start to end: epochs, evaluation, best weights, checkpoints, and what is printed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from shared.cache import Cache, open_cache
from shared.errors import UserError
from train import run_folder
from train.checkpoint import Checkpoints, Progress
from train.config import TrainConfig
from train.esp_points import EspSelection
from train.evaluation import evaluate_split, finish_run
from train.joint import build_model
from train.loader import Loader
from train.losses import loss_weights
from train.metrics import METRIC_NAMES, named_metrics, zero_sums
from train.run_folder import RunFolder
from train.state import TrainState, build_optimizer, create_state, state_sharding
from train.step import Steps, build_steps
from train.weights import TrainedModel, save_weights

_SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class Session:
    """What stays fixed while a run trains."""

    config: TrainConfig
    cache: Cache
    folder: RunFolder
    train: Loader
    valid: Loader
    steps: Steps


def train(config: TrainConfig) -> Path:
    """Train, or continue, the run that the settings name; returns its folder.

    Raises:
        UserError: no such preprocessed data, a folder that holds another run, or a diverged training.
    """
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    loaders = {split: split_loader(cache, split, config) for split in ("train", "valid")}
    folder = run_folder.prepare_run(config, cache)
    model = build_model(config)
    optimizer = build_optimizer(config, loaders["train"].batches_per_epoch)
    steps = build_steps(model, loss_weights(config), optimizer, config.ema_decay)
    session = Session(config, cache, folder, loaders["train"], loaders["valid"], steps)
    example = session.train.read(session.train.plan()[0])
    print(f"train: {len(session.train):,} molecules, {len(session.train.buckets)} bucket(s), run {folder.path}")
    state = create_state(model, optimizer, example, config.seed)
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        state, progress = _resume(session, checkpoints, state)
        _epochs(session, checkpoints, state, progress)
    finally:
        checkpoints.close()
    finish_run(folder, steps, session.valid, "valid", config.plot_results)
    return folder.path


def split_loader(cache: Cache, split: Any, config: TrainConfig) -> Loader:
    """The batches of one split.

    Raises:
        UserError: the split was not preprocessed.
    """
    if not cache.has_split(split):
        raise UserError(f"{cache.frames_folder}: no {split} split; preprocess with --{split}-efd and --{split}-esp")
    selection = EspSelection(config.esp_radius_factor, config.esp_min_distance, config.esp_max_value)
    return Loader(cache.load_split(split), config.batch_size, selection)


def _resume(session: Session, checkpoints: Checkpoints, state: TrainState) -> tuple[TrainState, Progress]:
    restored = checkpoints.restore(state)
    if restored is None:
        run_folder.rewrite_metrics(session.folder, [])
        return state, Progress()
    state, progress = restored
    run_folder.rewrite_metrics(session.folder, run_folder.read_metrics(session.folder, progress.epoch))
    if progress.epoch >= session.config.epochs:
        print(f"this run has finished its {progress.epoch} epochs; more --epochs (make's EPOCHS=) continue it")
    else:
        print(f"continuing after epoch {progress.epoch} of {session.config.epochs}")
    return state, progress


def _epochs(session: Session, checkpoints: Checkpoints, state: TrainState, progress: Progress) -> None:
    config = session.config
    saved_at = time.monotonic()
    for epoch in range(progress.epoch, config.epochs):
        start = time.perf_counter()
        state, train_metrics = _train_epoch(session, state, epoch)
        seconds = time.perf_counter() - start
        valid_metrics = evaluate_split(session.steps, state.ema_params, session.valid)
        loss = valid_metrics["loss"]
        progress = replace(progress, epoch=epoch + 1)
        if loss < progress.best_loss:
            progress = replace(progress, best_loss=loss, best_epoch=epoch + 1)
            _save_best(session, state)
        record = {
            "epoch": epoch + 1,
            "seconds": seconds,
            "samples_per_second": len(session.train) / seconds,
            "train": train_metrics,
            "valid": valid_metrics,
        }
        run_folder.append_metrics(session.folder, record)
        print(_epoch_line(record, config.epochs, best=progress.best_epoch == epoch + 1))
        last = epoch + 1 == config.epochs
        if last or time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
            checkpoints.save(state, progress)
            saved_at = time.monotonic()
        if config.plot_freq and (epoch + 1) % config.plot_freq == 0 and not last:
            finish_run(session.folder, session.steps, session.valid, "valid", plots=True, quiet=True)


def _train_epoch(session: Session, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, float]]:
    sums = jax.device_put(zero_sums(), state_sharding())
    plans = session.train.plan(session.config.seed, epoch)
    shown: Any = None
    with tqdm(total=len(session.train), desc=f"epoch {epoch + 1}", unit="mol", leave=False, disable=None) as bar:
        for plan, batch in session.train.stream(plans):
            state, sums, loss = session.steps.train(state, sums, batch)
            # Only a loss that has arrived is shown: asking for one that has not would make the device wait.
            if shown is not None and shown.is_ready():
                bar.set_postfix(loss=f"{float(shown):.4g}", refresh=False)
                shown = None
            shown = loss if shown is None else shown
            bar.update(len(plan.rows))
        metrics = named_metrics(sums)
    if not math.isfinite(metrics["loss"]):
        raise UserError(
            f"{session.folder.path}: the loss became {metrics['loss']} in epoch {epoch + 1}; lower --learning-rate or "
            "--grad-clip-norm and start under another --name (the best weights so far are kept)"
        )
    return state, metrics


def _save_best(session: Session, state: TrainState) -> None:
    params = jax.tree.map(np.asarray, jax.device_get(state.ema_params))
    save_weights(session.folder.best, TrainedModel(session.config, session.cache.reference_energies_ev, params))


def _epoch_line(record: dict[str, Any], epochs: int, best: bool) -> str:
    valid = record["valid"]
    _, energy, forces, dipole, dipole_dcm, esp, *_ = (valid.get(name, math.nan) for name in METRIC_NAMES)
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  {record['samples_per_second']:6.0f} mol/s  "
        f"loss {record['train']['loss']:.4g} / {valid['loss']:.4g}  "
        f"E {energy * 1000:.2f} meV  F {forces * 1000:.1f} meV/Å  "
        f"D {dipole:.4f} / {dipole_dcm:.4f} D  ESP {esp:.3f} kcal/mol/e{'  *' if best else ''}"
    )

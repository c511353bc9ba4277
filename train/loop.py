"""A run from start to end: epochs, evaluation, best weights, checkpoints, and what is printed."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from shared.cache import Cache, open_cache
from shared.errors import UserError
from train import run_folder
from train.checkpoint import Checkpoints, Progress
from train.compiled import Steps
from train.config import TrainConfig
from train.devices import Devices, agreed, all_devices, own_devices
from train.esp_points import EspSelection
from train.evaluation import evaluate_split, finish_run
from train.feed import Feed, ResidentFeed, build_feed
from train.loader import Loader
from train.metrics import METRIC_NAMES, named_metrics, zero_sums
from train.run_folder import RunFolder
from train.state import TrainState
from train.weights import TrainedModel, save_weights

_SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class Session:
    """What stays fixed while a run trains."""

    config: TrainConfig
    cache: Cache
    folder: RunFolder
    steps: Steps
    feed: Feed
    valid: Loader

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.steps.devices.is_first


def train(config: TrainConfig) -> Path:
    """Train, or continue, the run that the settings name; returns its folder.

    Raises:
        UserError: no such preprocessed data, a folder that holds another run, or a diverged training.
    """
    session = _open(config)
    checkpoints = Checkpoints(session.folder.checkpoints)
    try:
        with ThreadPoolExecutor(1) as pool:
            # At the same time: each is partly Python's work, and partly the compiler's.
            creating = pool.submit(session.steps.create_state, config.seed)
            session.feed.prepare(session.feed.loader.plan(config.seed))
            state, progress = _resume(session, checkpoints, creating.result())
        _epochs(session, checkpoints, state, progress)
    finally:
        checkpoints.close()
    _finish(session, plots=config.plot_results)
    return session.folder.path


def _open(config: TrainConfig) -> Session:
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    devices = all_devices()
    loader, valid = (split_loader(cache, split, config, devices) for split in ("train", "valid"))
    folder = run_folder.prepare_run(config, cache, write=devices.is_first)
    steps = Steps(config, loader.batches_per_epoch, devices)
    feed = build_feed(config, steps, loader)
    if devices.is_first:
        where = "on the device" if isinstance(feed, ResidentFeed) else "streamed"
        print(
            f"train: {len(loader):,} molecules, {len(loader.buckets)} bucket(s), {where}; "
            f"{devices.count} {devices.platform} device(s); run {folder.path}"
        )
    return Session(config, cache, folder, steps, feed, valid)


def split_loader(cache: Cache, split: Any, config: TrainConfig, devices: Devices) -> Loader:
    """The batches of one split, in arrays that divide among the devices.

    Raises:
        UserError: the split was not preprocessed.
    """
    if not cache.has_split(split):
        raise UserError(f"{cache.frames_folder}: no {split} split; preprocess with --{split}-efd and --{split}-esp")
    selection = EspSelection(config.esp_radius_factor, config.esp_min_distance, config.esp_max_value)
    return Loader(cache.load_split(split), config.batch_size, selection, devices.count)


def _resume(session: Session, checkpoints: Checkpoints, state: TrainState) -> tuple[TrainState, Progress]:
    restored = checkpoints.restore(state)
    state, progress = restored or (state, Progress())
    if not session.is_first:
        return state, progress
    run_folder.rewrite_metrics(session.folder, run_folder.read_metrics(session.folder, progress.epoch))
    if progress.epoch >= session.config.epochs:
        print(f"this run has finished its {progress.epoch} epochs; more --epochs (make's EPOCHS=) continue it")
    elif progress.epoch:
        print(f"continuing after epoch {progress.epoch} of {session.config.epochs}")
    return state, progress


def _epochs(session: Session, checkpoints: Checkpoints, state: TrainState, progress: Progress) -> None:
    config = session.config
    saved_at = time.monotonic()
    for epoch in range(progress.epoch, config.epochs):
        start = time.perf_counter()
        state, train_metrics = _train_epoch(session, state, epoch)
        seconds = time.perf_counter() - start
        valid_metrics = evaluate_split(session.steps, state.ema_params, session.valid, quiet=not session.is_first)
        loss = valid_metrics["loss"]
        progress = replace(progress, epoch=epoch + 1)
        if loss < progress.best_loss:
            progress = replace(progress, best_loss=loss, best_epoch=epoch + 1)
            _save_best(session, state)
        record = {
            "epoch": epoch + 1,
            "seconds": seconds,
            "samples_per_second": len(session.feed.loader) / seconds,
            "input_wait_seconds": session.feed.input_wait,
            "train": train_metrics,
            "valid": valid_metrics,
        }
        if session.is_first:
            run_folder.append_metrics(session.folder, record)
            print(_epoch_line(record, config.epochs, best=progress.best_epoch == epoch + 1))
        last = epoch + 1 == config.epochs
        if last or agreed(time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS):
            checkpoints.save(state, progress)
            saved_at = time.monotonic()
        if config.plot_freq and (epoch + 1) % config.plot_freq == 0 and not last:
            _finish(session, plots=True, quiet=True)


def _train_epoch(session: Session, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, float]]:
    sums = session.steps.devices.place(zero_sums())
    plans = session.feed.loader.plan(session.config.seed, epoch)
    hidden = None if session.is_first else True
    shown: Any = None
    total = len(session.feed.loader)
    with tqdm(total=total, desc=f"epoch {epoch + 1}", unit="mol", leave=False, disable=hidden) as bar:
        for done in session.feed.epoch(state, sums, plans):
            # These replace the arrays that went in, whose memory is given up.
            state, sums = done.state, done.sums
            # Only a loss that has arrived is shown: asking for one that has not would make the device wait.
            if shown is not None and shown.is_ready():
                bar.set_postfix(loss=f"{float(shown):.4g}", refresh=False)
                shown = None
            shown = done.loss if shown is None else shown
            bar.update(done.molecules)
        metrics = named_metrics(sums)
    if not math.isfinite(metrics["loss"]):
        raise UserError(
            f"{session.folder.path}: the loss became {metrics['loss']} in epoch {epoch + 1}; lower --learning-rate or "
            "--grad-clip-norm and start under another --name (the best weights so far are kept)"
        )
    return state, metrics


def _save_best(session: Session, state: TrainState) -> None:
    if session.is_first:
        params = session.steps.parameters.to_host(state.ema_params)
        save_weights(session.folder.best, TrainedModel(session.config, session.cache.reference_energies_ev, params))


def _finish(session: Session, plots: bool, quiet: bool = False) -> None:
    """Evaluate the best weights in the first process, which can look only at arrays of its own devices."""
    if not session.is_first:
        return
    steps, valid = session.steps, session.valid
    if jax.process_count() > 1:
        own = own_devices()
        steps = Steps(session.config, valid.batches_per_epoch, own)
        valid = split_loader(session.cache, "valid", session.config, own)
    finish_run(session.folder, steps, valid, "valid", plots, quiet)


def _epoch_line(record: dict[str, Any], epochs: int, best: bool) -> str:
    valid = record["valid"]
    _, energy, forces, dipole, dipole_dcm, esp, *_ = (valid.get(name, math.nan) for name in METRIC_NAMES)
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  {record['samples_per_second']:6.0f} mol/s  "
        f"loss {record['train']['loss']:.4g} / {valid['loss']:.4g}  "
        f"E {energy * 1000:.2f} meV  F {forces * 1000:.1f} meV/Å  "
        f"D {dipole:.4f} / {dipole_dcm:.4f} D  ESP {esp:.3f} kcal/mol/e{'  *' if best else ''}"
    )

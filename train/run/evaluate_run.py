"""Errors, pictures and predictions of a trained run, on the data that it was trained with or on other data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shared.data_record import describe_data
from shared.errors import UserError
from shared.log import log
from shared.schema import Split
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.loader import Loader
from train.evaluation.evaluator import finish_run
from train.model.saved_model import load_weights
from train.run.run_data import open_own_data
from train.run.session import fit_to_data, split_loader
from train.run_folder import RunFolder, load_config, load_data_record
from train.step.compiled_steps import Steps
from train.step.devices import own_devices, start_devices


def evaluate_run(
    path: Path,
    split: Split,
    cache_dir: Path | None = None,
    plots: bool = True,
    predictions: bool = True,
    fitted_charges: bool = True,
    output: Path | None = None,
) -> None:
    """Evaluate the best weights of a run on one split, print the errors and write them into its folder.

    Args:
        path: folder of the run.
        split: to evaluate.
        cache_dir: preprocessed data, of which the latest are evaluated; None for those of the training.
        plots: draw scatter plots and ESP pictures.
        predictions: write every prediction beside its reference.
        fitted_charges: fit charges to single molecules, to compare with.
        output: folder to write to instead, as where the run is another user's.

    Raises:
        UserError: no such run, its data are no longer in the cache, or other data that its model does not fit.
    """
    folder = RunFolder(path)
    # This process evaluates alone, however many trained.
    config = replace(load_config(folder), distributed=False, coordinator="", processes=1, process_id=0)
    trained = [load_weights(best) for best in folder.best_folders(config.members)]
    start_devices(config)
    own = load_data_record(folder)
    if cache_dir:
        cache = open_cache(cache_dir, config.physnet_cutoff, config.dcmnet_cutoff)
    else:
        cache = open_own_data(folder, config)
    log.info(f"evaluate: data: {describe_data(cache.record, split)}")
    if cache.record["frames"] != own["frames"]:
        log.info(f"note: {folder.path} was trained on other data, {describe_data(own)}")
        trained = [fit_to_data(member, cache, folder.path) for member in trained]
        # Kept apart from the errors on the training's own data.
        output = output or folder.path / "other-data" / cache.record["frames"][:12]
    devices = own_devices()
    loader = split_loader(cache, split, config, devices)
    steps = Steps(config, loader.batches_per_epoch, devices)
    finish_run(
        folder,
        steps,
        loader,
        split,
        plots,
        trained=trained,
        predictions=predictions,
        fitted_charges=fitted_charges,
        output=RunFolder(output) if output else None,
        training=lambda: _training_split(folder, config),
    )


def _training_split(folder: RunFolder, config: TrainConfig) -> Loader | None:
    """Return the training split of a run; None if it is no longer in its cache, or the weights saw other data too."""
    if config.init_from:
        return None
    try:
        return split_loader(open_own_data(folder, config), "train", config, own_devices())
    except UserError:
        return None

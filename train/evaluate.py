"""``python -m train.evaluate``: errors, pictures and predictions of a trained run on one split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.config_io import parse_flags
from shared.errors import run_program
from shared.schema import Split


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate the best weights of a run on one split of the data that it was trained with, or of other data."""

    run: str
    """Folder of the run, runs/NAME."""

    split: Split = "test"
    """Split to evaluate."""

    cache_dir: str = ""
    """Folder of preprocessed shards; the latest ones in it are evaluated (default: those of the training)."""

    plot_results: bool = True
    """Draw scatter plots and ESP pictures."""

    predictions: bool = True
    """Write every prediction beside its reference to predictions-SPLIT.h5."""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run.

    Raises:
        UserError: no such run, its data are no longer in the cache, or other data that its model does not fit.
    """
    asked = parse_flags(EvaluateConfig, "python -m train.evaluate", argv)
    # Imported here: JAX takes seconds, and --help or a wrong flag should not.
    from shared.cache import open_cache
    from shared.data_record import describe_data
    from train.evaluation.evaluator import finish_run
    from train.model.saved_model import load_weights
    from train.run.run_data import open_own_data
    from train.run.session import fit_to_data, split_loader
    from train.run_folder import RunFolder, load_config, load_data_record
    from train.step.compiled_steps import Steps
    from train.step.devices import own_devices, start_devices
    from train.step.program_cache import keep_compilations

    keep_compilations()
    folder = RunFolder(Path(asked.run))
    # Evaluated by this process alone, however many trained.
    config = replace(load_config(folder), distributed=False, coordinator="", processes=1, process_id=0)
    trained = load_weights(folder.best)
    start_devices(config)
    own = load_data_record(folder)
    if asked.cache_dir:
        cache = open_cache(Path(asked.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    else:
        cache = open_own_data(folder, config)
    print(f"evaluate: data: {describe_data(cache.record, asked.split)}")
    if cache.record["frames"] != own["frames"]:
        print(f"note: {folder.path} was trained on other data, {describe_data(own)}")
        trained = fit_to_data(trained, cache, folder.path)
        # Apart from what is said of the training's own data.
        folder = RunFolder(folder.path / "other-data" / cache.record["frames"][:12])
        folder.path.mkdir(parents=True, exist_ok=True)
    devices = own_devices()
    loader = split_loader(cache, asked.split, config, devices)
    steps = Steps(config, loader.batches_per_epoch, devices)
    finish_run(folder, steps, loader, asked.split, asked.plot_results, trained=trained, predictions=asked.predictions)


if __name__ == "__main__":
    sys.exit(run_program(main))

"""``python -m train.evaluate``: errors and pictures of a trained run on one split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from shared.errors import run_program
from shared.schema import Split


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate the best weights of a run on one split of the data that it was trained with."""

    run: str
    """Folder of the run, runs/NAME."""

    split: Split = "test"
    """Split to evaluate."""

    cache_dir: str = ""
    """Folder of the preprocessed shards (default: the run's own)."""

    plot_results: bool = True
    """Draw scatter plots and ESP pictures."""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run.

    Raises:
        UserError: no such run, or its data are no longer in the cache.
    """
    asked = tyro.cli(EvaluateConfig, prog="python -m train.evaluate", args=argv, description=EvaluateConfig.__doc__)
    # Imported here: JAX takes seconds, and --help or a wrong flag should not.
    from shared.cache import open_cache
    from train.compilation import keep_compilations
    from train.compiled import Steps
    from train.devices import own_devices, start_devices
    from train.evaluation import finish_run
    from train.run_folder import RunFolder, load_config, load_data_digests
    from train.session import split_loader

    keep_compilations()
    folder = RunFolder(Path(asked.run))
    # Evaluated by this process alone, however many trained.
    config = replace(load_config(folder), distributed=False, coordinator="", processes=1, process_id=0)
    start_devices(config)
    frames = load_data_digests(folder)["frames"]
    cache = open_cache(Path(asked.cache_dir or config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff, frames)
    devices = own_devices()
    loader = split_loader(cache, asked.split, config, devices)
    steps = Steps(config, loader.batches_per_epoch, devices)
    finish_run(folder, steps, loader, asked.split, asked.plot_results)


if __name__ == "__main__":
    sys.exit(run_program(main))

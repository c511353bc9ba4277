"""``python -m train``: train, or continue, one run on preprocessed shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shared import config_io
from shared.errors import run_program
from train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Train with the settings of config.toml and the flags.

    Raises:
        UserError: bad settings, no preprocessed data, a folder that holds another run, processes
            that do not find each other.
    """
    config = config_io.parse(TrainConfig, "train", argv, prog="python -m train")
    # Imported here: JAX takes seconds, and --help or a wrong flag should not.
    from train.compilation import keep_compilations
    from train.devices import start_devices
    from train.loop import train

    keep_compilations()
    start_devices(config)
    train(config)


if __name__ == "__main__":
    sys.exit(run_program(main))

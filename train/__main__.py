"""``python -m train``: train, or continue, one run on preprocessed shards."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from shared.errors import EXIT_INTERRUPTED, EXIT_STOPPED, UserError, run_program
from shared.settings import as_flags, parse_settings, read_toml, values_before
from train.config import TrainConfig
from train.step.start import start_jax


def main(argv: Sequence[str] | None = None) -> None:
    """Train with the settings of config.toml and the flags.

    Raises:
        UserError: bad settings, no preprocessed data, a folder that holds another run, processes
            that do not find each other, a diverged training.
        Interrupted: a signal asked to stop; everything is saved.
    """
    argv = _settings_of_run(list(sys.argv[1:] if argv is None else argv))
    config = parse_settings(TrainConfig, "train", argv, prog="python -m train")
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax(find_devices=False)
    from train.run.loop import train
    from train.step.devices import start_devices

    start_devices(config)
    train(config)


def _settings_of_run(argv: list[str]) -> list[str]:
    """Replace ``--from-run RUN`` by ``--config RUN/config.toml`` and, if none is given, another ``--name``.

    Raises:
        UserError: no such run, or another --config as well.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--from-run", "--from_run", "--config", "--name"):
        finder.add_argument(flag, dest=flag.strip("-").replace("-", "_"))
    found = finder.parse_known_args(argv)[0]
    if not found.from_run:
        return argv
    settings = Path(found.from_run) / "config.toml"
    if found.config:
        raise UserError(f"--from-run {found.from_run}: its settings are in {settings}; leave out --config")
    if not settings.exists():
        raise UserError(f"--from-run {found.from_run}: not a run (it holds no config.toml)")
    name = [] if found.name else ["--name", f"{Path(found.from_run).resolve().name}-again"]
    older = as_flags(values_before(TrainConfig, read_toml(settings).get("train", {})))
    return ["--config", str(settings), *name, *older, *argv]


def _run() -> NoReturn:
    """Run as a program that, when asked to stop, does not wait for compilations in the background."""
    code = run_program(main)
    if code in (EXIT_STOPPED, EXIT_INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _run()

"""``python -m train.evaluate``: errors, pictures and predictions of a trained run on one split."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import run_program
from shared.schema import Split
from shared.settings import PathName, parse_flags
from train.step.start import start_jax


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate the best weights of a run on one split of the data that it was trained with, or of other data."""

    run: PathName
    """Folder of the run, runs/NAME."""

    split: Split = "test"
    """Split to evaluate."""

    cache_dir: str = ""
    """Folder of preprocessed shards; the latest ones in it are evaluated (default: those of the training)."""

    plot_results: bool = True
    """Draw scatter plots and ESP pictures."""

    limits: Literal["on", "off"] = "on"
    """Fit charges to single molecules, as the limit that errors are compared with (off: do not)."""

    predictions: bool = True
    """Write every prediction beside its reference to predictions-SPLIT.h5."""

    output: str = ""
    """Folder to write to (default: the run's, which may be another user's)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run.

    Raises:
        UserError: no such run, its data are no longer in the cache, or other data that its model does not fit.
    """
    asked = parse_flags(EvaluateConfig, "python -m train.evaluate", argv)
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax(find_devices=False)
    from train.run.evaluate_run import evaluate_run

    cache_dir = Path(asked.cache_dir) if asked.cache_dir else None
    evaluate_run(
        Path(asked.run),
        asked.split,
        cache_dir,
        plots=asked.plot_results,
        predictions=asked.predictions,
        fitted_charges=asked.limits == "on",
        output=Path(asked.output) if asked.output else None,
    )


if __name__ == "__main__":
    sys.exit(run_program(main))

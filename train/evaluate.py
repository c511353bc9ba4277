"""``python -m train.evaluate``: errors, pictures and predictions of a trained run on one split."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import run_program
from shared.schema import Split
from shared.settings import parse_flags


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

    output: str = ""
    """Folder to write to (default: the run's, which may be another user's)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run.

    Raises:
        UserError: no such run, its data are no longer in the cache, or other data that its model does not fit.
    """
    asked = parse_flags(EvaluateConfig, "python -m train.evaluate", argv)
    # Imported here: JAX takes seconds, and --help or a wrong flag should not.
    from train.run.evaluate_run import evaluate_run

    cache_dir = Path(asked.cache_dir) if asked.cache_dir else None
    output = Path(asked.output) if asked.output else None
    evaluate_run(Path(asked.run), asked.split, cache_dir, asked.plot_results, asked.predictions, output)


if __name__ == "__main__":
    sys.exit(run_program(main))

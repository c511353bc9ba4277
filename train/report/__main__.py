"""``python -m train.report``: one self-contained HTML page on a trained run, and pictures of the same for papers."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import run_program
from shared.log import log
from shared.schema import Split
from shared.settings import PathName, parse_flags
from train.step.start import start_jax

if TYPE_CHECKING:
    from train.run_folder import RunFolder


@dataclass(frozen=True)
class ReportConfig:
    """Write runs/NAME/report-SPLIT.html, which needs no network; evaluate first where that was not done yet."""

    run: PathName
    """Folder of the run, runs/NAME."""

    split: Split = "test"
    """Split that the errors are of."""

    output: str = ""
    """Folder to write to, evaluating there first (default: the run's, which may be another user's)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of a run.

    Raises:
        UserError: no such run, or its data are no longer in the cache and it was not evaluated by this version before.
    """
    asked = parse_flags(ReportConfig, "python -m train.report", argv)
    # JAX, matplotlib and plotly take seconds, and --help or a wrong flag should not.
    start_jax(find_devices=False)
    from shared.files import write_atomically
    from train.report.page import render
    from train.report.png_pictures import draw_pictures
    from train.report.prediction_reader import Predictions
    from train.report.run_facts import read_evaluation, read_facts
    from train.report.shown_molecules import choose_molecules
    from train.report.target_samples import read_samples
    from train.run.evaluate_run import evaluate_run
    from train.run_folder import RunFolder

    run = RunFolder(Path(asked.run))
    folder = RunFolder(Path(asked.output)) if asked.output else run
    facts = read_facts(run)
    if not _is_evaluated(folder, asked.split, run):
        evaluate_run(run.path, asked.split, output=folder.path)
    evaluation = read_evaluation(folder, asked.split)
    with Predictions(folder.predictions_file(asked.split), evaluation["predictions_digest"]) as predictions:
        samples = read_samples(predictions, facts.reference_energies_ev, facts.config.exact_monopoles)
        molecules = choose_molecules(predictions)
    pictures = draw_pictures(folder, asked.split, samples, evaluation, molecules)
    page = render(facts, asked.split, evaluation, samples, molecules).encode()
    path = folder.report_file(asked.split)
    write_atomically(path, page)
    log.info(f"report in {path} ({len(page) / 1e6:.1f} MB), {len(pictures)} more pictures in {folder.plots}")


def _is_evaluated(folder: RunFolder, split: str, run: RunFolder) -> bool:
    """Return whether the results of an evaluation by this version are in a folder, and are of the run's weights."""
    from train.run_folder import EVALUATION_FORMAT

    results = (folder.evaluation_file(split), folder.predictions_file(split), folder.plots / f"scatter-{split}.png")
    weights = [path.stat().st_mtime_ns for path in run.best.rglob("*")]
    if not all(path.exists() and path.stat().st_mtime_ns > max(weights, default=0) for path in results):
        return False
    try:
        record = json.loads(results[0].read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True  # damaged, which the report says
    current = not isinstance(record, dict) or record.get("format_version", 1) == EVALUATION_FORMAT
    if not current:
        log.info(f"{results[0]} is of an earlier version: evaluating again")
    return current


if __name__ == "__main__":
    sys.exit(run_program(main))

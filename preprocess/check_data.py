"""``python -m preprocess.check_data``: look for mistakes in all molecules; preprocessing looks at a sample."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.config import PreprocessConfig, for_all_machines
from preprocess.input.conversions import convert_foreign
from preprocess.input.pairs import PairFiles, find_pairs
from preprocess.stages.check import check_all, stop_at_errors
from preprocess.stages.first_pass import prepare
from preprocess.stages.task_runner import open_task_runner
from shared.errors import run_program
from shared.files import write_atomically
from shared.log import log
from shared.manifest import digest_cache
from shared.settings import Scope, parse_settings, setting


@dataclass(frozen=True)
class CheckConfig(PreprocessConfig):
    """Look for mistakes in all molecules; takes the flags of preprocessing."""

    output: str = setting("", Scope.HOST)
    """File of the report (default: check-data.txt in the cache folder)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Check all molecules, print what was found and write it to check-data.txt in the cache folder.

    Raises:
        UserError: bad settings or input, or the data contradict themselves and ``--checks`` is ``stop``.
    """
    config = for_all_machines(
        parse_settings(CheckConfig, "preprocess", argv, prog="python -m preprocess.check_data"),
    )
    digests = digest_cache(Path(config.cache_dir))
    files = [PairFiles(pair) for pair in convert_foreign(find_pairs(config), config, digests)]
    with open_task_runner(config.workers, config.scheduler, config.chunk_mib * 2**20, files, None) as runner:
        findings, text = check_all(prepare(files, config, runner), runner)
    log.info(text)
    path = Path(config.output or Path(config.cache_dir) / "check-data.txt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (text + "\n").encode())
        log.info(f"report in {path}")
    except OSError as error:
        if config.output:
            raise
        # The cache of another user: the report is printed above.
        log.info(f"note: {path}: cannot be written ({error.strerror}); --output names another file")
    if config.checks == "stop":
        stop_at_errors(findings, "this report")


if __name__ == "__main__":
    sys.exit(run_program(main))

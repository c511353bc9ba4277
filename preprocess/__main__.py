"""``python -m preprocess``: NPZ pairs to padded HDF5 shards; a no-op when nothing changed."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from preprocess.config import PreprocessConfig, for_all_machines
from preprocess.input.conversions import convert_foreign
from preprocess.input.pairs import PairFiles, find_pairs
from preprocess.stages.up_to_date import BuildPlan, find_what_to_build
from shared.errors import UserError, run_program
from shared.log import log
from shared.manifest import digest_cache, read_manifest, write_current
from shared.scripts import environment_of_programs
from shared.settings import SharedConfig, parse_settings
from shared.signals import hold_signals


def main(argv: Sequence[str] | None = None) -> None:
    """Bring the cache up to date with the settings; after ``--then-train``, train on what is there now.

    Raises:
        UserError: bad settings or bad input.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = next((i for i, word in enumerate(words, 1) if word.replace("_", "-") == "--then-train"), len(words))
    config = parse_settings(PreprocessConfig, "preprocess", words[:end], prog="python -m preprocess")
    frames = preprocess(config)
    if config.then_train and frames is not None:
        _train_on(frames, [*_shared_flags(words[:end]), *words[end:]])


def _train_on(frames: Path, flags: list[str]) -> NoReturn:
    """Replace this process by ``python -m train`` on these frames, independent of later preprocessing in the cache.

    A signal that is sent to the process then reaches the training, and the exit code is that of the training.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    words = [sys.executable, "-m", "train", "--frames", frames.name, *flags]
    hold_signals()
    os.execve(sys.executable, words, environment_of_programs())


def _shared_flags(words: list[str]) -> list[str]:
    """Return the flags among ``words`` that training has too."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for field in fields(SharedConfig):
        spellings = {"--" + field.name.replace("_", "-"): None, "--" + field.name: None}
        finder.add_argument(*spellings, dest=field.name)
    found = vars(finder.parse_known_args(words)[0])
    return [f"--{name.replace('_', '-')}={value}" for name, value in found.items() if value is not None]


def preprocess(config: PreprocessConfig) -> Path | None:
    """Build the stages that are absent, damaged or asked for by ``force``, and make them current.

    Returns:
        the frames' folder; None after a dry run.

    Raises:
        UserError: bad input.
    """
    start = time.perf_counter()
    config = for_all_machines(config)
    cache_dir = Path(config.cache_dir)
    digests = digest_cache(cache_dir)
    files = [PairFiles(pair) for pair in convert_foreign(find_pairs(config), config, digests)]
    build_plan = find_what_to_build(files, config, digests)
    if config.dry_run:
        from preprocess.stages.understood import describe_understood, understand_headers

        log.info(describe_understood(understand_headers(files, [file.reading(config) for file in files])))
        _say_what_would_be(build_plan, cache_dir)
        return None
    cache_dir.mkdir(parents=True, exist_ok=True)
    if build_plan.why_frames or build_plan.why_edges:
        # Imported here: numba costs more to import than a no-op takes.
        from preprocess.stages.build import build
        from shared.locks import lock_folder

        with lock_folder(cache_dir):
            # The run that held the lock may have built these stages.
            digests = digest_cache(cache_dir)
            build_plan = find_what_to_build(files, config, digests)
            if build_plan.why_frames or build_plan.why_edges:
                build_plan = build(files, config, build_plan, digests, start)
            else:
                _say_up_to_date(build_plan, cache_dir, config.checks)
            write_current(cache_dir, build_plan.frames_digest, build_plan.edges_digest)
    else:
        _say_up_to_date(build_plan, cache_dir, config.checks)
        write_current(cache_dir, build_plan.frames_digest, build_plan.edges_digest)
    digests.save()
    return build_plan.frames_folder(cache_dir)


def _say_up_to_date(build_plan: BuildPlan, cache_dir: Path, checks: str) -> None:
    folder = build_plan.frames_folder(cache_dir)
    manifest = read_manifest(folder)
    assert manifest is not None
    samples = sum(split["samples"] for split in manifest["splits"].values())
    if manifest.get("contradictions") and checks == "stop":
        raise UserError(
            f"{folder}: these data contradict themselves ({', '.join(manifest['contradictions'])}) and were built with "
            "--checks warn; `make check-data` names the flags that correct them (or go on all the same: --checks warn)"
        )
    log.info(f"preprocess: up to date, {samples:,} samples in {folder} and {build_plan.edges_folder(cache_dir)}")


def _say_what_would_be(build_plan: BuildPlan, cache_dir: Path) -> None:
    for stage, folder, why in (
        ("frames", build_plan.frames_folder(cache_dir), build_plan.why_frames),
        ("edges", build_plan.edges_folder(cache_dir), build_plan.why_edges),
    ):
        log.info(f"{stage}: " + (f"would be built in {folder}: {why}" if why else f"up to date in {folder}"))


if __name__ == "__main__":
    sys.exit(run_program(main))

"""``python -m preprocess``: NPZ pairs to padded HDF5 shards; a no-op when nothing changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.decide import Decision, decide
from preprocess.input.pairs import PairFiles, find_pairs
from shared import cache, config_io
from shared.errors import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Bring the cache up to date with the settings.

    Raises:
        UserError: bad settings or bad input.
    """
    preprocess(config_io.parse(PreprocessConfig, "preprocess", argv, prog="python -m preprocess"))


def preprocess(config: PreprocessConfig) -> None:
    """Build the stages that are absent, damaged or asked for by ``force``, and make them current.

    Raises:
        UserError: bad input.
    """
    start = time.perf_counter()
    cache_dir = Path(config.cache_dir)
    files = [PairFiles(pair) for pair in find_pairs(config)]
    digests = cache.digest_cache(cache_dir)
    decision = decide(files, config, digests)
    if config.dry_run:
        from preprocess.input.understood import describe_understood, understand_headers

        print(describe_understood(understand_headers(files, [file.reading(config) for file in files])))
        _say_what_would_be(decision, cache_dir)
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    if decision.why_frames or decision.why_edges:
        # Imported here: numba costs more to import than a no-op takes.
        from preprocess.build import build
        from preprocess.stage import lock_cache

        with lock_cache(cache_dir):
            # The run that held the lock may have built what is wanted.
            digests = cache.digest_cache(cache_dir)
            decision = decide(files, config, digests)
            if decision.why_frames or decision.why_edges:
                decision = build(files, config, decision, digests, start)
            else:
                _say_up_to_date(decision, cache_dir)
            cache.write_current(cache_dir, decision.frames_digest, decision.edges_digest)
    else:
        cache.write_current(cache_dir, decision.frames_digest, decision.edges_digest)
        _say_up_to_date(decision, cache_dir)
    digests.save()


def _say_up_to_date(decision: Decision, cache_dir: Path) -> None:
    folder = decision.frames_folder(cache_dir)
    manifest = cache.read_manifest(folder)
    assert manifest is not None
    samples = sum(split["samples"] for split in manifest["splits"].values())
    print(f"preprocess: up to date, {samples:,} samples in {folder} and {decision.edges_folder(cache_dir)}")


def _say_what_would_be(decision: Decision, cache_dir: Path) -> None:
    for stage, folder, why in (
        ("frames", decision.frames_folder(cache_dir), decision.why_frames),
        ("edges", decision.edges_folder(cache_dir), decision.why_edges),
    ):
        print(f"{stage}: " + (f"would be built in {folder}: {why}" if why else f"up to date in {folder}"))


if __name__ == "__main__":
    sys.exit(run_program(main))

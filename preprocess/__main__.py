"""``python -m preprocess``: NPZ pairs to padded HDF5 shards; a no-op when nothing changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from preprocess.config import PreprocessConfig
from preprocess.load import find_pairs
from preprocess.report import describe
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
    # Imported here: h5py and numba cost more to import than a no-op takes.
    from preprocess.frames import build_frames, frames_recipe

    start = time.perf_counter()
    cache_dir = Path(config.cache_dir)
    pairs = find_pairs(config)
    cache_dir.mkdir(parents=True, exist_ok=True)
    digests = cache.digest_cache(cache_dir)
    recipe = frames_recipe(pairs, config, digests)
    frames_folder = cache.stage_folder(cache_dir, "frames", recipe.digest)
    edges_folder = cache.stage_folder(
        cache_dir, "edges", cache.edges_digest(recipe.digest, config.physnet_cutoff, config.dcmnet_cutoff)
    )
    frames_done = not config.force and cache.is_intact(frames_folder, digests)
    if not frames_done:
        build_frames(frames_folder, pairs, recipe, config)
    frames = cache.read_manifest(frames_folder)
    assert frames is not None
    edges_done = not config.force and cache.is_intact(edges_folder, digests)
    if not edges_done:
        from preprocess.edge_stage import build_edge_shards

        build_edge_shards(
            edges_folder, frames_folder, frames, config.physnet_cutoff, config.dcmnet_cutoff, config.workers
        )
    edges = cache.read_manifest(edges_folder)
    assert edges is not None
    cache.write_current(cache_dir, recipe.digest)
    digests.save()
    if frames_done and edges_done:
        samples = sum(split["samples"] for split in frames["splits"].values())
        print(f"preprocess: up to date, {samples:,} samples in {frames_folder} and {edges_folder}")
        return
    print(
        f"preprocess: frames {'unchanged' if frames_done else 'built'}, edges {'unchanged' if edges_done else 'built'}"
    )
    print(describe(frames, edges, (frames_folder, edges_folder), time.perf_counter() - start))


if __name__ == "__main__":
    sys.exit(run_program(main))

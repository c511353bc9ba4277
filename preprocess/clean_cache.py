"""``python -m preprocess.clean_cache``: remove what the current frames and edges do not need, with sizes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.stage import lock_cache
from shared.cache import CURRENT, current_stages, read_manifest, stage_folder
from shared.config_io import SharedConfig, parse_flags
from shared.errors import UserError, run_program


@dataclass(frozen=True)
class CleanConfig:
    """Remove stages that are not current, parts of interrupted runs, and surveys of files no longer used."""

    cache_dir: str = SharedConfig.cache_dir
    """Folder of the preprocessed shards."""

    dry_run: bool = False
    """Only list what would be removed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Clean the cache folder.

    Raises:
        UserError: no such folder, or current.json is damaged.
    """
    config = parse_flags(CleanConfig, "python -m preprocess.clean_cache", argv)
    cache_dir = Path(config.cache_dir)
    if not cache_dir.is_dir():
        raise UserError(f"{cache_dir}: no such folder; --cache-dir names the cache")
    with lock_cache(cache_dir):
        total = 0
        for path in unneeded(cache_dir):
            freed = freed_bytes(path)
            total += freed
            print(f"{'would remove' if config.dry_run else 'removed'} {path}: {freed / 1e6:,.1f} MB")
            if config.dry_run:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    print(f"{cache_dir}: {total / 1e6:,.1f} MB {'would be ' if config.dry_run else ''}freed")


def unneeded(cache_dir: Path) -> Iterator[Path]:
    """Stages, parts of stages and surveys that the current ones do not refer to; while none is current, the parts.

    Raises:
        UserError: current.json is damaged.
    """
    yield from sorted(cache_dir.glob(".*.partial"))
    if not (cache_dir / CURRENT).exists():
        return
    current = current_stages(cache_dir)
    frames = stage_folder(cache_dir, "frames", current["frames"])
    needed = {frames, stage_folder(cache_dir, "edges", current["edges"])}
    manifest = read_manifest(frames)
    surveys = manifest.get("surveys", []) if manifest else []
    for pattern in ("frames-*", "edges-*"):
        yield from (path for path in sorted(cache_dir.glob(pattern)) if path not in needed)
    yield from (path for path in sorted(cache_dir.glob("surveys/*")) if path.stem not in surveys)


def freed_bytes(path: Path) -> int:
    """What removing a file or folder frees: shards that another stage shares stay."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(stat.st_size for file in files if (stat := file.stat()).st_nlink == 1)


if __name__ == "__main__":
    sys.exit(run_program(main))

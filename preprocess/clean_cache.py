"""``python -m preprocess.clean_cache``: remove what the current frames and edges do not need, with sizes."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.data_record import describe_data
from shared.errors import UserError, run_program
from shared.locks import Lock, lock_folder
from shared.log import log
from shared.manifest import CONVERTED, CURRENT, current_stages, read_manifest, stage_folder
from shared.settings import PathName, SharedConfig, parse_flags


@dataclass(frozen=True)
class CleanConfig:
    """Remove stages that are not current, parts of interrupted runs, and surveys of files no longer used.

    Data that a run is being trained on stay. Data of other runs are removed and named.
    """

    cache_dir: PathName = SharedConfig.cache_dir
    """Folder of the preprocessed shards."""

    runs_dir: PathName = "runs"
    """Folder that holds the runs."""

    dry_run: bool = False
    """Only list what would be removed."""


@dataclass(frozen=True)
class TrainedRun:
    """A run, the stages that it was trained on, and whether it is being trained now."""

    folder: Path
    data: dict[str, Any]  # of its record
    stages: frozenset[Path]
    is_training: bool


def main(argv: Sequence[str] | None = None) -> None:
    """Clean the cache folder.

    Raises:
        UserError: no such folder, or current.json is damaged.
    """
    config = parse_flags(CleanConfig, "python -m preprocess.clean_cache", argv)
    cache_dir = Path(config.cache_dir)
    if not cache_dir.is_dir():
        raise UserError(f"{cache_dir}: no such folder; --cache-dir names the cache")
    with lock_folder(cache_dir):
        total = 0
        runs = list(trained_runs(Path(config.runs_dir), cache_dir))
        for path in unneeded(cache_dir):
            users = [run for run in runs if path in run.stages]
            if training := [run for run in users if run.is_training]:
                log.info(f"kept {path}: {_names(training)} {'is' if len(training) == 1 else 'are'} being trained on it")
                continue
            if users and path.name.startswith("frames-"):
                log.info(_farewell(users))
            freed = freed_bytes(path)
            total += freed
            log.info(f"{'would remove' if config.dry_run else 'removed'} {path}: {freed / 1e6:,.1f} MB")
            if config.dry_run:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    log.info(f"{cache_dir}: {total / 1e6:,.1f} MB {'would be ' if config.dry_run else ''}freed")


def trained_runs(runs_dir: Path, cache_dir: Path) -> Iterator[TrainedRun]:
    """Yield the runs in a folder whose records name stages of this cache, or of one with the same data."""
    for path in sorted(runs_dir.glob("*/run.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))["data"]
            stages = frozenset(stage_folder(cache_dir, stage, data[stage]) for stage in ("frames", "edges"))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: nothing is known of its data
        yield TrainedRun(path.parent, data, stages, _is_locked(path.parent / ".lock"))


def _is_locked(path: Path) -> bool:
    """Return whether a training holds its run's lock, or may hold it: another user's cannot be tested."""
    if not path.exists():
        return False
    lock = Lock(path.parent)
    try:
        free = lock.acquire()
    except OSError:
        return True
    lock.release()
    return not free


def _farewell(users: list[TrainedRun]) -> str:
    """Return what has to be done before runs on these frames can be continued or evaluated again."""
    needs = "needs" if len(users) == 1 else "need"
    files = describe_data(users[0].data)
    return f"{_names(users)} {needs} {files} preprocessed again, to be continued or evaluated"


def _names(runs: list[TrainedRun]) -> str:
    return ", ".join(str(run.folder) for run in runs)


def unneeded(cache_dir: Path) -> Iterator[Path]:
    """Yield stages, parts of stages and surveys that the current stages do not need; parts alone if none is current.

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
    converted = manifest.get("converted", []) if manifest else []
    yield from (path for path in sorted(cache_dir.glob(f"{CONVERTED}/*")) if path.name not in converted)
    yield from (path for path in sorted(cache_dir.glob("surveys/*")) if path.stem not in surveys)


def freed_bytes(path: Path) -> int:
    """Return the bytes that removing a file or folder frees: shards that another stage shares stay."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(stat.st_size for file in files if (stat := file.stat()).st_nlink == 1)


if __name__ == "__main__":
    sys.exit(run_program(main))

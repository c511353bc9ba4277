"""The preprocessed data of a run: its own, whatever was preprocessed in the same cache since."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared.data_record import describe_data
from shared.errors import UserError
from shared.manifest import current_stages, edges_digest, read_manifest, stage_folder
from shared.settings import SharedConfig
from shared.shards import REBUILD_COMMAND
from train.config import TrainConfig
from train.data.dataset import Cache, open_cache
from train.run_folder import RunFolder, load_config, load_data_record
from train.step.devices import digest_of_first


class RunData(NamedTuple):
    """Opened data, and a note to the user on their choice."""

    cache: Cache
    note: str  # empty: nothing


def open_data(config: TrainConfig) -> RunData:
    """Open the data of the run that the settings name.

    They are those of the run that ``--from-run`` repeats, else those that ``--frames`` names, else those that this run
    was begun with, else those of the latest preprocessing. Every process takes what the first one finds, since another
    preprocessing may end meanwhile.

    Raises:
        UserError: no such data in the cache; if a run was trained on them, the message names their files.
    """
    cache_dir = Path(config.cache_dir)
    owner = _owner(config)
    if owner is not None:
        frames = load_data_record(owner)["frames"]
    else:
        frames = _named(config) or current_stages(cache_dir)["frames"]
    frames = digest_of_first(frames)
    if owner is None:
        return RunData(open_cache(cache_dir, config.physnet_cutoff, config.dcmnet_cutoff, frames), "")
    cache = open_own_data(owner, config)
    return RunData(cache, _note(config, cache))


def open_own_data(run: RunFolder, config: TrainConfig) -> Cache:
    """Open the data that a run was begun with, in the cache and at the cutoffs of ``config``.

    Raises:
        UserError: they are no longer there; the message names their files and the command that makes them again.
    """
    record, cache_dir = load_data_record(run), Path(config.cache_dir)
    edges = edges_digest(record["frames"], config.physnet_cutoff, config.dcmnet_cutoff)
    needed = [stage_folder(cache_dir, "frames", record["frames"])]
    if edges == record["edges"]:  # at other cutoffs, edge lists that are missing were perhaps never made
        needed.append(stage_folder(cache_dir, "edges", edges))
    if any(read_manifest(folder) is None for folder in needed):
        raise UserError(_missing(run, record, config))
    return open_cache(cache_dir, config.physnet_cutoff, config.dcmnet_cutoff, record["frames"])


def _owner(config: TrainConfig) -> RunFolder | None:
    """Return the run whose record names the data to open."""
    if config.from_run:
        return RunFolder(Path(config.from_run))
    run = RunFolder(Path(config.runs_dir) / config.name)
    return run if run.config_file.exists() and not config.frames else None


def _named(config: TrainConfig) -> str:
    return config.frames.removeprefix("frames-")


def _missing(run: RunFolder, record: Mapping[str, Any], config: TrainConfig) -> str:
    what = f"{run.path}: its data, {describe_data(record)}, are not in {config.cache_dir}"
    elsewhere = load_config(run).cache_dir
    if Path(elsewhere).resolve() != Path(config.cache_dir).resolve():
        return f"{what}; it was trained with --cache-dir {shlex.quote(elsewhere)}"
    if _is_same_otherwise(record, _latest(config)):
        return (
            f"{what} any more; preprocessed again, the same files have other buckets and reference energies: begin "
            f"another run on them, with the weights of this one (--init-from {shlex.quote(str(run.path))} --name NEW)"
        )
    variables = {"TRAIN_EFD": "..."}
    for name in ("cache_dir", "physnet_cutoff", "dcmnet_cutoff"):
        if getattr(config, name) != getattr(SharedConfig, name):
            variables[name.upper()] = shlex.quote(str(getattr(config, name)))
    command = " ".join((REBUILD_COMMAND, *(f"{name}={value}" for name, value in variables.items())))
    return f"{what} any more; preprocess the same files with the same settings (all in {run.record_file}): `{command}`"


def _is_same_otherwise(record: Mapping[str, Any], latest: Mapping[str, Any] | None) -> bool:
    """Return whether the latest data are the same files in other buckets, as appended files keep older buckets."""
    if latest is None or latest["digest"] == record["frames"]:
        return False
    return all(latest[name] == record.get(name) for name in ("inputs", "settings"))


def _note(config: TrainConfig, cache: Cache) -> str:
    """Return a note that other data were preprocessed since, or named by ``--frames`` beside ``--from-run``."""
    latest = _latest(config)
    if latest is None or latest["digest"] == cache.frames_manifest["digest"]:
        return ""
    described = describe_data({"frames": latest["digest"], "files": latest["files"]})
    whose = f"those of {config.from_run}" if config.from_run else "its own"
    return f"the latest preprocessing in {config.cache_dir} is of other data, {described}; this run keeps to {whose}"


def _latest(config: TrainConfig) -> dict[str, Any] | None:
    """Return the manifest of the latest frames, if there are any."""
    cache_dir = Path(config.cache_dir)
    try:
        digest = _named(config) or current_stages(cache_dir)["frames"]
        return read_manifest(stage_folder(cache_dir, "frames", digest))
    except UserError:
        return None  # nothing is current, or it is damaged: a run does without

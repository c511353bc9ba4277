"""The folder of one run, ``runs/NAME``: its files, and whether it may be continued."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import psutil
import xxhash

from shared.data_record import describe_difference
from shared.errors import UserError
from shared.files import naming, write_atomically
from shared.locks import Lock
from shared.provenance import git_commit, processor, versions
from shared.sealed import read_sealed, write_sealed
from shared.settings import FIXED, as_flags, as_tables, checked, names_in, read_toml, save_settings, values_before
from train.config import TrainConfig
from train.data.dataset import Cache
from train.inference.folder import best_folder
from train.model.saved_model import member_folders

_RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "e3x", "optax", "numpy", "h5py", "numba", "orbax-checkpoint")
EVALUATION_FORMAT = 5
"""Format of evaluation-SPLIT.json. 3: ``baselines`` and ``normalised_errors``, by element and by distance too; 4:
``transfer`` and ``distributed_charges``; 5: ``ensemble``, null of a single model."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

    @property
    def record_file(self) -> Path:
        """Versions, hardware and data of the run."""
        return self.path / "run.json"

    @property
    def log_file(self) -> Path:
        """Log with times; every start appends to it."""
        return self.path / "train.log"

    @property
    def metrics_file(self) -> Path:
        """One JSON object for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Full checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Weights of the best epoch, for use on any machine."""
        return self.path / "best"

    def best_folders(self, members: int) -> list[Path]:
        """Return the folders of the best weights of each model: best/ itself, or member-0 and so on in it."""
        return [self.best / f"member-{k}" for k in range(members)] if members > 1 else [self.best]

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    def picture_file(self, name: str) -> Path:
        """Return the path of a picture of the run."""
        return self.plots / f"{name}.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def divergence_file(self) -> Path:
        """Record of the step at which the run diverged."""
        return self.path / "divergence.json"

    @property
    def run_id(self) -> str:
        """Identifier of a run and its continuations, made when the run began; it survives moving the folder."""
        return str(read_record(self).get("id", self.path.name))

    def baselines_file(self, split: str) -> Path:
        """Return the path of the baselines of a split's errors."""
        return self.path / f"baselines-{split}.json"

    def evaluation_file(self, split: str) -> Path:
        """Return the path of the best weights' errors on a split."""
        return self.path / f"evaluation-{split}.json"

    def predictions_file(self, split: str) -> Path:
        """Return the path of the best weights' predictions on a split."""
        return self.path / f"predictions-{split}.h5"

    def report_file(self, split: str) -> Path:
        """Return the path of the report on a split, an HTML page."""
        return self.path / f"report-{split}.html"


def lock(folder: RunFolder, active: bool) -> Lock:
    """Return the run's lock, acquired if ``active``; the system releases it when the process ends.

    Raises:
        UserError: another program is training this run.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    taken = Lock(folder.path)
    if active and not taken.acquire():
        raise UserError(f"{folder.path}: another program is training this run; wait for it, or choose another --name")
    return taken


def _is_foreign(path: Path) -> bool:
    """Return whether a file is none of those that a run writes before its config.toml."""
    return not path.name.startswith(".") and path.name != RunFolder(path.parent).record_file.name


def prepare_run(config: TrainConfig, cache: Cache, write: bool = True) -> RunFolder:
    """Create the run's folder, or check that the run in it is the same one; without ``write``, only check.

    Raises:
        UserError: the folder holds a run with other settings or other data.
    """
    folder = RunFolder(Path(config.runs_dir) / config.name)
    data = cache.record
    if folder.config_file.exists():
        check_settings(folder, config)
        _check_data(folder, data)
    elif folder.path.exists() and any(map(_is_foreign, folder.path.iterdir())):
        what = "so it is not a run" if not folder.record_file.exists() else "which is lost, so it cannot go on"
        raise UserError(f"{folder.path}: exists but holds no config.toml, {what}; choose another --name")
    if not write:
        return folder
    folder.path.mkdir(parents=True, exist_ok=True)
    now = {"versions": versions(_RECORDED_PACKAGES), "git": git_commit(), "device": _device()}
    record = read_record(folder) if folder.record_file.exists() else {}
    if not record:
        begun = {
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "init_from": _weights_digest(config.init_from) if config.init_from else None,
        }
        record = {"id": uuid.uuid4().hex[:12], **now, **begun}
    elif now != {key: value for key, value in (record.get("continued") or [record])[-1].items() if key in now}:
        # The entries of the start stay: the first steps were taken with them.
        record["continued"] = [*record.get("continued", []), now]
    # Written by each continuation too: a run that was killed at its start may continue with other data.
    record |= {"data": data, "settings": _fixed_settings(config)}
    write_sealed(folder.record_file, record)
    # Last: a folder with config.toml is a run. Its data are in its record; the settings serve other data too.
    tables = as_tables(replace(config, frames=""), "train")
    for name in _newer_settings(folder):  # still to be seen by the next continuation
        del tables["train"][name]
    save_settings(folder.config_file, tables)
    return folder


def load_config(folder: RunFolder) -> TrainConfig:
    """Return the settings of a run.

    Raises:
        UserError: there is no such run, or its file is damaged.
    """
    if not folder.config_file.exists():
        raise UserError(
            f"{folder.path}: not a run (it holds no config.toml); `python -m train --name NAME` makes runs/NAME"
        )
    values = {**_newer_settings(folder), **_written_settings(folder)}
    config = checked(TrainConfig, values, f"{folder.config_file}: ")
    recorded = read_record(folder).get("settings", {}) if folder.record_file.exists() else {}
    now = _fixed_settings(config)
    changed = [f"{name} is {now[name]}, was {then}" for name, then in recorded.items() if now.get(name, then) != then]
    if changed:
        raise UserError(
            f"{folder.config_file}: damaged or changed since the run began ({', '.join(changed)}; "
            f"{folder.record_file.name} has them); put these back"
        )
    return config


def _fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a run keeps, as JSON gives them."""
    settings: dict[str, Any] = json.loads(
        json.dumps({name: getattr(config, name) for name in names_in(TrainConfig, *FIXED)})
    )
    return settings


def as_begun(folder: RunFolder, config: TrainConfig) -> TrainConfig:
    """Return the settings with which the run in this folder, if there is one, goes on.

    A setting that is newer than the run and at its default becomes what the run was trained with, so that the command
    that began it continues it.

    Raises:
        UserError: the run's file of settings is damaged.
    """
    newer = _newer_settings(folder)
    default = TrainConfig()
    at_default = {name: value for name, value in newer.items() if getattr(config, name) == getattr(default, name)}
    return replace(config, **at_default)


def _newer_settings(folder: RunFolder) -> dict[str, Any]:
    """Return the settings that are newer than this run, at the values that it was trained with."""
    return values_before(TrainConfig, _written_settings(folder)) if folder.config_file.exists() else {}


def _written_settings(folder: RunFolder) -> dict[str, Any]:
    tables = read_toml(folder.config_file)
    return {**tables.get("shared", {}), **tables.get("train", {})}


def load_data_record(folder: RunFolder) -> dict[str, Any]:
    """Return the record of the data that the run began with, as :attr:`train.data.dataset.Cache.record` has it.

    Raises:
        UserError: the run's record is missing or damaged.
    """
    return dict(read_record(folder)["data"])


def other_versions(run: str) -> list[str]:
    """List how this program, its libraries and this machine differ from those of another run.

    Raises:
        UserError: its record is missing or damaged.
    """
    then = read_record(RunFolder(Path(run)))
    now = {"versions": versions(_RECORDED_PACKAGES), "git": git_commit(), "device": _device()}
    pairs = [
        (key, (then.get(part) or {}).get(key), value) for part, values in now.items() for key, value in values.items()
    ]
    return [f"{key} was {before}, is {value}" for key, before, value in pairs if before != value]


def read_record(folder: RunFolder) -> dict[str, Any]:
    """Return data, versions and hardware of a run, as recorded when it began.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = f"copy it again, or train under another --name with --init-from {folder.path}"
    unknown = "so the run's data are unknown"
    try:
        record = read_sealed(folder.record_file, f"{unknown}: {remedy}")
        if not all(isinstance(record["data"][stage], str) for stage in ("frames", "edges")):
            raise TypeError
        return record
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise UserError(f"{folder.record_file}: missing or damaged, {unknown}; {remedy}") from error


def read_metrics(folder: RunFolder, epochs: int) -> list[dict[str, Any]]:
    """Return the metrics of the first ``epochs`` epochs, as far as they were written and can be read."""
    if not folder.metrics_file.exists():
        return []
    found = map(_metrics_of, folder.metrics_file.read_bytes().splitlines())
    return [record for record in found if record is not None and record["epoch"] <= epochs]


_METRICS = {"epoch": int, "seconds": float, "samples_per_second": float, "train": dict, "valid": dict}
"""Entries of a line of metrics.jsonl."""


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """Return one epoch's metrics; None if the line is damaged, as that which a killed run was writing."""
    try:
        record: dict[str, Any] = json.loads(line)
        whole = all(isinstance(record[name], kind) for name, kind in _METRICS.items())
    except (ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def rewrite_metrics(folder: RunFolder, records: list[dict[str, Any]]) -> None:
    """Replace metrics.jsonl: a continued run repeats the epochs after its checkpoint.

    If lines in it are damaged, but the last, the old file is kept beside it.
    """
    path = folder.metrics_file
    if path.exists() and None in map(_metrics_of, path.read_bytes().splitlines()[:-1]):
        path.replace(path.with_name("metrics-damaged.jsonl"))
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def append_metrics(folder: RunFolder, record: dict[str, Any]) -> None:
    """Append one epoch to metrics.jsonl."""
    with naming(folder.metrics_file), folder.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def check_settings(folder: RunFolder, config: TrainConfig) -> None:
    """Compare the settings with those of the run in this folder, if there is one.

    Raises:
        UserError: one differs that a continued run may not change; names all that do.
    """
    if not folder.config_file.exists():
        return
    saved = load_config(folder)
    names = names_in(TrainConfig, *FIXED)
    changed = [name for name in names if getattr(saved, name) != getattr(config, name)]
    if changed:
        shown = ", ".join(f"{name} {getattr(saved, name)} → {getattr(config, name)}" for name in changed)
        flags = " ".join(as_flags({name: getattr(saved, name) for name in changed}))
        raise UserError(
            f"{folder.path}: holds a run with other settings ({shown}); go on with its own ({flags}), choose another "
            "name (--name, or make's NAME=), or delete the folder"
        )


def _check_data(folder: RunFolder, data: dict[str, Any]) -> None:
    recorded = load_data_record(folder)
    if recorded["frames"] != data["frames"]:
        raise UserError(
            f"{folder.path}: {describe_difference(recorded, data)}; choose another name (--name, or make's NAME=), "
            f"delete the folder, or go on with its own data (`python -m train --name {folder.path.name}`, as it was "
            "begun)"
        )


def _device() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
        "processor": processor(),
        "cores": psutil.cpu_count(),
    }


def _weights_digest(run: str) -> str:
    """Return the checksum of the weights that this run begins with, of an ensemble those of all members."""
    paths = [folder / "weights.safetensors" for folder in member_folders(best_folder(run))]
    return " ".join(xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in paths if path.exists())

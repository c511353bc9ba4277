"""Full checkpoints of a run, with Orbax: parameters, optimizer, running average, position, best epoch so far."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import xxhash

from shared.errors import UserError
from shared.files import sync_folder
from shared.sealed import seal, unseal
from shared.signals import are_answered
from train.step.devices import agreed
from train.step.metrics import MetricSums, zero_sums
from train.step.optimizer import TrainState

_PARTS = ("progress/metadata", "state/_METADATA", "state/manifest.ocdbt")
"""Files that every complete checkpoint has."""

_FORMAT = 7
"""6 had no sums of the errors of quadrupoles, 5 none of the charges' sums; older ones are refused."""

_QUADRUPOLES = ("quadrupole_molecules", "quadrupole", "quadrupole_dcm")

_LACKS: dict[int, tuple[str, ...]] = {5: ("charge_sum", *_QUADRUPOLES), 6: _QUADRUPOLES, _FORMAT: ()}
"""Formats that are read, and the sums that they lack."""


@dataclass(frozen=True)
class Best:
    """The best epoch of one model so far."""

    score: float | None = None  # None before the first evaluation
    epoch: int = 0  # 0: none yet


@dataclass(frozen=True)
class Progress:
    """The state of a run beside its arrays: the shuffle is a function of (seed, epoch)."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches taken of the epoch after them
    seconds: float = 0.0  # spent on those
    best_score: float | None = None  # of best_epoch; None before the first evaluation, and of an ensemble
    best_epoch: int = 0  # 0: none yet; of an ensemble, the last that was the best of any member
    best_by: str = ""  # criterion of best_score; empty: of an earlier version, which kept none
    members: tuple[Best, ...] = ()  # of an ensemble

    @classmethod
    def before(cls, members: int, best_by: str) -> Progress:
        """Return the progress of a run that begins."""
        return cls(best_by=best_by).with_bests([Best()] * members)

    @property
    def bests(self) -> tuple[Best, ...]:
        """The best epoch of each model, of which a run has at least one."""
        return self.members or (Best(self.best_score, self.best_epoch),)

    def with_bests(self, bests: Sequence[Best]) -> Progress:
        """Return the progress with these best epochs of its models."""
        if len(bests) == 1:
            return replace(self, best_score=bests[0].score, best_epoch=bests[0].epoch)
        return replace(self, best_epoch=max(best.epoch for best in bests), members=tuple(bests))

    def as_json(self) -> dict[str, Any]:
        """Return plain values; those of a single model are the same as before there were ensembles."""
        record = asdict(self)
        if not self.members:
            del record["members"]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Progress:
        """Return the progress that :meth:`as_json` wrote, also in JSON.

        Raises:
            TypeError: it is none.
        """
        return cls(**{**record, "members": tuple(Best(**one) for one in record.get("members", ()))})


class Saved(NamedTuple):
    """Contents of a checkpoint."""

    state: TrainState
    sums: MetricSums  # of the epoch so far
    progress: Progress


class _DamagedError(Exception):
    """A checkpoint that cannot be read as it was written."""


class Checkpoints:
    """The latest checkpoints of one run, written in the background, each complete or absent."""

    def __init__(self, folder: Path, keep: int = 3, run_id: str = "") -> None:
        """Open the folder, or make it.

        Args:
            folder: of the checkpoints.
            keep: how many.
            run_id: of the run; checkpoints of another one are refused. Empty: not known.

        Raises:
            UserError: the folder cannot hold checkpoints.
            OSError: it cannot be made.
        """
        require_usable(folder)
        if are_answered():  # in a program of ours, which has one line for each error
            _silence_threads()
        folder.mkdir(parents=True, exist_ok=True)
        if not sync_folder(folder):
            _write_without_sync()
        self._folder, self._run_id = folder, run_id
        self._unverified: int | None = None
        self._has_written = False
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """Return the number of the newest checkpoint."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, saved: Saved, step: int) -> None:
        """Start writing the checkpoint of this number of steps; the arrays are copied before this returns.

        Nothing happens if it exists already.
        """
        if step in self._manager.all_steps():
            return
        arrays = {"state": saved.state, "sums": saved.sums}
        progress = saved.progress.as_json()
        description = seal(
            {"format": _FORMAT, "run": self._run_id, "checksum": _checksum(arrays, progress), **progress}
        )
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(description))
        try:
            self._verify_last()
            self._manager.save(step, args=items, force=True)
        except (OSError, ValueError) as error:  # of the save before, too, which was in the background
            raise self._not_written(error) from error
        self._unverified = step

    def wait_for_first(self) -> None:
        """Wait until one checkpoint is complete, if this has not written one yet.

        Raises:
            UserError: it cannot be written.
        """
        if not self._has_written:
            try:
                self._verify_last()
            except (OSError, ValueError) as error:
                raise self._not_written(error) from error

    def _verify_last(self) -> None:
        """Wait for the write under way, and check that its files are there."""
        step, self._unverified = self._unverified, None  # it is not asked for again on closing
        self._manager.wait_until_finished()
        if step is None:
            return
        missing = self._missing_file(step)
        if missing is not None and jax.process_index() == 0:
            raise OSError(f"{missing} is not there after it was written")
        self._has_written = True

    def _missing_file(self, step: int) -> Path | None:
        """Return a file that a complete checkpoint has, and this one lacks."""
        parts = (self._folder / str(step) / part for part in _PARTS)
        return next((path for path in parts if not path.is_file()), None)

    def restore(self, like: TrainState) -> tuple[Saved | None, list[str]]:
        """Return the newest checkpoint that can be read, placed as ``like`` is (None if there is none).

        Newer ones, which could not be read, are moved out of the way; the returned texts name them.

        Raises:
            UserError: it was written by another version of this program, or none can be read.
        """
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                saved = self._read(step, like)
            except _DamagedError as error:
                damaged.append(f"{self._folder / str(step)}: damaged ({error})")
                continue
            self._set_aside(steps[: len(damaged)])
            return saved, damaged
        if damaged:
            raise UserError(
                f"{damaged[0]}, and so are all {len(damaged)} checkpoints; train under another --name, with "
                "--init-from this run if its best/ can still be read"
            )
        return None, []

    def _set_aside(self, steps: list[int]) -> None:
        """Move unreadable checkpoints away without removing them: a disk may have been unavailable for a moment."""
        if not steps:
            return
        aside = self._folder.with_name(self._folder.name + "-damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in steps:
                (self._folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        agreed(0)  # the others wait until it is done
        self._manager.reload()

    def _read(self, step: int, like: TrainState) -> Saved:
        missing = self._missing_file(step)
        if missing is not None:
            raise _DamagedError(f"incomplete: it lacks {missing.relative_to(self._folder / str(step))}")
        try:
            # Read here: Orbax takes any JSON.
            progress = unseal(json.loads((self._folder / str(step) / _PARTS[0]).read_bytes()))
            found, run_id = progress.pop("format", 1), progress.pop("run", self._run_id)
        except (OSError, ValueError) as error:
            raise _DamagedError(_first_line(error)) from error
        if found not in _LACKS:
            raise UserError(
                f"{self._folder}: checkpoints of format {found}, but this program continues format {_FORMAT}; train "
                "under another --name (best/ of this run stays usable)"
            )
        if self._run_id and run_id not in ("", self._run_id):
            raise UserError(
                f"{self._folder / str(step)}: a checkpoint of another run ({run_id}, not {self._run_id}); remove it, "
                "or train under another --name with --init-from that run"
            )
        # Of an epoch that it was saved in, a mean over the rest would be wrong.
        absent = 0.0 if progress.get("batch") == 0 else jnp.nan
        # Each its own array: a step gives the memory of all of them back.
        zeros = zero_sums(like.step.shape)
        zeros = zeros._replace(**{name: jnp.full_like(zeros.loss, absent) for name in _LACKS[found]})
        values = {name: jax.device_put(value, like.step.sharding) for name, value in zeros._asdict().items()}
        lacking = {name: values.pop(name) for name in _LACKS[found]}
        sums = namedtuple("_Sums", values)(**values)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like, "sums": sums})
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            read = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            # Orbax leaves its other reads to the garbage collector, which would say so whenever that comes.
            warnings.filterwarnings(
                "ignore", r"coroutine '(_read_array_index|Store\._get).*' was never awaited", RuntimeWarning
            )
            raise _DamagedError(_first_line(error)) from error
        if progress.pop("checksum", None) != _checksum(read, progress):
            raise _DamagedError("it has another checksum")
        try:
            return Saved(read["state"], MetricSums(**read["sums"]._asdict(), **lacking), Progress.from_json(progress))
        except TypeError as error:
            raise _DamagedError(_first_line(error)) from error

    def close(self) -> None:
        """Wait for the write under way."""
        try:
            self._verify_last()
        except (OSError, ValueError) as error:
            raise self._not_written(error) from error
        finally:
            self._manager.close()

    def _not_written(self, error: Exception) -> UserError:
        return UserError(
            f"{self._folder}: a checkpoint cannot be written ({_first_line(error)}); is the disk full? What was saved "
            "before stays, and the same command continues from there"
        )


def _write_without_sync() -> None:
    """Let tensorstore do without syncing folders: it would save nothing where a file system cannot (SMB, sshfs)."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    # Orbax has no setting for it.
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        getattr(tensorstore_utils, name, {})["file_io_sync"] = False


def _silence_threads() -> None:
    """Keep Orbax, asyncio and tensorstore from printing errors that :class:`Checkpoints` raises.

    On a full disk they print 26 tracebacks, from their threads, for one error.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def show_own(error: sys.UnraisableHookArgs) -> None:
        # Not those of tensorstore's callbacks, which belong to no object, and of reads that Orbax gave up when another
        # one failed.
        code = getattr(error.object, "cr_code", None)
        if error.object is not None and not (code and "orbax" in Path(code.co_filename).parts):
            show(error)

    sys.unraisablehook = show_own


def require_usable(folder: Path) -> None:
    """Check that checkpoints can be in this folder.

    Raises:
        UserError: it is a file, a link to nothing, or has a name that tensorstore would write in another way.
    """
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder}: a link to {folder.readlink()}, which is not there; is its disk mounted?")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder, where the run's checkpoints belong; move it away")
    require_utf8(Path(os.path.abspath(folder)))


def require_utf8(path: Path) -> None:
    """Check that a path is written in UTF-8 by Python, as it is by tensorstore and in the files of a run.

    Raises:
        UserError: it is not; the arrays of checkpoints would go to another folder.
    """
    if os.fsencode(path) != str(path).encode(errors="backslashreplace"):
        raise UserError(
            f"{str(path)!a}: this name is not UTF-8 in this locale, which a run needs; set LC_ALL=C.UTF-8, or choose "
            "another folder"
        )


def _checksum(arrays: Any, progress: dict[str, Any]) -> str:
    digest = xxhash.xxh3_128(json.dumps(progress, sort_keys=True).encode())
    for leaf in jax.tree.leaves(arrays):
        digest.update(np.asarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

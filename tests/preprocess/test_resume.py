"""Runs that are killed, disturbed, extended or shared: what is in the cache at the end is what one quiet run leaves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess import clean_cache
from preprocess.__main__ import main, preprocess
from preprocess.config import PreprocessConfig
from shared.errors import UserError, run_program
from shared.locks import lock_folder
from shared.manifest import read_manifest
from shared.shards import ShardWriter
from tests import support
from train.data.dataset import open_cache

ROOT = Path(__file__).parents[2]
SMALL_CHUNKS = {"chunk_mib": 0.03, "max_buckets": 2, "min_bucket_size": 4, "checks": "off"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two pairs of training files, the first compressed, in chunks of a few molecules."""
    folder = tmp_path_factory.mktemp("input")
    named = support.write_splits(folder, train=40, valid=6)
    for name in (named["train_efd"][0], named["train_esp"][0]):
        np.savez_compressed(name, **np.load(name))
    return {**named, **SMALL_CHUNKS}


def run_with(settings: dict[str, Any], cache_dir: Path, **changes: Any) -> None:
    """Preprocess in this process."""
    preprocess(PreprocessConfig(**{**settings, "cache_dir": str(cache_dir), **changes}))


def flags(settings: dict[str, Any], cache_dir: Path) -> list[str]:
    """The settings as flags."""
    config = asdict(PreprocessConfig(**{**settings, "cache_dir": str(cache_dir)}))
    words: list[str] = []
    for name, value in config.items():
        if name in settings or name == "cache_dir":
            words += ["--" + name.replace("_", "-"), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def start(settings: dict[str, Any], cache_dir: Path) -> subprocess.Popen[str]:
    """Preprocess in a process of its own."""
    command = [sys.executable, "-m", "preprocess", *flags(settings, cache_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stages(cache_dir: Path) -> dict[str, bytes]:
    """Every file of the complete stages, and nothing else may lie there but what serves the next run."""
    others = {"surveys", ".lock", "digests.json", "current.json"}
    assert {p.name for p in cache_dir.iterdir() if not p.name.startswith(("frames-", "edges-"))} <= others
    return {str(p.relative_to(cache_dir)): p.read_bytes() for p in cache_dir.glob("*-*/*")}


@pytest.fixture(scope="module")
def quiet(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("quiet")
    run_with(settings, folder)
    found = stages(folder)
    assert len(found) > 40  # enough chunks to be killed between
    return found


def finished(cache_dir: Path) -> list[Path]:
    """Records of the finished pieces of stages in the making."""
    return list(cache_dir.glob(".*.partial/*.done.json"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Whether the condition came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments_ends_as_if_undisturbed(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """SIGKILL again and again, each time a little further on; stages that stand are whole; the last run completes."""
    rng = np.random.default_rng(seed)
    kills = 0
    for _ in range(4):
        process = start(settings, tmp_path)
        wanted = len(finished(tmp_path)) + int(rng.integers(0, 8))
        kills += wait_for(lambda wanted=wanted: len(finished(tmp_path)) > wanted, process)  # type: ignore[misc]
        time.sleep(float(rng.uniform(0.0, 0.005)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for folder in tmp_path.glob("frames-*"):
            assert read_manifest(folder) is not None
    assert kills >= 2
    process = start(settings, tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert stages(tmp_path) == quiet
    open_cache(tmp_path, 6.0, 10.0)


def test_finished_shards_are_kept_and_not_made_again(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files that stood when the run was killed are those of the end; a damaged one and a torn record are not."""
    process = start(settings, tmp_path)
    assert wait_for(lambda: len(finished(tmp_path)) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    records = sorted(finished(tmp_path))
    records[0].write_text(records[0].read_text()[:-5])
    partial = records[0].parent
    damaged = next(p for p in partial.glob("*.h5") if p.name.startswith(records[1].name.split(".")[0]))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    kept = {
        p.name: (p.stat().st_ino, p.stat().st_mtime_ns)
        for record in records[2:]
        for p in partial.glob(record.name.split(".")[0] + "-*.h5")
    }
    assert kept
    run_with(settings, tmp_path)
    assert "goes on from" in capsys.readouterr().out
    folder = next(tmp_path.glob("frames-*"))
    for name, stamp in kept.items():
        assert ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) == stamp
    assert stages(tmp_path) == quiet


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_and_ctrl_c_keep_what_is_finished(
    settings: dict[str, Any],
    quiet: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: BaseException,
) -> None:
    """One line and a code; no half-written file; then the same bytes as ever."""
    whole_write, left = ShardWriter.write, 60

    def failing_write(self: ShardWriter, name: str, first_row: int, rows: np.ndarray) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise stop
        whole_write(self, name, first_row, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", failing_write)
        code = run_program(lambda: main(flags(settings, tmp_path)))
    error = capsys.readouterr().err
    assert code == (2 if isinstance(stop, OSError) else 130), error
    assert error.count("\n") == 1, error
    assert "No space left" in error or "same command continues" in error
    assert finished(tmp_path)
    assert not list(tmp_path.glob(".*.partial/*.tmp"))
    assert not list(tmp_path.glob("frames-*"))
    run_with(settings, tmp_path)
    assert stages(tmp_path) == quiet


def without_last_pair(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings before the second training pair was appended."""
    return {**settings, "train_efd": settings["train_efd"][:1], "train_esp": settings["train_esp"][:1]}


def appended_settings(settings: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings with a third training pair of molecules that fit, and those without it."""
    efd, esp = support.read_sample("co2", "train", np.arange(40, 60))
    pair = support.write_pair(tmp_path / "more", "more", efd, esp)
    more = {"train_efd": str(pair[0]), "train_esp": str(pair[1])}
    return settings, {**settings, **{key: (*settings[key], name) for key, name in more.items()}}


def test_appended_files_add_their_own_shards_alone(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old shards are taken over, reference energies and buckets stay; --refit chooses anew."""
    before, after = appended_settings(settings, tmp_path)
    cache_dir = tmp_path / "cache"
    run_with(before, cache_dir)
    old = open_cache(cache_dir, 6.0, 10.0)
    old_files = {p.name: p.stat().st_ino for p in old.frames_folder.glob("*.h5")}
    run_with(after, cache_dir, dry_run=True)
    assert "1 pair of files appended" in capsys.readouterr().out
    run_with(after, cache_dir)
    new = open_cache(cache_dir, 6.0, 10.0)
    new_files = {p.name: p.stat().st_ino for p in new.frames_folder.glob("*.h5")}
    assert {name: new_files[name] for name in old_files} == old_files
    assert len(new_files) > len(old_files)
    assert new.frames_manifest["splits"]["train"]["samples"] == 100
    assert new.reference_energies_ev == old.reference_energies_ev
    assert [s.frame for s in new.bucket_shapes] == [s.frame for s in old.bucket_shapes]
    rows = np.concatenate([bucket.column("row") for bucket in new.load_split("train")])
    assert sorted(rows) == list(range(100))

    capsys.readouterr()
    run_with(after, cache_dir)
    assert "up to date" in capsys.readouterr().out
    run_with(after, cache_dir, refit=True)
    fitted = open_cache(cache_dir, 6.0, 10.0)
    assert fitted.frames_manifest["digest"] != new.frames_manifest["digest"]
    assert fitted.reference_energies_ev != old.reference_energies_ev
    fresh = tmp_path / "fresh"
    run_with(after, fresh)
    assert stages(fresh).items() <= stages(cache_dir).items()
    run_with(before, cache_dir)
    assert "up to date" in capsys.readouterr().out.splitlines()[-1]


def test_appended_molecules_that_do_not_fit_make_everything_anew(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More atoms than any bucket, new elements: said, and the same as a fresh run."""
    small = without_last_pair(settings)
    co2 = {key: value[:1] for key, value in settings.items() if key.startswith(("valid", "test"))}
    run_with({**small, **co2}, tmp_path / "cache")
    capsys.readouterr()
    run_with({**settings, **co2}, tmp_path / "cache")
    assert "chosen anew" in capsys.readouterr().out
    run_with({**settings, **co2}, tmp_path / "fresh")
    assert stages(tmp_path / "fresh").items() <= stages(tmp_path / "cache").items()


def test_dry_run_says_why_and_does_nothing(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing there, all there, another cutoff, another unit, other files, a damaged shard."""

    def said(**changes: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        run_with(settings, tmp_path, dry_run=True, **changes)
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().out

    assert "frames: would be built" in said()
    assert "nothing preprocessed yet" in said()
    run_with(settings, tmp_path)
    capsys.readouterr()
    assert said().count("up to date") == 2
    assert "frames: up to date" in said(physnet_cutoff=5.0)
    assert "none at cutoffs 5 Å" in said(physnet_cutoff=5.0)
    assert "dipole_unit debye → au" in said(dipole_unit="au")
    gone = without_last_pair(settings)
    assert "0 pairs new, 1 gone" in said(train_efd=gone["train_efd"], train_esp=gone["train_esp"])
    shard = next(tmp_path.glob("frames-*/*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "is damaged" in said()


def test_second_run_waits_and_says_for_whom(settings: dict[str, Any], tmp_path: Path) -> None:
    """The cache is held by this process; the other one goes on when it is given back."""
    with lock_folder(tmp_path):
        process = start(settings, tmp_path)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"in use by process {os.getpid()}" in line
        assert not list(tmp_path.glob("frames-*"))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    open_cache(tmp_path, 6.0, 10.0)


def test_two_runs_at_once_leave_one_cache(settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path) -> None:
    """Both end well, and with the bytes of one."""
    processes = [start(settings, tmp_path) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert stages(tmp_path) == quiet


def test_clean_cache_removes_what_nothing_current_needs(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other edges, other frames, a part of an interrupted run, a survey; the sizes are those of the disk."""
    for change in ({"max_buckets": 1}, {"physnet_cutoff": 5.0}, {"dipole_unit": "au"}, {}):
        run_with(settings, tmp_path, **change)
    current = open_cache(tmp_path, 6.0, 10.0)
    partial = tmp_path / ".frames-0123456789abcdef.partial"
    partial.mkdir()
    (partial / "train-00000-0.h5").write_bytes(b"x" * 2_000_000)
    kept = {p for folder in (current.frames_folder, current.edges_folder) for p in folder.iterdir()}
    before = sum(p.stat().st_blocks for p in tmp_path.rglob("*"))
    capsys.readouterr()

    clean_cache.main(["--cache-dir", str(tmp_path), "--dry-run"])
    assert partial.exists()
    promised = capsys.readouterr().out
    clean_cache.main(["--cache-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert said == promised.replace("would remove", "removed").replace("would be ", "")
    assert {p for p in tmp_path.glob("*-*/*") if p.is_file()} == kept
    assert not partial.exists()
    contents = {(pair["split"], pair["efd"], pair["esp"]) for pair in current.frames_manifest["inputs"]}
    assert len(list(tmp_path.glob("surveys/*"))) == len(contents)
    freed = float(said.splitlines()[-1].split()[-3].replace(",", ""))
    after = sum(p.stat().st_blocks for p in tmp_path.rglob("*"))
    # Blocks of 512 bytes; a file takes whole pages.
    files = said.count("removed") * 100
    assert freed * 1e6 == pytest.approx((before - after) * 512, abs=files * 4096)
    run_with(settings, tmp_path)
    assert "up to date" in capsys.readouterr().out
    clean_cache.main(["--cache-dir", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: 0.0 MB freed\n"


def test_clean_cache_of_nothing_is_told(tmp_path: Path) -> None:
    """No folder."""
    with pytest.raises(UserError, match="no such folder"):
        clean_cache.main(["--cache-dir", str(tmp_path / "absent")])


def test_clean_cache_removes_what_a_first_run_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk was full before anything was current: the part goes, finished stages stay."""
    for name in (".frames-0123456789abcdef.partial", "frames-0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000-0.h5").write_bytes(b"x" * 2_000_000)
    clean_cache.main(["--cache-dir", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path}: 2.0 MB freed"
    assert [path.name for path in tmp_path.glob("*frames-*")] == ["frames-0123456789abcdef"]

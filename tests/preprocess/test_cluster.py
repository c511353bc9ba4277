"""Preprocessing on a Dask cluster leaves the same bytes, and takes no worker that would not."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from preprocess.__main__ import preprocess
from preprocess.config import PreprocessConfig
from preprocess.stages import cluster as dask_cluster
from preprocess.stages.task_runner import _guarded
from shared.errors import UserError
from tests import support

pytestmark = pytest.mark.filterwarnings("default")
SMALL_CHUNKS = {"chunk_mib": 0.03, "max_buckets": 2, "min_bucket_size": 4, "checks": "off"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two pairs of training files in chunks of a few molecules."""
    return {**support.write_splits(tmp_path_factory.mktemp("input"), train=40, valid=6), **SMALL_CHUNKS}


def run_with(settings: dict[str, Any], cache_dir: Path, **changes: Any) -> None:
    """Preprocess in this process."""
    preprocess(PreprocessConfig(**{**settings, "cache_dir": str(cache_dir), **changes}))


def stages(cache_dir: Path) -> dict[str, bytes]:
    """Every file of the complete stages."""
    return {str(p.relative_to(cache_dir)): p.read_bytes() for p in cache_dir.glob("*-*/*")}


@pytest.fixture(scope="module")
def quiet(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What threads leave."""
    folder = tmp_path_factory.mktemp("quiet")
    run_with(settings, folder)
    return stages(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A Dask cluster that is already there: two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local:
        yield local


def test_cluster_leaves_the_same_bytes(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, cluster: LocalCluster
) -> None:
    """Each chunk a task of a scheduler that is already there."""
    run_with(settings, tmp_path, scheduler=cluster.scheduler_address)
    assert stages(tmp_path) == quiet


def test_worker_that_dies_is_replaced(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, cluster: LocalCluster
) -> None:
    """A worker is killed once the first pieces stand; the run ends with the same bytes."""
    with Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
    killed = threading.Event()

    def kill() -> None:
        while not list(tmp_path.glob(".*.partial/*.done.json")):
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)
        killed.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run_with(settings, tmp_path, scheduler=cluster.scheduler_address)
    assert killed.wait(1)
    assert stages(tmp_path) == quiet


def test_mistake_found_by_a_worker_is_one_line(settings: dict[str, Any], tmp_path: Path, cluster: LocalCluster) -> None:
    """The error of the data reaches the user as in one process, and nothing half made is left."""
    efd, esp = support.read_sample("co2", "train", np.arange(30))
    esp["esp"][17, 3] = np.nan
    pair = support.write_pair(tmp_path / "in", "bad", efd, esp)
    names = {"train_efd": (str(pair[0]),), "train_esp": (str(pair[1]),), "test_efd": (), "test_esp": ()}
    bad = {**settings, **names, "valid_efd": settings["valid_efd"][:1], "valid_esp": settings["valid_esp"][:1]}
    with pytest.raises(UserError, match=r"bad-esp\.npz: 'esp' is nan in row 17"):
        run_with(bad, tmp_path / "cache", scheduler=cluster.scheduler_address)
    assert stages(tmp_path / "cache") == {}


def test_relative_paths_are_those_of_the_user(
    settings: dict[str, Any], quiet: dict[str, bytes], tmp_path: Path, cluster: LocalCluster, monkeypatch: Any
) -> None:
    """The workers were started in another folder."""
    folder = Path(settings["train_efd"][0]).parent
    monkeypatch.chdir(folder)
    named = {name: tuple(os.path.relpath(p, folder) for p in settings[name]) for name in settings if "_e" in name}
    run_with({**settings, **named}, Path(os.path.relpath(tmp_path, folder)), scheduler=cluster.scheduler_address)
    assert stages(tmp_path) == quiet
    assert not list(tmp_path.glob(".seen*"))


def test_worker_of_other_code_is_refused(
    settings: dict[str, Any], tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes would be others, under the same digest; nothing is left in the cache."""
    version = dask_cluster.own_code()["numba"]
    own = {**dask_cluster.own_code(), "numba": "0.1"}
    monkeypatch.setattr(dask_cluster, "own_code", lambda: own)
    with pytest.raises(UserError, match=rf"the Dask worker tcp://\S+ cannot take part: it has numba {version} instead"):
        run_with(settings, tmp_path, scheduler=cluster.scheduler_address)
    assert stages(tmp_path) == {}


def test_worker_that_joins_later_is_asked_too() -> None:
    """By its first task."""
    result = _guarded(lambda: 1, {**dask_cluster.own_code(), "h5py": "0.1"})
    assert isinstance(result, UserError)
    assert "h5py" in str(result)
    assert _guarded(lambda: 1, dask_cluster.own_code()) == 1


def test_worker_that_sees_other_files_is_refused(tmp_path: Path) -> None:
    """No file, another one of the same name, no cache; the right ones are accepted."""
    path, token = tmp_path / "a.npz", tmp_path / ".seen"
    np.savez(path, R=np.zeros(3))
    token.touch()
    digest = dask_cluster.NpzFile(path).content_digest
    for files, seen, wanted in (
        ({path: digest}, token, ""),
        ({path: digest}, None, ""),
        ({path: "0" * 32}, token, f"it sees another file as {path}"),
        ({tmp_path / "b.npz": digest}, token, "it cannot read"),
        ({path: digest}, tmp_path / "gone" / ".seen", f"it does not see the cache {tmp_path / 'gone'}"),
    ):
        named = {str(path): digest for path, digest in files.items()}
        found = dask_cluster.find_lacking(dask_cluster.Needs(dask_cluster.own_code(), named, seen))
        assert found.startswith(wanted)
        assert bool(found) == bool(wanted)


def test_worker_without_this_program_is_refused(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot import the module that is asked for."""
    monkeypatch.setattr(dask_cluster, "__name__", "preprocess.stages.of_another_version")
    needs = dask_cluster.Needs(dask_cluster.own_code(), {}, None)
    with Client(cluster) as client, pytest.raises(UserError, match=r"does not have this program.*of_another_version"):
        dask_cluster._require(client, needs)


def test_nobody_to_work_is_one_line(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens; something else does, and never answers; no address; a scheduler without workers."""
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(dask_cluster, "_WORKER_SECONDS", 0.5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        silent = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        for address in ("tcp://127.0.0.1:9", silent, "nowhere", "http://localhost:1"):
            with pytest.raises(UserError, match=f"--scheduler {address}: cannot be reached"):
                run_with(settings, tmp_path, scheduler=address)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty,
        pytest.raises(UserError, match=r"no worker came within 0\.5 s"),
    ):
        run_with(settings, tmp_path, scheduler=empty.scheduler_address)
    assert "waiting up to 0.5 s for its first worker" in capsys.readouterr().out

"""A training belongs to the data of its own preprocessing, whatever else is preprocessed in the same cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess import __main__ as preprocess
from preprocess import clean_cache
from shared.errors import UserError
from shared.locks import Lock
from shared.manifest import current_stages
from tests import support
from tests.end_to_end.processes import Run
from train.data.dataset import open_cache
from train.run import loop
from train.run_folder import RunFolder, load_config

Files = dict[str, tuple[str, ...]]


def write_files(folder: Path, name: str, first: int) -> Files:
    """Eight, three and three CO2 of the sample, from a row on, as files of every split."""
    settings: Files = {}
    for split, rows in (("train", 8), ("valid", 3), ("test", 3)):
        files = support.read_sample("co2", "train", np.arange(first, first + rows))
        first += rows
        efd, esp = support.write_pair(folder, f"{name}-{split}", *files)
        settings |= {f"{split}_efd": (str(efd),), f"{split}_esp": (str(esp),)}
    return settings


@dataclass(frozen=True)
class Two:
    """Data sets and runs "a" and "b" in one cache, whose latest preprocessing is that of "b"."""

    files: dict[str, Files]
    cache: Path
    runs: Path
    printed: dict[str, str]

    def preprocess(self, name: str, **changes: Any) -> str:
        """Make these data the latest; returns the frames' name."""
        changes = {"min_bucket_size": 128, **changes}
        support.run_preprocess(self.files[name], self.cache, **changes)
        return f"frames-{current_stages(self.cache)['frames'][:16]}"

    def train(self, name: str, **changes: Any) -> None:
        """In this process: of what ends before anything is compiled."""
        config = load_config(RunFolder(self.runs / name))
        loop.train(replace(config, **{"runs_dir": str(self.runs), **changes}))

    def shards(self, name: str) -> dict[str, tuple[bytes, int]]:
        """Contents and inodes of the files of the stages that a run is trained on."""
        record = json.loads((self.runs / name / "run.json").read_text())["data"]
        folders = [self.cache / f"{stage}-{record[stage][:16]}" for stage in ("frames", "edges")]
        return {str(p): (p.read_bytes(), p.stat().st_ino) for folder in folders for p in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """Both begun by ``make train`` in a cache whose name has a blank, the second while the first starts.

    The second is stopped when it has said what it trains on: compiling is most of the time here.
    """
    if shutil.which("make") is None:
        pytest.skip("no make here")
    folder = tmp_path_factory.mktemp("two")
    files = {name: write_files(folder / "input", name, first) for name, first in (("a", 0), ("b", 14))}
    cache, runs = folder / "one cache", folder / "runs"
    first = Run.by_make(files["a"], cache, runs, "a", epochs=2)
    # The first one's preprocessing has ended; its training takes seconds to start.
    while not (cache / "current.json").exists():
        assert first.process.poll() is None, first.process.communicate()[0]
        time.sleep(0.01)
    second = Run.by_make(files["b"], cache, runs, "b", epochs=2)
    said = second.folder / "train.log"
    while not said.exists() or "train: data" not in said.read_text():
        assert second.process.poll() is None, second.process.communicate()[0]
        time.sleep(0.01)
    _, stopped, _ = second.stop(signal.SIGTERM)
    assert "Error 75" in stopped
    return Two(files, cache, runs, {"a": first.finish(), "b": stopped})


@pytest.fixture
def two(trained: Two, tmp_path: Path) -> Two:
    """A copy of both runs and their cache, to be changed."""
    shutil.copytree(trained.cache.parent, tmp_path / "two", symlinks=True)
    copied = replace(trained, cache=tmp_path / "two" / trained.cache.name, runs=tmp_path / "two" / "runs")
    for file in copied.runs.glob("*/config.toml"):
        file.write_text(file.read_text().replace(str(trained.cache.parent), str(tmp_path / "two")))
    return copied


def test_each_trains_on_its_own_data(trained: Two) -> None:
    energies = np.load(trained.files["a"]["train_efd"][0])["E"]
    references = json.loads((trained.runs / "a" / "best" / "model.json").read_text())["reference_energies_ev"]
    # Of molecules that are all CO2, reference energies reproduce the mean.
    assert references["6"] + 2 * references["8"] == pytest.approx(np.mean(energies), abs=1e-6)
    for name, other in (("a", "b"), ("b", "a")):
        assert f"8 train, 3 valid, 3 test molecules of {name}-train-efd.npz" in trained.printed[name]
        assert f"{other}-train-efd.npz" not in trained.printed[name]


def test_a_run_names_its_files(trained: Two) -> None:
    for name in ("a", "b"):
        data = json.loads((trained.runs / name / "run.json").read_text())["data"]
        named = [(f["split"], f["efd"], f["esp"], f["samples"]) for f in data["files"]]
        splits = (("train", 8), ("valid", 3), ("test", 3))
        assert named == [(s, f"{name}-{s}-efd.npz", f"{name}-{s}-esp.npz", n) for s, n in splits]
        manifest = open_cache(trained.cache, 6.0, 10.0, data["frames"]).frames_manifest
        assert data["inputs"] == manifest["inputs"]
        assert all(len(entry[file]) == 32 for entry in data["inputs"] for file in ("efd", "esp"))


def test_a_run_goes_on_with_its_own_data(two: Two) -> None:
    """Other data, and its own files in other units, were preprocessed since; its shards are as they were."""
    before = two.shards("a")
    two.preprocess("b")
    two.preprocess("a", grid_unit="bohr")
    latest = two.preprocess("b")
    assert two.shards("a") == before
    run = Run(two.cache, two.runs, "a", epochs=3)
    printed = run.finish()
    assert "train: data: 8 train, 3 valid, 3 test molecules of a-train-efd.npz" in printed
    assert f"the latest preprocessing in {two.cache} is of other data" in printed
    assert latest in printed
    assert "continuing after epoch 2 of 3" in printed
    assert len(run.metrics()) == 3


def test_other_data_under_the_same_name_are_refused(two: Two) -> None:
    frames = two.preprocess("b")
    with pytest.raises(
        UserError, match=r"trained on .* a-train-efd\.npz.*, not on .* b-train-efd\.npz.*--name"
    ) as refusal:
        two.train("a", frames=frames)
    assert "\n" not in str(refusal.value)
    frames = two.preprocess("a", grid_unit="bohr")
    with pytest.raises(UserError, match=r"the same files preprocessed in another way \(grid_unit angstrom → bohr\)"):
        two.train("a", frames=frames)


def test_frames_that_are_gone_are_named(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    two.preprocess("b")
    with pytest.raises(UserError, match=r"not in .*elsewhere; it was trained with --cache-dir '.*one cache'"):
        two.train("a", cache_dir=str(two.cache.parent / "elsewhere"))
    clean_cache.main(["--cache-dir", str(two.cache), "--runs-dir", str(two.runs)])
    said = capsys.readouterr().out
    assert f"{two.runs / 'a'} needs 8 train, 3 valid, 3 test molecules of a-train-efd.npz" in said
    assert f"{two.runs / 'b'} needs" not in said
    with pytest.raises(UserError, match=r"8 train, 3 valid.*a-train-efd\.npz.*not in .* any more.*`make preprocess"):
        two.train("a")
    # With the advice taken, it is found again.
    two.preprocess("a")
    assert open_cache(two.cache, 6.0, 10.0).record == json.loads((two.runs / "a" / "run.json").read_text())["data"]


def test_the_same_files_with_other_buckets_are_no_way_back(two: Two) -> None:
    """The advice to preprocess again would lead round in circles."""
    two.preprocess("a")
    path = two.runs / "a" / "run.json"
    record = json.loads(path.read_text())
    record["data"]["frames"] = "f" * 32
    del record["content_checksum"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"have other buckets and reference energies: begin another run .*--init-from"):
        two.train("a")


def test_data_of_a_running_training_stay(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    two.preprocess("b")
    before = two.shards("a")
    lock = Lock(two.runs / "a")
    assert lock.acquire()
    try:
        clean_cache.main(["--cache-dir", str(two.cache), "--runs-dir", str(two.runs)])
    finally:
        lock.release()
    assert two.shards("a") == before
    assert capsys.readouterr().out.count(f"{two.runs / 'a'} is being trained on it") == 2
    clean_cache.main(["--cache-dir", str(two.cache), "--runs-dir", str(two.runs)])
    assert two.shards("b")
    assert len(list(two.cache.glob("frames-*"))) == 1


def test_training_is_told_its_frames_and_the_shared_flags(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, words, environment: became.append(words[1:]))
    files = [word for key, names in two.files["a"].items() for word in (f"--{key.replace('_', '-')}", *names)]
    own = [*files, "--cache-dir", str(two.cache), "--physnet-cutoff=5.5", "--checks", "off"]
    preprocess.main([*own, "--then-train", "--name", "x", "--seed", "3"])
    frames = f"frames-{current_stages(two.cache)['frames'][:16]}"
    shared = [f"--cache-dir={two.cache}", "--physnet-cutoff=5.5"]
    assert became == [["-m", "train", "--frames", frames, *shared, "--name", "x", "--seed", "3"]]
    preprocess.main([*own, "--dry-run", "--then-train"])
    preprocess.main(own)
    assert len(became) == 1

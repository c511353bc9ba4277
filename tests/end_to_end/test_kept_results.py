"""Finished work is safe: what a run lacks, or holds that is not its own, is said, and its results stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.errors import UserError
from train.run import loop
from train.run_folder import RunFolder, load_config

GOLDEN = Path(__file__).parents[1] / "golden" / "run"
EPOCHS = 2
"""Of the run there: it has nothing left to train."""


WRITTEN = ("run.json", "config.toml", "train.log", ".lock")
"""Files that every start of a run may write."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    monkeypatch.setattr(loop, "_finish", lambda *_, **__: None)
    return RunFolder(Path("runs/golden"))


def go_on(folder: RunFolder) -> None:
    loop.train(replace(load_config(folder), epochs=EPOCHS, plot_results=False, tensorboard=False))


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Files of a run, without those that every start writes."""
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder.path)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if name not in WRITTEN}


def move_away(folder: RunFolder) -> None:
    folder.checkpoints.rename(folder.path / "elsewhere")


def as_file(folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints)
    folder.checkpoints.write_text("")


def as_link_to_nothing(folder: RunFolder) -> None:
    move_away(folder)
    folder.checkpoints.symlink_to("/unmounted/disk")


def only_incomplete(folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints / "10" / "state")


def only_empty(folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints)
    (folder.checkpoints / "10").mkdir(parents=True)


def of_another_run(folder: RunFolder) -> None:
    path = folder.checkpoints / "10" / "progress" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "0123456789ab"}))


def without_record(folder: RunFolder) -> None:
    folder.record_file.unlink()


def halved_record(folder: RunFolder) -> None:
    folder.record_file.write_bytes(folder.record_file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            move_away,
            r"has results \(metrics.jsonl, best/model.json, best/weights.safetensors, evaluation-valid.json\)",
        ),
        (as_file, "checkpoints: not a folder"),
        (as_link_to_nothing, "checkpoints: a link to /unmounted/disk, which is not there"),
        (only_incomplete, "10: damaged .incomplete: it lacks state/_METADATA., and so are all 1 checkpoints"),
        (only_empty, "10: damaged .incomplete: it lacks progress/metadata., and so are all 1 checkpoints"),
        (of_another_run, "a checkpoint of another run .0123456789ab"),
        (without_record, "run.json: missing or damaged, so the run's data are unknown; copy it again, or train under"),
        (halved_record, "run.json: damaged; .* train under another --name with --init-from runs/golden"),
    ],
)
def test_what_cannot_go_on_is_refused_and_stays(
    folder: RunFolder, damage: Callable[[RunFolder], None], message: str
) -> None:
    damage(folder)
    before = contents(folder)
    with pytest.raises(UserError, match=message) as caught:
        go_on(folder)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_settings_that_are_lost_or_changed_are_named(folder: RunFolder) -> None:
    config = load_config(folder)
    go_on(folder)  # records the settings, which this run of an earlier version did not
    text = folder.config_file.read_text()
    folder.config_file.write_text(text.replace("learning_rate = 0.003", "learning_rate = 0.002"))
    with pytest.raises(
        UserError, match=r"config.toml: damaged or changed .*learning_rate is 0.002, was 0.003; run.json"
    ):
        load_config(folder)
    folder.config_file.unlink()
    before = contents(folder)
    with pytest.raises(UserError, match=r"holds no config.toml, which is lost, so it cannot go on"):
        loop.train(replace(config, epochs=EPOCHS))
    assert contents(folder) == before


def test_foreign_files_and_broken_copies_beside_the_checkpoints(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest that is whole is taken; what is not a checkpoint stays."""
    for name in ("11", "3 (copy)", "lost+found", "010"):
        (folder.checkpoints / name).mkdir()
    shutil.copytree(folder.checkpoints / "10", folder.checkpoints / "12")
    (folder.checkpoints / "12" / "state" / "manifest.ocdbt").unlink()
    for name in (".DS_Store", "notes.txt", "13"):
        (folder.checkpoints / name).write_text("")
    before = contents(folder)
    go_on(folder)
    printed = capsys.readouterr().out
    assert "12: damaged (incomplete: it lacks state/manifest.ocdbt); going on from the one before" in printed
    assert "finished its 2 epochs" in printed
    after = contents(folder)
    for name, content in before.items():
        if not name.startswith(("checkpoints/11", "checkpoints/12", "checkpoints/13")):
            assert after[name] == content, name


def test_lost_best_weights_and_metrics(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint of the best epoch has the weights; the metrics that are left stay."""
    expected = load_file(folder.best / "weights.safetensors")
    (folder.best / "model.json").unlink()
    lines = folder.metrics_file.read_bytes().splitlines(keepends=True)
    folder.metrics_file.write_bytes(b"\xff" + lines[0] + lines[1])
    go_on(folder)
    printed = capsys.readouterr().out
    assert "best/model.json: no such file" in printed
    assert "best/ holds the weights of epoch 2 now" in printed
    assert "metrics.jsonl has lost the metrics of epoch 1\n" in printed
    found = load_file(folder.best / "weights.safetensors")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert [path.name for path in folder.path.glob("best-damaged-*/*")] == ["weights.safetensors"]
    assert folder.metrics_file.read_bytes() == lines[1]
    assert (folder.path / "metrics-damaged.jsonl").read_bytes() == b"\xff" + lines[0] + lines[1]

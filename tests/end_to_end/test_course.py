"""The course of a run: divergence, early stopping, fine-tuning, and what watches it. One small model for all."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from shared.errors import UserError
from tests import support
from tests.end_to_end.test_train import replaced, settings, use_steps
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.model.joint import build_model, clean
from train.model.saved_model import TrainedModel, load_weights
from train.run import loop, tracking
from train.run.checkpoint import Checkpoints
from train.run.session import with_references
from train.step.compiled_steps import Steps
from train.step.devices import all_devices
from train.step.metrics import METRIC_NAMES
from train.step.optimizer import schedule

DIVERGED = r"diverged at step \d+ \(epoch 1, batch \d of 3\): loss .* --init-from"


@dataclasses.dataclass
class Small:
    """Settings, and functions that all runs here share."""

    config: TrainConfig
    steps: Steps
    loader: Loader

    def run(self, patch: pytest.MonkeyPatch, runs: Path, **changes: Any) -> Path:
        config = dataclasses.replace(self.config, runs_dir=str(runs), **changes)
        numbers = self.steps.devices.place(schedule(config, self.loader.batches_per_epoch))
        use_steps(patch, replaced(self.steps, _schedule=numbers))
        return loop.train(config)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("course")
    files = support.write_splits(folder / "input", train=5, valid=2)
    support.run_preprocess(files, folder / "cache", max_buckets=1)
    config = settings(folder / "cache", folder / "runs", epochs=2, batch_size=4, data_placement="device")
    loader = Loader(open_cache(folder / "cache", 6.0, 10.0).load_split("train"), 4, EspSelection(1.0))
    return Small(config, Steps(config, loader.batches_per_epoch, all_devices()), loader)


@pytest.fixture(scope="module")
def trained(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return small.run(patch, tmp_path_factory.mktemp("trained"))


def test_what_a_new_run_begins_with(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network as it was drawn, but for charges fitted to the dipoles, and displacements of the wanted length."""
    folder = small.run(monkeypatch, tmp_path, epochs=1, learning_rate=1e-30)
    begun = flatten_dict(load_weights(folder / "best").params, sep="/")
    drawn = flatten_dict(small.steps.parameters.to_host(small.steps.create_state(small.config.seed).params), sep="/")
    changed = {name for name in drawn if not np.allclose(begun[name], drawn[name], rtol=0.0, atol=1e-20)}
    assert changed == {"physnet/params/shift", "dcmnet/params/head/tensor/kernel"}
    before, after = (params["dcmnet/params/head/tensor/kernel"] for params in (drawn, begun))
    factor = np.linalg.norm(after[..., 1, :]) / np.linalg.norm(before[..., 1, :])
    np.testing.assert_allclose(after[..., 1, :], factor * before[..., 1, :], rtol=1e-5)
    np.testing.assert_array_equal(after[..., 0, :], before[..., 0, :])
    assert abs(factor - 1.0) > 0.01


def test_divergence_is_told_with_its_causes(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"diverged at step \d+ \(epoch 1, batch \d of 3\): loss .* --init-from"
    ) as raised:
        small.run(monkeypatch, tmp_path, learning_rate=1e6, warmup_epochs=0.0)
    record = json.loads((tmp_path / "joint" / "divergence.json").read_text())
    plan = small.loader.plan(small.config.seed, 0)[record["step"]]
    # The files: five CO2 and five others.
    assert [m["row"] for m in record["molecules"]] == small.loader.buckets[0].take("row", plan.rows).tolist()
    assert all(("CO2" in m["name"]) == (m["row"] < 5) for m in record["molecules"])
    assert f"row {record['molecules'][0]['row']}" in str(raised.value)
    assert record["step"] == record["batch"] - 1
    assert not record["loss"] <= small.config.largest_loss
    worst = max(record["gradient_norms"], key=lambda name: np.nan_to_num(record["gradient_norms"][name], nan=np.inf))
    assert worst in str(raised.value)
    assert (record["best_epoch"], record["checkpoint"]) == (0, 0)
    assert not (tmp_path / "joint" / "best").exists()


def epochs_with(
    small: Small, patch: pytest.MonkeyPatch, runs: Path, values: list[dict[str, float]], **changes: Any
) -> Path:
    """A run, or its continuation, whose further epochs have these validation metrics."""
    evaluated = iter(values)
    whole = dict.fromkeys(METRIC_NAMES, 1.0)
    with patch.context() as inner:
        inner.setattr(loop, "evaluate_split", lambda *_: [{**whole, **next(evaluated)}])
        return small.run(inner, runs, **changes)


def test_early_stopping(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    # The energy gets worse when the ESP gets better; the loss goes another way.
    columns = zip((1.0, 1.0, 3.0, 1.5), (5.0, 4.0, 2.0, 3.0), (1.0, 2.0, 3.0, 4.0), strict=True)
    values = [{"energy_mae_ev": e, "esp_rmse_kcal_per_mol_e": v, "loss": loss} for e, v, loss in columns]
    folder = epochs_with(small, monkeypatch, tmp_path, values, epochs=9, early_stopping=2)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    assert "the best was epoch 2" in capsys.readouterr().out
    # It stays stopped, until it may try for longer.
    small.run(monkeypatch, tmp_path, epochs=9, early_stopping=2)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    small.run(monkeypatch, tmp_path, epochs=5, early_stopping=3)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5


def best_epochs(folder: Path) -> list[int]:
    return [json.loads(line)["best_epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_best_by_the_loss(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [{"loss": loss, "energy_mae_ev": 1.0 / loss} for loss in (3.0, 2.0, 4.0)]
    by_loss = epochs_with(small, monkeypatch, tmp_path / "loss", values, epochs=3, best_by="loss")
    by_errors = epochs_with(small, monkeypatch, tmp_path / "errors", values, epochs=3)
    assert (best_epochs(by_loss), best_epochs(by_errors)) == ([1, 2, 2], [1, 1, 3])
    # Continued by the other criterion: epoch 3's loss was 4.
    values = [{"loss": 3.5, "energy_mae_ev": 9.0}]
    epochs_with(small, monkeypatch, tmp_path / "errors", values, epochs=4, best_by="loss")
    assert best_epochs(by_errors) == [1, 1, 3, 4]


def test_a_checkpoint_without_a_score(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As earlier versions wrote them: what the best epoch's errors were stands in metrics.jsonl."""
    values = [{"forces_mae_ev_per_angstrom": forces} for forces in (1.0, 2.0)]
    folder = epochs_with(small, monkeypatch, tmp_path, values, epochs=2)
    checkpoints = Checkpoints(folder / "checkpoints")
    saved, _ = checkpoints.restore(small.steps.abstract_state())
    newest = checkpoints.latest()
    assert saved is not None
    assert newest is not None
    checkpoints.save(saved._replace(progress=dataclasses.replace(saved.progress, best_score=None)), newest + 1)
    checkpoints.close()
    values = [{"forces_mae_ev_per_angstrom": forces} for forces in (1.5, 0.5)]
    epochs_with(small, monkeypatch, tmp_path, values, epochs=4)
    assert best_epochs(folder) == [1, 1, 1, 4]


def test_fine_tuning_begins_with_the_other_run_s_weights(
    small: Small, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = small.run(monkeypatch, tmp_path, epochs=1, learning_rate=1e-12, init_from=str(trained), seed=5)
    weights, before = (load_file(folder / "best" / "weights.safetensors") for folder in (tuned, trained))
    for name in before:
        np.testing.assert_allclose(weights[name], before[name], atol=1e-9, err_msg=name)
    errors, expected = (json.loads((f / "evaluation-valid.json").read_text())["metrics"] for f in (tuned, trained))
    assert errors == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert json.loads((tuned / "run.json").read_text())["init_from"]

    other = {"n_dcm": 3, "share_features": not small.config.share_features}
    share = "--share-features" if small.config.share_features else "--no-share-features"
    with pytest.raises(UserError, match=rf"take over --n-dcm 2 {share}$"):
        loop.train(dataclasses.replace(small.config, runs_dir=str(tmp_path), name="x", init_from=str(trained), **other))
    with pytest.raises(UserError, match="no such file"):
        small.run(monkeypatch, tmp_path, name="y", init_from=str(tmp_path / "nothing"))
    assert not {"x", "y"} & {path.name for path in tmp_path.iterdir()}


def test_total_energies_survive_other_reference_energies(small: Small, trained: Path) -> None:
    """The model predicts E minus references: with other references, and other shifts, the total is the same."""
    model = load_weights(trained / "best")
    changed = with_references(model, {z: e + 0.1 * z for z, e in model.reference_energies_ev.items()})
    batch = small.loader.read(small.loader.plan()[0])

    def totals(model: TrainedModel) -> np.ndarray:
        energy = jax.jit(lambda params: build_model(model.config).apply(params, clean(batch)).energy)(model.params)
        references = np.zeros(119)
        references[list(model.reference_energies_ev)] = list(model.reference_energies_ev.values())
        return np.asarray(energy, np.float64) + references[batch.atomic_numbers].sum(axis=1)

    real = batch.molecule_mask
    np.testing.assert_allclose(totals(changed)[real], totals(model)[real], atol=1e-4)
    assert changed.reference_energies_ev != model.reference_energies_ev


def events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Steps, names and values in TensorBoard's files, read without its library: length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    found = {(step, tag): value for step, tag, value in events(trained / "tensorboard")}
    assert {step for step, _ in found} == {1, 2}
    for record in records:
        for split in ("train", "valid"):
            for name, value in record[split].items():
                assert found[record["epoch"], f"{split}/{name}"] == pytest.approx(value, rel=1e-6)


def test_trackers_that_are_not_installed(
    small: Small, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_module", lambda name: None)
    folder = small.run(monkeypatch, tmp_path)
    assert not (folder / "tensorboard").exists()
    with pytest.raises(UserError, match="wandb is not installed"):
        small.run(monkeypatch, tmp_path, name="watched", wandb="project")
    assert not (tmp_path / "watched").exists()

"""Whole runs on a small cache: what they leave behind, that they can be interrupted, and what they compile."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.errors import UserError
from tests import support
from train import evaluate, run_folder
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.model.joint import build_model, clean
from train.model.saved_model import load_weights
from train.run import loop, session
from train.run.checkpoint import Checkpoints, Progress
from train.run_folder import prepare_run
from train.step.compiled_steps import Steps
from train.step.devices import all_devices
from train.step.metrics import METRIC_NAMES
from train.step.optimizer import TrainState

EPOCHS = 4
PICKLE = b"\x80\x04"


def settings(cache_dir: Path, runs_dir: Path, **changes: Any) -> TrainConfig:
    return support.small_config(
        **{
            "cache_dir": str(cache_dir),
            "runs_dir": str(runs_dir),
            "epochs": EPOCHS,
            "learning_rate": 3e-3,
            "ema_decay": 0.9,
            "plot_results": False,
            # One layer of each: compiling is most of the time here.
            "physnet_iterations": 1,
            "dcmnet_iterations": 1,
            "dcmnet_max_degree": 1,
            **changes,
        }
    )


class LossOnTheDevice:
    """Stands for a loss that has not arrived: a host that asks for its value would wait for the device."""

    def is_ready(self) -> bool:
        return False

    def block_until_ready(self) -> None:
        """Waiting for a dispatch long past keeps the queue short; it fetches nothing."""

    def __float__(self) -> float:
        raise AssertionError("the host waits for the loss of a step")

    __array__ = item = __float__


@dataclasses.dataclass
class Trained:
    """An uninterrupted run, and the compiled functions that every run of this file shares."""

    config: TrainConfig
    steps: Steps
    folder: Path
    buckets: int


def use_steps(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> None:
    """Runs with the same settings compile the same functions: once is enough, and a second time would show."""
    monkeypatch.setattr(session, "Steps", lambda *_: steps)


def replaced(steps: Steps, **methods: Any) -> Steps:
    """The same compiled functions, but for these."""
    other = copy.copy(steps)
    for name, method in methods.items():
        setattr(other, name, method)
    return other


@pytest.fixture(scope="module")
def trained(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = settings(small_cache, tmp_path_factory.mktemp("runs"), plot_results=True)
    train_buckets = open_cache(small_cache, 6.0, 10.0).load_split("train")
    loader = Loader(train_buckets, config.batch_size, EspSelection(config.esp_radius_factor))
    steps = Steps(config, loader.batches_per_epoch, all_devices())

    def without_waiting(*arguments: Any) -> Any:
        state, sums, _ = steps.train_resident(*arguments)
        return state, sums, LossOnTheDevice()

    with pytest.MonkeyPatch.context() as patch:
        use_steps(patch, replaced(steps, train_resident=without_waiting))
        folder = loop.train(config)
    return Trained(config, steps, folder, len(train_buckets))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"], record["samples_per_second"], record["input_wait_seconds"]
    return records


def last_state(trained: Trained, folder: Path) -> tuple[TrainState, Progress]:
    checkpoints = Checkpoints(folder / "checkpoints")
    saved, damaged = checkpoints.restore(trained.steps.abstract_state())
    checkpoints.close()
    assert saved is not None
    assert not damaged
    return saved.state, saved.progress


def test_a_run_leaves_its_files(trained: Trained) -> None:
    folder = trained.folder
    assert folder == Path(trained.config.runs_dir) / trained.config.name
    assert run_folder.load_config(run_folder.RunFolder(folder)) == trained.config
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for record in records:
        usual = {name for name in METRIC_NAMES if not name.startswith("quadrupole")}
        assert set(record["valid"]) == usual
        assert usual - set(record["train"]) <= {"esp_rmse_point_charges_kcal_per_mol_e"}
        assert all(np.isfinite(value) for values in (record["train"], record["valid"]) for value in values.values())
        assert record["seconds"] > 0
        assert record["samples_per_second"] == pytest.approx(20 / record["seconds"])
    pictures = list((folder / "plots").glob("*.png"))
    assert len(pictures) >= 2
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    evaluation = json.loads((folder / "evaluation-valid.json").read_text())
    assert evaluation["molecules"] == 10
    assert evaluation["metrics"] == pytest.approx(best_of(records)["valid"], rel=1e-5, abs=1e-7)
    assert [record["best_epoch"] for record in records] == [best_of(records[: i + 1])["epoch"] for i in range(4)]


def best_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """That of the smallest product of the trained errors."""
    names = ("energy_mae_ev", "forces_mae_ev_per_angstrom", "dipole_mae_debye", "esp_rmse_kcal_per_mol_e")
    return min(records, key=lambda record: np.prod([record["valid"][name] for name in names]))


def test_the_loss_goes_down(trained: Trained) -> None:
    records = read_metrics(trained.folder)
    # A dozen steps: the whole, and the energies; the charges begin fitted to the dipoles.
    for split in ("train", "valid"):
        first, last = records[0][split], records[-1][split]
        assert last["energy_mae_ev"] < 0.95 * first["energy_mae_ev"], split
        assert last["loss"] < first["loss"], split


def test_no_file_of_a_run_is_a_pickle(trained: Trained) -> None:
    files = [path for path in trained.folder.rglob("*") if path.is_file()]
    assert any("checkpoints" in path.parts for path in files)
    for path in files:
        assert not path.read_bytes().startswith(PICKLE), path
        assert path.suffix not in (".pkl", ".pickle"), path
    weights = load_file(trained.folder / "best" / "weights.safetensors")
    assert weights["physnet/params/output_0/linear/kernel"].shape == (8, 2)
    assert json.loads((trained.folder / "best" / "model.json").read_text())["model"]["n_dcm"] == 2


def test_interrupted_and_continued_is_bit_identical(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_steps(monkeypatch, trained.steps)
    config = dataclasses.replace(trained.config, runs_dir=str(tmp_path), plot_results=False, checkpoint_epochs=1)
    append = run_folder.append_metrics

    def interrupt(folder: run_folder.RunFolder, record: dict[str, Any]) -> None:
        append(folder, record)
        if record["epoch"] == 3:  # trained and written down, but after the last checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append_metrics", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config)
    folder = tmp_path / config.name
    state, progress = last_state(trained, folder)
    assert progress.epoch == 2
    assert int(state.step) > 0
    assert not (folder / "evaluation-valid.json").exists()

    loop.train(config)
    assert read_metrics(folder) == read_metrics(trained.folder)
    whole, continued = (load_file(path / "best" / "weights.safetensors") for path in (trained.folder, folder))
    assert whole.keys() == continued.keys()
    for name in whole:
        np.testing.assert_array_equal(continued[name], whole[name], err_msg=name)
    (first, first_progress), (second, second_progress) = (last_state(trained, p) for p in (trained.folder, folder))
    assert first_progress == second_progress
    assert first_progress.epoch == EPOCHS
    for (path, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(b), np.asarray(a), err_msg=str(path))
    # The interrupted, the continued and the uninterrupted run, four epochs: one compilation for each bucket.
    assert trained.steps.compilations() == (trained.buckets, trained.buckets)


def test_streamed_data_give_the_same_run(trained: Trained, tmp_path: Path) -> None:
    config = dataclasses.replace(trained.config, runs_dir=str(tmp_path), plot_results=False, data_placement="stream")
    streamed, resident = read_metrics(loop.train(config)), read_metrics(trained.folder)
    for a, b in zip(streamed, resident, strict=True):
        assert a["train"] == pytest.approx(b["train"], rel=1e-5, abs=1e-7)
        assert a["valid"] == pytest.approx(b["valid"], rel=1e-5, abs=1e-7)


def test_a_finished_run_is_not_trained_again(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a step was taken")

    use_steps(monkeypatch, replaced(trained.steps, train=never, train_resident=never))
    before = (trained.folder / "metrics.jsonl").read_bytes()
    weights = (trained.folder / "best" / "weights.safetensors").read_bytes()
    loop.train(dataclasses.replace(trained.config, plot_results=False))
    assert (trained.folder / "metrics.jsonl").read_bytes() == before
    assert (trained.folder / "best" / "weights.safetensors").read_bytes() == weights


def test_other_settings_in_the_same_folder(trained: Trained) -> None:
    with pytest.raises(UserError, match=r"learning_rate 0\.003 → 0\.1"):
        loop.train(dataclasses.replace(trained.config, learning_rate=0.1))
    with pytest.raises(UserError, match="n_dcm 2 → 4"):
        loop.train(dataclasses.replace(trained.config, n_dcm=4))


def test_no_target_with_a_weight(small_cache: Path, tmp_path: Path) -> None:
    weights = dict.fromkeys(("energy_weight", "forces_weight", "dipole_weight", "esp_weight"), 0.0)
    with pytest.raises(UserError, match=r"--energy-weight, .* are all 0"):
        loop.train(settings(small_cache, tmp_path, **weights))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run(small_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not a run"):
        loop.train(settings(small_cache, tmp_path))
    assert [path.name for path in (tmp_path / "joint").iterdir()] == ["thesis.tex"]


def test_a_run_that_was_killed_while_it_began_begins_again(small_cache: Path, tmp_path: Path) -> None:
    """With its record written, and its settings not yet."""
    config, cache = settings(small_cache, tmp_path), open_cache(small_cache, 6.0, 10.0)
    folder = prepare_run(config, cache)
    record = folder.record_file.read_text()
    folder.config_file.rename(folder.path / ".config.toml.12.tmp")
    prepare_run(config, cache)
    assert json.loads(folder.record_file.read_text())["id"] == json.loads(record)["id"]
    assert folder.config_file.exists()


def test_cutoff_that_was_not_preprocessed(small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PHYSNET_CUTOFF=5 DCMNET_CUTOFF=10"):
        loop.train(settings(small_cache, tmp_path, physnet_cutoff=5.0))
    assert not list(tmp_path.iterdir())


def test_evaluation_on_the_test_split(trained: Trained, small_cache: Path) -> None:
    evaluate.main(["--run", str(trained.folder), "--split", "test", "--no-plot-results", "--limits", "off"])
    record = json.loads((trained.folder / "evaluation-test.json").read_text())
    assert record["molecules"] == 10
    model = load_weights(trained.folder / "best")
    loader = Loader(open_cache(small_cache, 6.0, 10.0).load_split("test"), 4, EspSelection(radius_factor=1.0))
    predict = jax.jit(lambda params, batch: build_model(model.config).apply(params, clean(batch)))
    squares, energies = [], []
    for _, batch in loader.stream(loader.plan(), loader.read):
        prediction = jax.device_get(predict(model.params, batch))
        for i in np.flatnonzero(batch.molecule_mask):
            charges = prediction.dcm_charges[i].astype(np.float64).ravel()
            sites = prediction.dcm_sites[i].astype(np.float64).reshape(-1, 3)
            grid = batch.grid[i][batch.esp_mask[i]].astype(np.float64)
            distances = np.linalg.norm(grid[:, None] - sites[None], axis=-1)
            # 332.0637 kcal/mol·Å: two unit charges 1 Å apart
            error = 332.0637 * (charges / distances).sum(axis=1) - 627.5095 * batch.esp[i][batch.esp_mask[i]]
            squares.append(np.mean(error**2))
            energies.append(abs(float(prediction.energy[i]) - float(batch.energy[i])))
    assert record["metrics"]["esp_rmse_kcal_per_mol_e"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)
    assert record["metrics"]["energy_mae_ev"] == pytest.approx(np.mean(energies), rel=1e-4)


def test_evaluating_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        evaluate.main(["--run", str(tmp_path / "nothing")])

"""Ensembles: members are trained as by themselves, go on bit for bit, and each keeps its own best epoch."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from shared.errors import UserError
from tests import support
from tests.end_to_end.test_train import read_metrics, replaced, settings, use_steps
from train import run_folder
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.evaluation import plots
from train.evaluation.ensemble_errors import compare, describe_ensemble
from train.model.joint import build_model
from train.model.members import over_members
from train.model.saved_model import load_weights, member_folders, save_weights
from train.report.page import render
from train.report.run_facts import read_evaluation, read_facts
from train.run import evaluate_run, loop
from train.run.checkpoint import Best, Checkpoints, Progress
from train.run.session import _initial_folders
from train.step.compiled_steps import Steps
from train.step.devices import all_devices
from train.step.metrics import METRIC_NAMES
from train.step.optimizer import schedule

SEED = 3
WEIGHTS = "weights.safetensors"


@dataclasses.dataclass
class Ensemble:
    """A run of two members, two epochs long, and the functions that it compiled."""

    config: TrainConfig
    steps: Steps
    folder: Path
    batches: int

    def run(self, patch: pytest.MonkeyPatch, runs: Path, **changes: Any) -> Path:
        config = dataclasses.replace(self.config, runs_dir=str(runs), **changes)
        use_steps(patch, replaced(self.steps, _schedule=self.steps.devices.place(schedule(config, self.batches))))
        return loop.train(config)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("ensemble")
    files = support.write_splits(folder / "input", train=5, valid=2)
    support.run_preprocess(files, folder / "cache", max_buckets=1)
    config = settings(folder / "cache", folder / "runs", epochs=2, batch_size=4, data_placement="device")
    config = dataclasses.replace(config, members=2, seed=SEED, schedule="constant")
    loader = Loader(open_cache(folder / "cache", 6.0, 10.0).load_split("train"), 4, EspSelection(1.0))
    steps = Steps(config, loader.batches_per_epoch, all_devices())
    with pytest.MonkeyPatch.context() as patch:
        use_steps(patch, steps)
        path = loop.train(config)
    return Ensemble(config, steps, path, loader.batches_per_epoch)


def test_each_member_is_trained_as_by_itself(ensemble: Ensemble, tmp_path: Path) -> None:
    """From the next seed, on the same batches."""
    records = read_metrics(ensemble.folder)
    alone = dataclasses.replace(ensemble.config, runs_dir=str(tmp_path), members=1, seed=SEED + 1, shuffle_seed=SEED)
    expected = read_metrics(loop.train(alone))
    for found, wanted in zip(records, expected, strict=True):
        assert [member["seed"] for member in found["members"]] == [SEED, SEED + 1]
        assert found["members"][1]["valid"] == pytest.approx(wanted["valid"], rel=2e-5, abs=1e-7)
        assert found["members"][1]["best_epoch"] == wanted["best_epoch"]
        for name, mean in found["valid"].items():
            assert mean == pytest.approx(np.mean([member["valid"][name] for member in found["members"]]), rel=1e-12)
    weights, wanted = (load_file(p / WEIGHTS) for p in (ensemble.folder / "best/member-1", tmp_path / "joint/best"))
    for name in wanted:
        # Rounding alone, which the sign of a small gradient may turn into a step of a thousandth.
        np.testing.assert_allclose(weights[name], wanted[name], rtol=1e-3, atol=2e-4, err_msg=name)
    other = load_file(ensemble.folder / "best/member-0" / WEIGHTS)
    assert any(np.abs(other[name] - wanted[name]).max() > 0.01 for name in wanted)


def test_members_at_once_are_members_one_after_another() -> None:
    """As an accelerator and a processor take them; what is shared has no axis of members."""
    rng = np.random.default_rng(0)
    own, shared = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=3)}, rng.normal(size=4)

    def function(one: Any, other: Any) -> Any:
        return one["a"] @ other + one["b"], one["b"]

    expected = own["a"] @ shared + own["b"]
    for platform in ("cpu", "gpu"):
        product, scalar = over_members(function, 3, platform)(own, shared)
        np.testing.assert_allclose(product, expected, rtol=1e-5)
        np.testing.assert_allclose(scalar, own["b"], rtol=1e-6)
    assert over_members(function, 1, "gpu") is function


def states(ensemble: Ensemble, folder: Path) -> tuple[Any, Progress]:
    checkpoints = Checkpoints(folder / "checkpoints")
    saved, damaged = checkpoints.restore(ensemble.steps.abstract_state())
    checkpoints.close()
    assert saved is not None
    assert not damaged
    return saved.state, saved.progress


def assert_same_run(ensemble: Ensemble, folder: Path) -> None:
    assert read_metrics(folder) == read_metrics(ensemble.folder)
    for own, expected in zip(member_folders(folder / "best"), member_folders(ensemble.folder / "best"), strict=True):
        assert (own / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    (first, first_progress), (second, second_progress) = (states(ensemble, path) for path in (ensemble.folder, folder))
    assert first_progress == second_progress
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(second), jax.device_get(first))


def test_interrupted_and_continued_is_bit_identical(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = run_folder.append_metrics

    def interrupt(folder: run_folder.RunFolder, record: dict[str, Any]) -> None:
        append(folder, record)
        if record["epoch"] == 2:  # trained and written down, but after the last checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append_metrics", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensemble.run(patch, tmp_path, checkpoint_epochs=1)
    assert states(ensemble, tmp_path / "joint")[1].epoch == 1
    ensemble.run(monkeypatch, tmp_path, checkpoint_epochs=1)
    assert_same_run(ensemble, tmp_path / "joint")


def epochs_with(
    ensemble: Ensemble, patch: pytest.MonkeyPatch, runs: Path, energies: list[tuple[float, float]], **changes: Any
) -> Path:
    """A run, or its continuation, whose members have these errors of the energy in further epochs; others are 1."""
    evaluated = iter(energies)
    whole = dict.fromkeys(METRIC_NAMES, 1.0)
    with patch.context() as inner:
        inner.setattr(
            loop,
            "evaluate_split",
            lambda *_: [*({**whole, "energy_mae_ev": error} for error in next(evaluated)), {**whole, "loss": np.nan}],
        )
        inner.setattr(loop, "_finish", lambda *_, **__: None)
        return ensemble.run(inner, runs, **changes)


def test_each_member_has_a_best_epoch_of_its_own(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends when none has improved for so long; it goes on with the scores of each."""
    energies = [(5.0, 1.0), (3.0, 2.0)]
    folder = epochs_with(ensemble, monkeypatch, tmp_path, energies, epochs=2, early_stopping=2)
    first = [(path / WEIGHTS).read_bytes() for path in member_folders(folder / "best")]
    # Of two epochs, the second is the best of the first member alone.
    assert states(ensemble, folder)[1].members[1].epoch == 1
    epochs_with(ensemble, monkeypatch, tmp_path, [(4.0, 1.5), (9.0, 9.0)], epochs=9, early_stopping=2)
    records = read_metrics(folder)
    assert [[one["best_epoch"] for one in record["members"]] for record in records] == [[1, 1], [2, 1], [2, 1], [2, 1]]
    assert [record["best_epoch"] for record in records] == [1, 2, 2, 2]
    assert "the best was epoch 2, 1" in capsys.readouterr().out
    assert [(path / WEIGHTS).read_bytes() for path in member_folders(folder / "best")] == first
    progress = states(ensemble, folder)[1]
    assert [best.epoch for best in progress.members] == [2, 1]
    assert progress.best_epoch == 2
    # By the loss, the scores are those of metrics.jsonl.
    epochs_with(ensemble, monkeypatch, tmp_path, [(0.1, 0.1)], epochs=5, early_stopping=9, best_by="loss")
    assert [best.score for best in states(ensemble, folder)[1].members] == [1.0, 1.0]


def test_a_single_model_s_progress_is_written_as_before() -> None:
    progress = Progress.before(1, "errors").with_bests([Best(0.5, 2)])
    names = ["epoch", "batch", "seconds", "best_score", "best_epoch", "best_by"]
    assert list(progress.as_json()) == names
    assert (progress.best_score, progress.best_epoch) == (0.5, 2)
    several = Progress.before(2, "errors").with_bests([Best(0.5, 2), Best()])
    for one in (progress, several):
        assert Progress.from_json(json.loads(json.dumps(one.as_json()))) == one


def test_lost_weights_of_a_member_are_those_of_the_checkpoint(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ensemble.folder, tmp_path / "joint")
    (tmp_path / "joint/best/member-1" / WEIGHTS).write_bytes(b"")
    before = (tmp_path / "joint/best/member-0" / WEIGHTS).read_bytes()
    monkeypatch.setattr(loop, "_finish", lambda *_, **__: None)
    ensemble.run(monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "best/member-1: damaged weights" in printed
    assert "best/member-1/ holds the weights of epoch 2 now" in printed
    assert [path.name for path in (tmp_path / "joint").glob("member-1-damaged-*/*.safetensors")] == [WEIGHTS]
    assert (tmp_path / "joint/best/member-0" / WEIGHTS).read_bytes() == before
    state, _ = states(ensemble, tmp_path / "joint")
    found = ensemble.steps.parameters.from_host(load_weights(tmp_path / "joint/best/member-1").params)
    np.testing.assert_array_equal(found, np.asarray(state.ema_params)[1])


def test_divergence_names_the_member(ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one goes on until the host sees it."""
    create = ensemble.steps.create_state

    def with_one_spoilt(seed: int) -> Any:
        state = create(seed)
        return state._replace(params=state.params.at[1].multiply(1e12))

    monkeypatch.setattr(ensemble.steps, "create_state", with_one_spoilt)
    with pytest.raises(
        UserError, match=r"joint: member 1 \(seed 4\) diverged at step 0 .*; there is no best/member-1/"
    ):
        ensemble.run(monkeypatch, tmp_path)
    record = json.loads((tmp_path / "joint" / "divergence.json").read_text())
    assert (record["member"], record["step"]) == (1, 0)
    assert not record["loss"] <= ensemble.config.largest_loss


def test_an_ensemble_begins_with_an_ensemble_of_its_size(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = member_folders(ensemble.folder / "best")
    three = tmp_path / "three"
    for k in range(3):
        shutil.copytree(folders[0], three / "best" / f"member-{k}")

    def begun_with(members: int, run: Path) -> list[Path]:
        return _initial_folders(dataclasses.replace(ensemble.config, members=members, init_from=str(run)))

    assert begun_with(2, ensemble.folder) == folders
    # A member is a model by itself.
    assert begun_with(1, folders[1]) == [folders[1]]
    with pytest.raises(
        UserError, match=rf"{folders[1]}: a single model, with which all 2 members .* would be the same"
    ):
        begun_with(2, folders[1])
    with pytest.raises(UserError, match=rf"an ensemble of 2; name one of its members, as --init-from {folders[0]}"):
        begun_with(1, ensemble.folder)
    with pytest.raises(UserError, match=r"an ensemble of 3, but this one is of 2 \(--members\)"):
        begun_with(2, three)

    monkeypatch.setattr(loop, "_finish", lambda *_, **__: None)
    tuned = ensemble.run(monkeypatch, tmp_path, epochs=1, learning_rate=1e-12, init_from=str(ensemble.folder), name="t")
    for own, before in zip(member_folders(tuned / "best"), folders, strict=True):
        found, expected = load_file(own / WEIGHTS), load_file(before / WEIGHTS)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-9, err_msg=name)
    # Every member has to fit.
    other = load_weights(folders[1])
    copied = tmp_path / "copied"
    shutil.copytree(ensemble.folder / "best", copied / "best")
    save_weights(
        copied / "best" / "member-1", dataclasses.replace(other, config=dataclasses.replace(other.config, n_dcm=3))
    )
    with pytest.raises(UserError, match="take over --n-dcm 3"):
        ensemble.run(monkeypatch, tmp_path, init_from=str(copied), name="u")


def read_predictions(folder: Path) -> dict[str, np.ndarray]:
    with h5py.File(folder / "predictions-test.h5") as file:
        return {name: np.asarray(file[name]) for name in file if name != "name"}


@pytest.fixture(scope="module")
def evaluated(ensemble: Ensemble) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_run, "Steps", lambda *_: ensemble.steps)
        for name in ("draw_scatter", "draw_esp", "draw_curves"):  # as of any run
            patch.setattr(plots, name, lambda *_: Figure(figsize=(1, 1)))
        evaluate_run.evaluate_run(ensemble.folder, "test", fitted_charges=False)
    return ensemble.folder


def test_predictions_are_means_and_deviations_of_the_members(ensemble: Ensemble, evaluated: Path) -> None:
    values, record = read_predictions(evaluated), json.loads((evaluated / "evaluation-test.json").read_text())
    loader = Loader(open_cache(Path(ensemble.config.cache_dir), 6.0, 10.0).load_split("test"), 4, EspSelection(1.0))
    ((_, batch),) = loader.stream(loader.plan(), loader.read)
    predict = jax.jit(build_model(ensemble.config).apply)
    single = [jax.device_get(predict(load_weights(p).params, batch)) for p in member_folders(evaluated / "best")]
    atoms, points = batch.atomic_numbers > 0, batch.esp_mask
    real = np.ones(4, bool)
    for name, mask in {"forces": atoms, "charges": atoms, "dipole": real, "dipole_dcm": real, "esp": points}.items():
        both = np.stack([getattr(one, name)[mask].astype(np.float64) for one in single])
        scale = np.abs(both).max()
        np.testing.assert_allclose(values[name], both.mean(axis=0), atol=1e-5 * scale, err_msg=name)
        # Of two, half their difference is sqrt(1/2) of the deviation with N - 1.
        deviation = np.abs(both[0] - both[1]) / np.sqrt(2.0)
        np.testing.assert_allclose(values[f"{name}_std"], deviation, atol=1e-5 * scale, err_msg=name)
    energies = np.stack([one.energy for one in single])
    np.testing.assert_allclose(values["energy_std"], np.abs(energies[0] - energies[1]) / np.sqrt(2.0), atol=1e-5)
    errors = np.abs(energies - batch.energy)
    metrics = [one["energy_mae_ev"] for one in record["ensemble"]["members"]]
    np.testing.assert_allclose(metrics, errors.mean(axis=1), rtol=1e-4)
    error = np.abs(energies.mean(axis=0) - batch.energy)
    assert record["metrics"]["energy_mae_ev"] == pytest.approx(error.mean(), rel=1e-4)
    # The charges of both members, each halved, make the potential and PhysNet's charges.
    assert values["dcm_charges"].shape[1] == 2 * ensemble.config.n_dcm
    np.testing.assert_allclose(values["dcm_charges"].sum(axis=1), values["charges"], atol=1e-6)
    own, grid = slice(0, values["n_atoms"][0]), values["grid"][: values["n_points"][0]].astype(np.float64)
    distances = np.linalg.norm(grid[:, None] - values["dcm_sites"][own].reshape(-1, 3), axis=-1)
    esp = (values["dcm_charges"][own].ravel() / distances).sum(axis=1) * 0.529177210903
    np.testing.assert_allclose(values["esp"][: len(grid)], esp, atol=2e-6)
    # Of members as they are.
    extent = max(np.abs(one.dcm_charges[atoms]).max() for one in single)
    assert record["distributed_charges"]["largest_magnitude_e"] == pytest.approx(extent, rel=1e-5)


def test_errors_are_compared_with_deviations(
    evaluated: Path, ensemble: Ensemble, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the file, counted here from the predictions."""
    values, record = read_predictions(evaluated), json.loads((evaluated / "evaluation-test.json").read_text())
    starts = np.cumsum(values["n_points"]) - values["n_points"]

    def over_points(squares: np.ndarray) -> np.ndarray:
        return np.sqrt(np.add.reduceat(squares.astype(np.float64), starts) / values["n_points"]) * 627.5094740631

    pairs = {
        "energy": (values["energy_std"], np.abs(values["energy"] - values["energy_reference"])),
        "forces": (
            np.linalg.norm(values["forces_std"], axis=1) / np.sqrt(3.0),
            np.linalg.norm(values["forces"] - values["forces_reference"], axis=1) / np.sqrt(3.0),
        ),
        "esp": (over_points(values["esp_std"] ** 2), over_points((values["esp"] - values["esp_reference"]) ** 2)),
    }
    for name, (deviations, errors) in pairs.items():
        found = record["ensemble"]["deviations"][name]
        assert found["number"] == len(errors)
        assert found["rms_deviation"] == pytest.approx(np.sqrt(np.mean(deviations**2)), rel=2e-3)
        assert found["rms_error"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=2e-3)
        assert sum(one["number"] for one in found["bins"]) == len(errors)
    assert (evaluated / "plots" / "calibration-test.png").read_bytes().startswith(b"\x89PNG")
    told = describe_ensemble(record).splitlines()
    assert len(told) == 3
    assert told[0].startswith("  ensemble of 2; its members alone, mean (range): energy ")


def test_ranks_bins_and_the_factor() -> None:
    """Of errors that are twice as large as the deviations say, and of which some have no deviation at all."""
    rng = np.random.default_rng(0)
    deviations = np.exp(rng.normal(size=20_000))
    deviations[:20] = 0.0
    errors = np.abs(2.0 * deviations * rng.normal(size=len(deviations)))
    errors[:20] = 1e-3
    found = compare(deviations, errors)
    assert found["factor"] == pytest.approx(2.0, rel=0.02)
    # A tenth that is zero by symmetry has errors by rounding alone.
    zeros = np.full(2_000, 1e-9)
    assert compare(np.append(deviations, zeros), np.append(errors, 9 * zeros))["factor"] == pytest.approx(2.0, rel=0.1)
    ranks = [np.argsort(np.argsort(values)) for values in (deviations[20:], errors[20:])]
    assert compare(deviations[20:], errors[20:])["rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert [one["number"] for one in found["bins"]] == [2000] * 10
    for one in found["bins"]:
        assert one["rms_error"] == pytest.approx(2.0 * one["rms_deviation"], rel=0.15)
    edges = np.sort(deviations).reshape(10, 2000)
    np.testing.assert_allclose([one["rms_deviation"] for one in found["bins"]], np.sqrt((edges**2).mean(axis=1)))
    # Nothing to compare is no number, and no warning.
    assert compare(np.zeros(5), np.ones(5))["factor"] is None
    assert compare(np.zeros(5), np.ones(5))["rank_correlation"] is None
    assert compare(np.zeros(0), np.zeros(0)) == {
        **{"number": 0, "rank_correlation": None, "factor": None, "rms_error": 0.0, "rms_deviation": 0.0, "bins": []}
    }


def test_a_report_of_an_ensemble_has_its_table(evaluated: Path) -> None:
    folder = run_folder.RunFolder(evaluated)
    record = read_evaluation(folder, "test")
    facts = read_facts(folder)
    page = render(facts, "test", record, [], [])
    best = [str(member["best_epoch"]) for member in read_metrics(evaluated)[-1]["members"]]
    assert facts.course()["epochs trained"] == f"2 of 2; the best was {', '.join(best)} (of each member)"
    assert "parameters of each member" in page
    (table,) = re.findall(r"<h2>Ensemble</h2>.*?</table>", page, re.DOTALL)
    assert "2 members" in table
    (cells,) = re.findall(r"<td>forces, MAE</td><td>meV/Å</td>(.*?)</tr>", table)
    errors = [1000.0 * one["forces_mae_ev_per_angstrom"] for one in record["ensemble"]["members"]]
    compared = record["ensemble"]["deviations"]["forces"]
    shown = [1000.0 * record["metrics"]["forces_mae_ev_per_angstrom"], np.mean(errors), min(errors), max(errors)]
    shown += [compared["rank_correlation"], compared["factor"]]
    assert [float(cell) for cell in re.findall(r">([^<]+)</td>", cells)] == pytest.approx(shown, rel=5e-3)

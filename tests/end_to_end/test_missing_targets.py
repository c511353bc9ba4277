"""Whole runs on data that lack energies, forces, moments or the ESP: of some frames, of a split, or altogether."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest

from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from tests import support
from tests.end_to_end.test_train import settings, use_steps
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.evaluation.evaluator import finish_run
from train.report import __main__ as report
from train.run import loop
from train.run_folder import RunFolder
from train.step.compiled_steps import Steps
from train.step.devices import all_devices
from train.step.metrics import METRIC_NAMES

ESP = {name for name in METRIC_NAMES if name.startswith("esp")}
DIPOLES = {name for name in METRIC_NAMES if name.startswith("dipole")}
LACKING: dict[str, dict[str, Container[int]]] = {
    "train": {
        **{"energy": range(3), "forces": range(2, 6), "dipole": range(5, 8)},
        **{"quadrupole": range(4, 9), "esp": range(1, 8)},
    },
    "valid": {"energy": [1], "forces": [0, 5], "dipole": [2, 3, 7], "quadrupole": [1, 4, 5, 6], "esp": [0, 4]},
}


@dataclasses.dataclass
class Data:
    """A cache of one bucket, and the functions that are compiled for its shape."""

    folder: Path
    config: TrainConfig
    steps: Steps

    def run(
        self, runs: Path, lacking: dict[str, dict[str, Container[int]]], steps: Steps | None = None, **changes: Any
    ) -> Path:
        """Train on a copy of the data without these targets."""
        cache = Path(shutil.copytree(self.folder / "cache", runs / "cache"))
        for split, rows in lacking.items():
            support.remove_targets(cache, split, **rows)
        config = dataclasses.replace(self.config, cache_dir=str(cache), runs_dir=str(runs), **changes)
        with pytest.MonkeyPatch.context() as patch:
            if steps is not None:
                use_steps(patch, steps)
            return loop.train(config)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    files = support.write_splits(folder / "input", train=5, valid=4, quadrupoles=True)
    support.run_preprocess(files, folder / "cache", max_buckets=1)
    terms = {"quadrupole_weight": 1.0, "point_charge_esp_weight": 100.0, "dipole_source": "both"}
    config = settings(folder / "cache", folder / "runs", epochs=3, tensorboard=False, **terms)
    return Data(folder, config, Steps(config, 3, all_devices()))


def records(run: Path) -> list[dict[str, Any]]:
    """Of every epoch; JSON knows no NaN, and neither do they."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics.jsonl")) for line in lines]


def evaluate(data: Data, run: Path, split: Any, plots: bool = False) -> dict[str, Any]:
    """evaluation-SPLIT.json, beside predictions-SPLIT.h5."""
    buckets = open_cache(run.parent / "cache", 6.0, 10.0).load_split(split)
    loader = Loader(buckets, data.config.batch_size, EspSelection(1.0))
    with support.quick_fits():
        finish_run(RunFolder(run), data.steps, loader, split, plots, predictions=True, fitted_charges=plots)
    evaluation: dict[str, Any] = json.loads((run / f"evaluation-{split}.json").read_text())
    return evaluation


def test_some_frames_lack_targets(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every error is the mean over what is known, counted here in the file of predictions."""
    run = data.run(tmp_path, LACKING, data.steps)
    told = capsys.readouterr().out
    lacking = "3 without energy, 4 without forces, 3 without dipole, 5 without quadrupole, 7 without ESP"
    assert f"train: of 10 frames {lacking}; valid" in told
    for record in records(run):
        assert set(record["valid"]) == set(METRIC_NAMES)
        assert set(record["train"]) == set(METRIC_NAMES) - {"esp_rmse_point_charges_kcal_per_mol_e"}
    evaluation = evaluate(data, run, "valid", plots=True)
    assert evaluation["metrics"] == pytest.approx(records(run)[evaluation_epoch(run)]["valid"], rel=1e-5, abs=1e-7)
    with h5py.File(run / "predictions-valid.h5") as file:
        values = {name: file[name][:] for name in file if name != "name"}
    rows, n_atoms = values["row"], values["n_atoms"]
    lacks = {name: np.isin(rows, list(LACKING["valid"][name])) for name in LACKING["valid"]}  # type: ignore[call-overload]
    np.testing.assert_array_equal(np.isnan(values["energy_reference"]), lacks["energy"])
    np.testing.assert_array_equal(np.isnan(values["dipole_reference"]).all(axis=1), lacks["dipole"])
    np.testing.assert_array_equal(np.isnan(values["quadrupole_reference"]).all(axis=(1, 2)), lacks["quadrupole"])
    np.testing.assert_array_equal(np.isnan(values["forces_reference"]).all(axis=1), np.repeat(lacks["forces"], n_atoms))
    np.testing.assert_array_equal(values["n_points"] == 0, lacks["esp"])
    molecules = np.split((values["esp"] - values["esp_reference"]) ** 2, np.cumsum(values["n_points"])[:-1])
    esp = np.sqrt(np.mean([squares.mean() for squares in molecules if len(squares)])) * HARTREE_IN_KCAL_PER_MOL
    dipole = np.nanmean(np.abs(values["dipole_dcm"] - values["dipole_reference"])) / DEBYE_IN_E_ANGSTROM
    quadrupoles = [np.abs(values[name] - values["quadrupole_reference"]) for name in ("quadrupole", "quadrupole_dcm")]
    expected = {
        "quadrupole_mae_debye_angstrom": np.nanmean(quadrupoles[0]) / DEBYE_IN_E_ANGSTROM,
        "quadrupole_dcm_mae_debye_angstrom": np.nanmean(quadrupoles[1]) / DEBYE_IN_E_ANGSTROM,
        "energy_mae_ev": np.nanmean(np.abs(values["energy"] - values["energy_reference"])),
        "forces_mae_ev_per_angstrom": np.nanmean(np.abs(values["forces"] - values["forces_reference"])),
        "dipole_dcm_mae_debye": dipole,
        "esp_rmse_kcal_per_mol_e": esp,
    }
    for name, value in expected.items():
        # Total energies in float64 of float32's differences from references.
        assert evaluation["metrics"][name] == pytest.approx(value, rel=1e-4), name
    worst = {entry["row"]: entry for entry in evaluation["worst"]["forces_mae_ev_per_angstrom"]}
    assert set(worst) == set(rows[~lacks["forces"]].tolist())
    assert {row for row, entry in worst.items() if entry["esp_rmse_kcal_per_mol_e"] is None} == {4}
    assert {row for row, entry in worst.items() if entry["dipole_error_debye"] is None} == {2, 3, 7}
    assert {row for row, entry in worst.items() if entry["energy_error_ev"] is None} == {1}
    assert (run / "plots" / "scatter-valid.png").exists()


def evaluation_epoch(run: Path) -> int:
    """Index of the epoch whose weights are in best/."""
    return int(records(run)[-1]["best_epoch"]) - 1


def test_a_validation_split_without_dipoles(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are trained, not reported, and have no part in what makes an epoch the best."""
    run = data.run(tmp_path, {"valid": {"dipole": support.EVERY_ROW}}, data.steps)
    for record in records(run):
        assert set(record["valid"]) == set(METRIC_NAMES) - DIPOLES
        assert set(record["train"]) >= DIPOLES
    names = [name for name in METRIC_NAMES if name.startswith(("energy", "forces", "quadrupole", "esp"))]
    scores = [np.prod([record["valid"][name] for name in names]) for record in records(run)]
    assert evaluation_epoch(run) == int(np.argmin(scores))
    told = capsys.readouterr().out
    assert "valid: of 8 frames 8 without dipole" in told
    assert re.search(r"dipole of PhysNet's charges, MAE +- not in the data", told)
    assert not re.search(r"epoch .* D \d", told)


@pytest.fixture(scope="module")
def without_esp(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on energies, forces and quadrupoles: the grids of its buckets have no width."""
    lacking = {"all": {"esp": support.EVERY_ROW, "dipole": support.EVERY_ROW}}
    return data.run(tmp_path_factory.mktemp("without"), lacking, epochs=20)


def test_data_without_esp_and_dipoles(data: Data, without_esp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = set(METRIC_NAMES) - ESP - DIPOLES
    lines = records(without_esp)
    for record in lines:
        assert (set(record["train"]), set(record["valid"])) == (known, known)
    for name in ("forces_mae_ev_per_angstrom", "loss"):
        assert lines[-1]["valid"][name] < lines[0]["valid"][name]
    evaluation = evaluate(data, without_esp, "valid", plots=True)
    told = capsys.readouterr().out
    assert set(evaluation["metrics"]) == known
    assert "valid errors of the best weights (8 molecules, 8 without dipole, 8 without ESP)" in told
    assert evaluation["molecules_without"] == {"energy": 0, "forces": 0, "dipole": 8, "quadrupole": 0, "ESP": 8}
    spread = evaluation["baselines"]["spread"]
    assert set(spread) == {name for name in known if name.startswith(("energy", "forces", "quadrupole"))}
    # Of a model that predicts none.
    with h5py.File(without_esp / "predictions-valid.h5") as file:
        expected = np.abs(file["quadrupole_reference"][:]).mean() / DEBYE_IN_E_ANGSTROM
    assert spread["quadrupole_mae_debye_angstrom"] == pytest.approx(expected, rel=1e-5)
    assert evaluation["baselines"]["distributed_esp_rmse_kcal_per_mol_e"] is None
    assert evaluation["worst"]["esp_rmse_kcal_per_mol_e"] == []
    assert evaluation["by_distance_shell"] == []
    assert told.count("not in the data") == 4
    assert "worst molecule" in told
    assert "fitted to each of" not in told


def test_report_on_data_without_esp_and_dipoles(data: Data, without_esp: Path) -> None:
    evaluate(data, without_esp, "test", plots=True)
    report.main(["--run", str(without_esp), "--split", "test"])
    page = (without_esp / "report-test.html").read_text()
    assert page.count("not in the data") == 4
    assert re.search(r"No molecule of this split has an ESP", page)
    (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    titles = {figure["layout"]["title"]["text"] for figure in json.loads(figures).values()}
    assert any("force components" in title for title in titles)
    assert not any("ESP" in title or "dipole" in title.lower() for title in titles)
    for picture in ("scatter-test", "errors-test", "types-test", "learning-curves"):
        assert matplotlib.image.imread(without_esp / "plots" / f"{picture}.png").std() > 0.02
    assert not (without_esp / "plots" / "esp-surface-test.png").exists()

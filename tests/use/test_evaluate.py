"""``python -m train.evaluate`` on a saved model: the file of predictions, errors by molecule, data that do not fit."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import ase
import h5py
import numpy as np
import pytest

from shared.bond_graphs import describe_kinds
from shared.buckets import EdgeShape
from shared.errors import UserError
from shared.manifest import current_stages
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from tests import support
from train import evaluate
from train.data.dataset import open_cache
from train.data.known_molecules import KnownMolecules
from train.data.training_facts import TrainingFacts
from train.evaluation.transfer import describe_transfer
from train.inference.molecule_prediction import MoleculePrediction
from train.inference.predictor import Predictor, SizeClass
from train.model.saved_model import TrainedModel, load_weights, save_weights
from train.run import session
from train.run_folder import RunFolder, load_data_record


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: np.asarray(file[name]) for name in file}


def predict_in_one_class(predictor: Predictor, molecules: list[ase.Atoms]) -> list[MoleculePrediction]:
    """With one program, where each size class has its own."""
    classes = predictor._by_size(molecules)
    edges = EdgeShape(
        *(max(getattr(size.edges, name) for size in classes) for name in ("physnet_edges", "dcmnet_edges"))
    )
    largest = SizeClass(max(size.atoms for size in classes), edges)
    with mock.patch.object(predictor, "_by_size", return_value={largest: list(range(len(molecules)))}):
        return predictor.predict(molecules)


def test_predictions_are_those_of_the_model_on_the_input(run: Path) -> None:
    """Rebuilt from the NPZ files, whose rows the file names, and predicted outside of the evaluation."""
    values = read(run / "predictions-test.h5")
    inputs = [np.load(run.parent / "input" / f"{kind}-test-efd.npz", allow_pickle=False) for kind in ("co2", "mixed")]
    first = len(inputs[0]["E"])
    ends = np.cumsum(values["n_atoms"])
    assert sorted(values["row"]) == list(range(10))
    rows = [(inputs[0], row) if row < first else (inputs[1], row - first) for row in values["row"]]
    molecules = [ase.Atoms(*(source[key][j][: int(np.ravel(source["N"])[j])] for key in "ZR")) for source, j in rows]
    predicted = predict_in_one_class(Predictor(run, "float64"), molecules)
    for i, ((source, j), atoms, expected) in enumerate(zip(rows, molecules, predicted, strict=True)):
        n = len(atoms)
        own = slice(ends[i] - values["n_atoms"][i], ends[i])
        np.testing.assert_array_equal(values["atomic_numbers"][own], atoms.numbers)
        np.testing.assert_allclose(values["forces"][own], expected.forces, atol=2e-4)
        np.testing.assert_allclose(values["charges"][own], expected.charges, atol=1e-5)
        assert values["energy"][i] == pytest.approx(expected.energy, abs=2e-3)
        assert values["energy_reference"][i] == pytest.approx(float(np.ravel(source["E"])[j]), abs=2e-3)
        np.testing.assert_allclose(values["forces_reference"][own], source["F"][j][:n], atol=1e-5)
        shift = atoms.get_center_of_mass()
        np.testing.assert_allclose(values["positions"][own] + shift, atoms.positions, atol=1e-5)
        np.testing.assert_allclose(values["dcm_sites"][own] + shift, expected.dcm_sites, atol=2e-5)


def test_errors_by_molecule_are_those_of_the_file(run: Path) -> None:
    record = json.loads((run / "evaluation-test.json").read_text())
    values = read(run / "predictions-test.h5")
    ends = np.cumsum(values["n_points"])
    squares = [
        np.mean((values["esp"][end - n : end] - values["esp_reference"][end - n : end]) ** 2)
        for end, n in zip(ends, values["n_points"], strict=True)
    ]
    esp = np.sqrt(squares) * HARTREE_IN_KCAL_PER_MOL
    worst = record["worst"]["esp_rmse_kcal_per_mol_e"]
    assert [entry["row"] for entry in worst] == values["row"][np.argsort(-esp)].tolist()
    np.testing.assert_allclose([entry["esp_rmse_kcal_per_mol_e"] for entry in worst], -np.sort(-esp), rtol=1e-4)
    dipoles = np.linalg.norm(values["dipole_dcm"] - values["dipole_reference"], axis=1) / DEBYE_IN_E_ANGSTROM
    of_row = dict(zip(values["row"], dipoles, strict=True))
    for entry in worst:
        assert entry["dipole_dcm_error_debye"] == pytest.approx(of_row[entry["row"]], rel=1e-4)
    assert sum(kind["molecules"] for kind in record["by_type"].values()) == 10
    whole = np.sqrt(sum(k["molecules"] * k["esp_rmse_kcal_per_mol_e"] ** 2 for k in record["by_type"].values()) / 10)
    assert whole == pytest.approx(record["metrics"]["esp_rmse_kcal_per_mol_e"], rel=1e-4)


def test_molecules_of_the_training_are_no_new_ones(run: Path) -> None:
    """The weights do not name them: they are looked at in the cache."""
    record = json.loads((run / "evaluation-test.json").read_text())
    assert [group["molecules"] for group in record["transfer"].values()] == [10, 0, 0, 0]
    assert {"loss": record["metrics"]["loss"], **record["transfer"]["trained_on"]["metrics"]} == record["metrics"]
    assert record["transfer"]["trained_on"]["baselines"]["spread"] == record["baselines"]["spread"]
    assert not read(run / "predictions-test.h5")["novelty"].any()
    assert "all molecules were trained on" in describe_transfer(record)


def test_molecules_that_were_never_trained_on_have_their_own_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CO2 alone was trained on, and a molecule of the formula of a further one; counted in the file of predictions."""
    before, old = json.loads((run / "evaluation-test.json").read_text()), read(run / "predictions-test.h5")
    numbers = np.split(old["atomic_numbers"], np.cumsum(old["n_atoms"])[:-1])
    formulas = [ase.Atoms(own).get_chemical_formula("hill") for own in numbers]
    isomer = next(one for one in formulas if one != "CO2")
    place = formulas.index("CO2")
    own = slice(old["n_atoms"][:place].sum(), old["n_atoms"][: place + 1].sum())
    kinds = describe_kinds(numbers[place][None], np.array([3]), old["positions"][own][None], np.zeros(1, "S1"))
    known = KnownMolecules(frozenset({"CO2", isomer}), frozenset(), np.unique(kinds.graphs), frozenset())
    copied = tmp_path / "run"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("other-data", "plots", "*-test.*"))
    save_weights(copied / "best", replace(load_weights(run / "best"), training=TrainingFacts(molecules=known)))
    with support.quick_fits():
        evaluate.main(["--run", str(copied), "--split", "test", "--no-plot-results"])
    record, values = json.loads((copied / "evaluation-test.json").read_text()), read(copied / "predictions-test.h5")
    kind_of_row = {
        row: 0 if formula == "CO2" else 1 if formula == isomer else 2
        for row, formula in zip(old["row"], formulas, strict=True)
    }
    kinds_found = [kind_of_row[row] for row in values["row"]]
    assert values["novelty"].tolist() == kinds_found
    for metrics in (record["metrics"], before["metrics"]):
        del metrics["loss"]  # of other batches
    assert record["metrics"] == pytest.approx(before["metrics"], rel=1e-5, abs=1e-7)
    groups = {"trained_on": [0], "unseen": [1, 2], "new_graph": [1], "new_formula": [2]}
    atoms = np.repeat(values["novelty"], values["n_atoms"])
    squares = [
        np.mean((one - other) ** 2)
        for one, other in zip(
            *(np.split(values[name], np.cumsum(values["n_points"])[:-1]) for name in ("esp", "esp_reference")),
            strict=True,
        )
    ]
    for name, of in groups.items():
        chosen, own_atoms = np.isin(values["novelty"], of), np.isin(atoms, of)
        metrics = record["transfer"][name]["metrics"]
        assert record["transfer"][name]["molecules"] == chosen.sum() > 0
        error = np.abs(values["forces"] - values["forces_reference"])[own_atoms].mean()
        assert metrics["forces_mae_ev_per_angstrom"] == pytest.approx(error, rel=1e-4)
        error = np.abs(values["energy"] - values["energy_reference"])[chosen].mean()
        assert metrics["energy_mae_ev"] == pytest.approx(error, rel=1e-3)
        error = np.abs(values["dipole_dcm"] - values["dipole_reference"])[chosen].mean() / DEBYE_IN_E_ANGSTROM
        assert metrics["dipole_dcm_mae_debye"] == pytest.approx(error, rel=1e-4)
        error = np.sqrt(np.mean(np.array(squares)[chosen])) * HARTREE_IN_KCAL_PER_MOL
        assert metrics["esp_rmse_kcal_per_mol_e"] == pytest.approx(error, rel=1e-4)
    fitted = [record["transfer"][name]["baselines"]["molecules_fitted"] for name in ("trained_on", "unseen")]
    assert fitted == [values["novelty"].tolist().count(0), 10 - values["novelty"].tolist().count(0)]
    for entry in record["by_type"].values():
        assert entry["unseen"] in (0, entry["molecules"])
    assert sum(entry["unseen"] for entry in record["by_type"].values()) == sum(kind > 0 for kind in kinds_found)
    told = capsys.readouterr().out
    new = [kinds_found.count(2), kinds_found.count(1)]
    assert (
        f"never trained on: {sum(new)} of 10 molecules, {new[0]} of a new formula or total charge, "
        f"{new[1]} of a known one with new bonds" in told
    )
    assert re.search(r"ESP of the distributed charges, RMSE, kcal/mol/e( +[\d.]+ of [\d.]+){2}( +[\d.]+){2}\n", told)
    assert re.search(r"charge, dipole, quadrupole per atom( +[\d.]+){2}\n", told)
    # If none was trained on, the column of all that were not would be the table of the whole split.
    record["transfer"]["trained_on"] = {"molecules": 0, "metrics": {}}
    assert re.split("  +", describe_transfer(record).splitlines()[2].strip()) == ["new bonds", "new formula"]


def test_whether_molecules_are_new_may_not_be_known(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights do not say, and the training's data are elsewhere; those of another cache are evaluated."""
    settings = support.write_splits(tmp_path / "input")
    support.run_preprocess(settings, tmp_path / "cache", max_buckets=1)
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("other-data", "plots"))
    text = (tmp_path / "copy" / "config.toml").read_text()
    (tmp_path / "copy" / "config.toml").write_text(text.replace(str(run.parent / "cache"), str(tmp_path / "none")))
    flags = ["--cache-dir", str(tmp_path / "cache"), "--no-plot-results", "--limits", "off", "--output"]
    evaluate.main(["--run", str(tmp_path / "copy"), *flags, str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "evaluation-test.json").read_text())
    assert record["transfer"] is None
    assert {entry["unseen"] for entry in record["by_type"].values()} == {None}
    assert (read(tmp_path / "out" / "predictions-test.h5")["novelty"] == -1).all()
    assert "whether these molecules were trained on is not known" in capsys.readouterr().out


def test_charges_are_those_of_the_file(run: Path) -> None:
    record = json.loads((run / "evaluation-test.json").read_text())["distributed_charges"]
    values = read(run / "predictions-test.h5")
    arms = np.linalg.norm(values["dcm_sites"] - values["positions"][:, None], axis=-1)
    assert record["charges"] == values["dcm_charges"].size
    assert record["largest_magnitude_e"] == pytest.approx(np.abs(values["dcm_charges"]).max(), rel=1e-6)
    assert record["mean_arm_angstrom"] == pytest.approx(arms.mean(), rel=1e-4)
    assert record["longest_arm_angstrom"] == pytest.approx(arms.max(), rel=1e-4)
    place = np.repeat(values["row"], values["n_atoms"])[arms.max(axis=1).argmax()]
    assert record["longest_arm"]["row"] == place


def test_every_dataset_has_its_unit_and_nothing_half_written_is_left(run: Path) -> None:
    with h5py.File(run / "predictions-test.h5") as file:
        assert file.attrs["split"] == "test"
        assert all(file[name].attrs["unit"] and file[name].attrs["meaning"] for name in file)
        assert file["esp"].attrs["unit"] == "Hartree/e"
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


def test_a_failed_evaluation_leaves_the_old_predictions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "predictions-test.h5").read_bytes()

    def full(*_: object) -> None:
        # As h5py words it.
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr("train.evaluation.prediction_file.PredictionFile._append", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        evaluate.main(["--run", str(run), "--split", "test", "--no-plot-results"])
    assert caught.value.filename == str(run / "predictions-test.h5")
    assert (run / "predictions-test.h5").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]


def test_errors_that_are_no_numbers_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "predictions-test.h5").read_bytes()
    monkeypatch.setattr("train.evaluation.evaluator.evaluate_split", lambda *_, **__: [{"loss": math.nan, "x": 1.0}])
    with pytest.raises(UserError, match=r"test: errors of this model are not finite \(loss\)"):
        evaluate.main(["--run", str(run), "--split", "test", "--no-plot-results"])
    assert (run / "predictions-test.h5").read_bytes() == before


def test_other_data_are_evaluated_apart_and_on_the_same_scale_of_energy(run: Path, tmp_path: Path) -> None:
    """CO2 alone has other reference energies: the total energies stay what they are."""
    settings = support.write_splits(tmp_path / "input")
    co2 = {name: paths[:1] for name, paths in settings.items()}
    support.run_preprocess(co2, tmp_path / "cache")
    flags = ["--no-plot-results", "--limits", "off"]
    evaluate.main(["--run", str(run), "--cache-dir", str(tmp_path / "cache"), *flags])
    (folder,) = (run / "other-data").iterdir()
    mine, others = read(run / "predictions-test.h5"), read(folder / "predictions-test.h5")
    energy = dict(zip(mine["row"], mine["energy"], strict=True))
    assert len(others["row"]) == 5
    for row, value in zip(others["row"], others["energy"], strict=True):
        assert value == pytest.approx(energy[row], abs=5e-3)


def test_a_run_is_evaluated_on_its_own_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was preprocessed in its cache since; with --cache-dir, on that."""
    shutil.copytree(run.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("other-data"))
    copied, cache = tmp_path / "copy" / "run", tmp_path / "copy" / "cache"
    settings = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(settings.replace(str(run.parent), str(tmp_path / "copy")))
    support.run_preprocess(support.write_splits(tmp_path / "input"), cache, max_buckets=1, grid_unit="bohr")
    before = json.loads((copied / "evaluation-test.json").read_text())
    flags = ["--run", str(copied), "--no-plot-results", "--no-predictions", "--limits", "off"]
    evaluate.main(flags)
    files, own = (
        "co2-test-efd.npz, co2-test-esp.npz and 2 more files",
        load_data_record(RunFolder(copied))["frames"][:16],
    )
    assert f"evaluate: data: 10 test molecules of {files} (frames-{own})" in capsys.readouterr().out
    assert json.loads((copied / "evaluation-test.json").read_text())["metrics"] == pytest.approx(before["metrics"])
    assert not (copied / "other-data").exists()

    evaluate.main([*flags, "--cache-dir", str(cache)])
    latest, said = current_stages(cache)["frames"][:16], capsys.readouterr().out
    assert f"evaluate: data: 10 test molecules of {files} (frames-{latest})" in said
    assert "was trained on other data, 20 train, 10 valid, 10 test molecules of co2-train-efd.npz" in said
    assert f"(frames-{own})" in said

    shutil.rmtree(cache / f"edges-{load_data_record(RunFolder(copied))['edges'][:16]}")
    with pytest.raises(UserError, match=r"20 train.*co2-train-efd\.npz.*not in .*cache any more.*`make preprocess"):
        evaluate.main(flags)


def test_other_elements_are_refused(run: Path, tmp_path: Path) -> None:
    trained = load_weights(run / "best")
    known = {z: e for z, e in trained.reference_energies_ev.items() if z != 7}
    cache = open_cache(run.parent / "cache", 6.0, 10.0)
    with pytest.raises(UserError, match=r"holds N, but .* was trained on H, C, O"):
        session.fit_to_data(TrainedModel(trained.config, known, trained.params), cache, run)


def test_other_cutoffs_are_refused(run: Path, tmp_path: Path) -> None:
    settings = support.write_splits(tmp_path / "input")
    support.run_preprocess(settings, tmp_path / "cache", physnet_cutoff=5.0)
    with pytest.raises(UserError, match=r"no edges at cutoffs 6 Å .*PHYSNET_CUTOFF=6 DCMNET_CUTOFF=10"):
        evaluate.main(["--run", str(run), "--cache-dir", str(tmp_path / "cache"), "--no-plot-results"])

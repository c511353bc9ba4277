"""An ensemble against its members, each a single model: means, deviations, and forces that are those of the mean."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import jax
import numpy as np
import pytest
from ase.build import molecule

from shared.errors import UserError
from shared.units import BOHR_IN_ANGSTROM
from tests.use.conftest import FACTS
from train import charge_model, export_charges, export_model, predict
from train.inference.calculator import JointCalculator
from train.inference.folder import best_folder
from train.inference.predictor import MoleculePrediction, Predictor
from train.inference.unlike_training import UnlikeTrainingWarning
from train.model.saved_model import load_weights, save_weights

pytestmark = pytest.mark.filterwarnings("ignore::train.inference.unlike_training.UnlikeTrainingWarning")

STEP = 1e-4
MEANS = ("energy", "forces", "charges", "dipole", "dipole_dcm", "quadrupole", "quadrupole_dcm")


def water(seed: int = 0) -> ase.Atoms:
    """Inside the domain, moved little."""
    atoms = molecule("H2O")
    atoms.rattle(0.02, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def alone(ensemble: Path, predictor: Predictor) -> list[MoleculePrediction]:
    """What each member predicts for water as a single model."""
    second = Predictor(ensemble / "best" / "member-1", "float64")
    return [one.predict([water()])[0] for one in (predictor, second)]


def test_means_and_deviations_are_those_of_the_members(
    ensemble_calculator: JointCalculator, alone: list[MoleculePrediction]
) -> None:
    (prediction,) = ensemble_calculator.predictor.predict([water()])
    values = {name: np.array([getattr(one, name) for one in alone]) for name in MEANS}
    for name in MEANS:
        np.testing.assert_allclose(getattr(prediction, name), values[name].mean(axis=0), rtol=1e-9, atol=1e-9)
    assert prediction.deviations is not None
    for name, deviation in vars(prediction.deviations).items():
        # Of two values: |a - b|/√2.
        expected = np.abs(values[name][0] - values[name][1]) / np.sqrt(2.0)
        np.testing.assert_allclose(deviation, expected, rtol=1e-6, atol=1e-9)
        assert np.max(deviation) > 1e-3
    # The reference energies of the members differ by 0.1 eV for each proton.
    assert abs(values["energy"][1] - values["energy"][0] - 1.0) < 0.5
    for own, single in zip(prediction.members, alone, strict=True):
        np.testing.assert_allclose(own.dcm_charges, single.dcm_charges, atol=1e-9)
        np.testing.assert_allclose(own.dcm_sites, single.dcm_sites, atol=1e-9)


def test_results_of_the_calculator(ensemble_calculator: JointCalculator, calculator: JointCalculator) -> None:
    atoms = water()
    atoms.calc = ensemble_calculator
    (expected,) = ensemble_calculator.predictor.predict([atoms])
    assert expected.deviations is not None
    assert atoms.get_potential_energy() == expected.energy
    results = ensemble_calculator.results
    assert results["energy_std"] == expected.deviations.energy
    for name in ("forces", "charges", "dipole"):
        source = "dipole_dcm" if name == "dipole" else name  # with the smaller error on the validation split
        np.testing.assert_array_equal(results[f"{name}_std"], getattr(expected.deviations, source))
    assert results["outside"] == []
    assert ensemble_calculator.get_property("energy_std", atoms) == results["energy_std"]
    ensemble_calculator.export_properties()
    atoms.info["charge"] = 1
    for _ in range(2):  # every time, and not once as the warning
        ensemble_calculator.calculate(atoms)
        assert ensemble_calculator.results["outside"] == ["total charge +1: training had 0 alone"]
    # A single model has no deviations.
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert set(calculator.results) == {*calculator.implemented_properties, "outside"}
    assert not any(name.endswith("_std") for name in calculator.results)
    with pytest.raises(UserError, match="single model"):
        calculator.get_potential_std(np.array([[5.0, 0.0, 0.0]]))


def test_forces_and_second_derivatives_are_those_of_the_mean_energy(ensemble_calculator: JointCalculator) -> None:
    atoms, predictor = water(), ensemble_calculator.predictor
    derivatives = predictor.derivatives(atoms)
    moved = []
    for coordinate in range(9):
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[divmod(coordinate, 3)] += sign * STEP
            moved.append(other)
    found = predictor.predict(moved, batch_size=1)

    def slope(name: str) -> np.ndarray:
        values = np.array([getattr(one, name) for one in found]).reshape(9, 2, -1)
        return (values[:, 0] - values[:, 1]) / (2.0 * STEP)

    (prediction,) = predictor.predict([atoms])
    np.testing.assert_allclose(prediction.forces.ravel(), -slope("energy")[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivatives.hessian, -slope("forces"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(derivatives.dipole, slope("dipole"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivatives.dipole_dcm, slope("dipole_dcm"), rtol=1e-5, atol=1e-6)


def test_the_potential_is_the_mean_over_the_members_charges(ensemble_calculator: JointCalculator) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)) * 6.0
    atoms, potentials = water(), []
    for member in range(2):
        charges, sites = ensemble_calculator.get_distributed_charges(atoms, member=member)
        distances = np.linalg.norm(points[:, None] - sites.reshape(-1, 3), axis=-1) / BOHR_IN_ANGSTROM
        potentials.append((charges.ravel() / distances).sum(axis=1))
    assert np.abs(potentials[0] - potentials[1]).max() > 1e-4
    np.testing.assert_allclose(
        ensemble_calculator.get_potential(points, atoms), np.mean(potentials, axis=0), atol=1e-10
    )
    deviations = ensemble_calculator.get_potential_std(points, atoms)
    np.testing.assert_allclose(deviations, np.abs(potentials[0] - potentials[1]) / np.sqrt(2.0), atol=1e-10)
    first = ensemble_calculator.get_distributed_charges(atoms)
    np.testing.assert_array_equal(first.values, ensemble_calculator.get_distributed_charges(atoms, member=0).values)
    for member in (2, -1):
        with pytest.raises(UserError, match=f"member = {member}: of 2"):
            ensemble_calculator.get_distributed_charges(atoms, member=member)


def test_all_members_at_once_are_one_after_the_other(
    ensemble: Path, ensemble_calculator: JointCalculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, in what spawned processes get."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    predictor = pickle.loads(pickle.dumps(Predictor(ensemble, "float64", strict=True)))  # noqa: S301 (its own)
    assert predictor.domain.strict
    (together,), (expected,) = (one.predict([water()]) for one in (predictor, ensemble_calculator.predictor))
    for name in MEANS:
        np.testing.assert_allclose(getattr(together, name), getattr(expected, name), atol=1e-9)
    np.testing.assert_allclose(together.deviations.forces, expected.deviations.forces, atol=1e-9)


@pytest.fixture
def runs(ensemble: Path, tmp_path: Path) -> list[Path]:
    """The members as two runs."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for member, folder in enumerate(folders):
        shutil.copytree(ensemble / "best" / f"member-{member}", folder / "best")
    return folders


def test_separately_trained_runs_are_an_ensemble(runs: list[Path], ensemble: Path, tmp_path: Path) -> None:
    assert list(Predictor(runs).members) == [folder / "best" for folder in runs]
    assert Predictor(runs[:1]).is_ensemble is False
    shutil.copytree(ensemble / "best", tmp_path / "copy")
    assert best_folder(tmp_path / "copy") == tmp_path / "copy"
    assert len(Predictor([runs[0], tmp_path / "copy"]).members) == 3
    with pytest.raises(UserError, match="a/best: given twice"):
        Predictor([*runs, runs[0] / "best"])
    with pytest.raises(UserError, match="no run: give"):
        Predictor([])
    other = load_weights(runs[1] / "best")
    save_weights(runs[1] / "best", replace(other, config=replace(other.config, n_dcm=3, exact_monopoles=False)))
    message = r"--n-dcm 2 --exact-monopoles in .*a/best, --n-dcm 3 --no-exact-monopoles in .*b/best$"
    with pytest.raises(UserError, match=f"no ensemble.* settings: {message}") as caught:
        Predictor(runs)
    assert "\n" not in str(caught.value)


def test_the_domain_is_that_of_every_member(runs: list[Path]) -> None:
    """What one of them was not trained on is outside, and refused if it is an element."""
    other = load_weights(runs[1] / "best")
    references = {number: other.reference_energies_ev[number] for number in (1, 8)}
    facts = replace(FACTS, most_atoms=2, dipole_errors=(0.1, 0.3))
    save_weights(runs[1] / "best", replace(other, training=facts, reference_energies_ev=references))
    predictor = Predictor(runs)
    assert predictor.elements == [1, 8]
    assert predictor.dipole_errors() == pytest.approx((0.2, 0.2))
    with pytest.raises(UserError, match="not trained on C, but on H, O"):
        predictor.predict([molecule("CO2")])
    big = water() + water()
    big.positions[3:] += [0.0, 0.0, 20.0]
    with pytest.warns(UnlikeTrainingWarning):
        outside = predictor._check(big, "")
    assert outside == (
        "2 parts that no bond holds together: no training molecule had more than 1",
        "6 atoms: the largest training molecule had 2",
    )
    save_weights(runs[1] / "best", replace(other, training=None))
    with pytest.raises(UserError, match=r"b/best: of an older version"):
        Predictor(runs, strict=True)


def test_predictions_of_a_file_have_their_deviations(
    ensemble: Path, ensemble_calculator: JointCalculator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [water(1), water(2)]
    frames[1].info["charge"] = -1
    frames[1].set_distance(0, 1, 1.2, fix=0)
    ase.io.write(tmp_path / "data.xyz", frames)
    flags = ["--run", str(ensemble), "--data", str(tmp_path / "data.xyz"), "--output", str(tmp_path / "out.xyz")]
    flags += ["--precision", "float64", "--batch-size", "1"]
    with pytest.raises(UserError, match=r"data\.xyz, frame 1: total charge -1: .*\(and 1 more\); refused .*--strict"):
        predict.main([*flags, "--strict"])
    assert not (tmp_path / "out.xyz").exists()
    with (
        pytest.warns(UnlikeTrainingWarning, match=r"data\.xyz, frame 1: total charge"),
        pytest.warns(UnlikeTrainingWarning, match=r"frame 1: atoms 0 and 1"),
    ):
        predict.main(flags)
    read: list[Any] = ase.io.read(tmp_path / "out.xyz", index=":")
    predictions = ensemble_calculator.predictor.predict(frames, batch_size=1)
    for own, prediction in zip(read, predictions, strict=True):
        deviations = prediction.deviations
        assert deviations is not None
        assert own.get_potential_energy() == pytest.approx(prediction.energy, abs=1e-7)
        assert own.info["energy_std"] == pytest.approx(deviations.energy, abs=1e-7)
        for name in ("dipole", "dipole_dcm"):
            np.testing.assert_allclose(own.info[f"{name}_std"], getattr(deviations, name), atol=1e-7)
        for name in ("forces", "charges"):
            np.testing.assert_allclose(own.arrays[f"{name}_std"], getattr(deviations, name), atol=1e-7)
        # The distributed charges are not those whose moments stand beside them.
        assert own.info["units"].endswith("dcm_charges of the first member alone")
        np.testing.assert_allclose(own.arrays["dcm_charges"], prediction.members[0].dcm_charges, atol=1e-7)
    assert "outside" not in read[0].info
    assert read[1].info["outside"].startswith("total charge -1: training had 0 alone; atoms 0 and 1, H-O, ")
    record = json.loads((tmp_path / "out.errors.json").read_text())
    assert (record["members"], record["molecules"], record["molecules_outside"]) == (2, 2, 1)
    forces = np.concatenate([own.arrays["forces_std"].ravel() for own in read])
    assert record["deviations"]["forces_std_rms_ev_per_angstrom"] == pytest.approx(
        np.sqrt((forces**2).mean()), rel=1e-5
    )
    assert record["deviations"]["forces_std_max_ev_per_angstrom"] == pytest.approx(forces.max(), rel=1e-5)
    assert "deviations among 2 members" in capsys.readouterr().out


@pytest.mark.parametrize("program", [export_charges, export_model, charge_model])
def test_exports_are_of_one_member(program: Any, ensemble: Path, tmp_path: Path) -> None:
    flags = ["--molecule", "H2O"] if program is not export_model else []
    with pytest.raises(UserError, match=rf"ensemble of 2 models, .*--run {ensemble}/best/member-0$"):
        program.main(["--run", str(ensemble), "--output", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()

"""Predictions of a saved model, against finite differences, the unpadded molecule, and each molecule by itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from ase.build import molecule

from shared.errors import UserError
from shared.units import BOHR_IN_ANGSTROM
from tests.use.conftest import REFERENCES
from train.inference import predictor as predictor_module
from train.inference.predictor import MoleculePrediction, Predictor, SizeClass
from train.model import joint
from train.model.kept_programs import KeptPrograms

STEP = 1e-4


def bent(name: str = "H2O", seed: int = 0) -> ase.Atoms:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=seed)
    return atoms


def assert_same(first: MoleculePrediction, second: MoleculePrediction, rtol: float = 1e-9) -> None:
    for name, value in vars(second).items():
        if name not in ("outside", "deviations", "members"):
            np.testing.assert_allclose(getattr(first, name), value, rtol=rtol, atol=rtol, err_msg=name)


def moved(atoms: ase.Atoms, coordinate: int, step: float) -> ase.Atoms:
    other = atoms.copy()
    other.positions[divmod(coordinate, 3)] += step
    return other


def test_many_molecules_are_predicted_as_each_alone_and_without_padding(predictor: Predictor, run_folder: Path) -> None:
    molecules = [bent(name, seed) for seed, name in enumerate(["H2O", "CO2", "CH4", "H2O", "NH3", "CH3CH2OH", "H2O"])]
    together = predictor.predict(molecules, batch_size=2)
    unpadded = Predictor(run_folder, "float64", pad=False)
    for atoms, prediction in zip(molecules, together, strict=True):
        (alone,) = unpadded.predict([atoms])
        assert_same(prediction, alone)
        assert prediction.charges.shape == (len(atoms),)
        assert prediction.dcm_sites.shape == (len(atoms), 2, 3)


def test_forces_and_derivatives_are_those_of_finite_differences(predictor: Predictor) -> None:
    atoms = bent("H2CO")
    derivatives = predictor.derivatives(atoms)
    n = len(atoms)
    ahead, behind = (predictor.predict([moved(atoms, c, s * STEP) for c in range(3 * n)]) for s in (1, -1))

    def difference(name: str) -> np.ndarray:
        """(3 N, …) slope of a prediction along every coordinate."""
        pairs = zip(ahead, behind, strict=True)
        return np.stack([(np.asarray(getattr(a, name)) - getattr(b, name)).ravel() for a, b in pairs]) / (2 * STEP)

    prediction = derivatives.prediction
    np.testing.assert_allclose(prediction.forces.ravel(), -difference("energy")[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivatives.hessian, -difference("forces"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(derivatives.dipole, difference("dipole"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(derivatives.dipole_dcm, difference("dipole_dcm"), rtol=1e-5, atol=1e-6)
    assert np.abs(derivatives.hessian).max() > 0.1
    assert np.abs(derivatives.dipole - derivatives.dipole_dcm).max() > 1e-4


def test_a_trajectory_and_a_mixture_compile_once_for_each_size_class(run_folder: Path) -> None:
    predictor = Predictor(run_folder)
    for seed in range(20):
        predictor.predict([bent("H2O", seed)])
    assert predictor.compilations == 1
    # Atoms move apart, beyond both cutoffs: the edges become fewer, the shape stays.
    far = bent("H2O")
    far.positions[1] += 20.0
    predictor.predict([far])
    assert predictor.compilations == 1
    predictor.predict([bent("CO2")])
    assert predictor.compilations == 1
    predictor.predict([bent("CH3CH2OH"), bent("CH3OCH3")])
    assert predictor.compilations == 2


def test_full_batches_of_a_stream_compile_once(run_folder: Path) -> None:
    predictor = Predictor(run_folder, "float64")
    stream = [bent("H2O", seed) for seed in range(7)]
    found = predictor.predict(stream[:5], batch_size=4, full_batches=True)
    found += predictor.predict(stream[5:], batch_size=4, full_batches=True)
    assert predictor.compilations == 1
    for prediction, expected in zip(found, predictor.predict(stream, batch_size=1), strict=True):
        assert_same(prediction, expected)


def test_large_molecules_have_size_classes_for_their_edges(predictor: Predictor) -> None:
    """Sixty atoms within 4 Å of few others: far from all pairs; a small motion does not change the shape."""
    rng = np.random.default_rng(1)
    chain = ase.Atoms("CO" * 30, positions=np.arange(60)[:, None] * [1.3, 0.0, 0.0])
    sizes: set[SizeClass] = set()
    for _ in range(5):
        chain.positions += 0.05 * rng.normal(size=(60, 3))
        sizes |= set(predictor._by_size([chain]))
    (size,) = sizes
    assert size.edges.dcmnet_edges < 600


def test_potential_of_the_distributed_charges(predictor: Predictor) -> None:
    (prediction,) = predictor.predict([bent("CH4")])
    points = np.random.default_rng(0).normal(size=(1500, 3)) * 6.0
    expected = np.zeros(len(points))
    for charge, site in zip(prediction.dcm_charges.ravel(), prediction.dcm_sites.reshape(-1, 3), strict=True):
        expected += charge * BOHR_IN_ANGSTROM / np.linalg.norm(points - site, axis=1)
    np.testing.assert_allclose(predictor.potential(prediction, points), expected, rtol=1e-10, atol=1e-12)


def test_total_energies_and_charges(predictor: Predictor) -> None:
    atoms = bent("NH3")
    cation = atoms.copy()
    cation.info["charge"] = 1
    other = atoms.copy()
    other.set_initial_charges([0.4, 0.2, 0.2, 0.2])
    neutral, charged, again = predictor.predict([atoms, cation, other])
    assert neutral.energy == pytest.approx(REFERENCES[7] + 3 * REFERENCES[1], abs=50.0)
    assert neutral.charges.sum() == pytest.approx(0.0, abs=1e-12)
    assert charged.charges.sum() == pytest.approx(1.0)
    assert charged.dcm_charges.sum() == pytest.approx(1.0)
    assert_same(again, charged)
    assert abs(charged.energy - neutral.energy) > 1e-3


def test_float32_agrees_with_float64(run_folder: Path, predictor: Predictor) -> None:
    atoms = bent("CH4")
    (single,) = Predictor(run_folder).predict([atoms])
    (double,) = predictor.predict([atoms])
    assert_same(single, double, rtol=2e-5)
    assert not np.array_equal(single.forces, double.forces)


def test_the_best_folder_alone_is_enough(run_folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "best", tmp_path / "anywhere")
    (prediction,) = Predictor(tmp_path / "anywhere", "float64").predict([bent()])
    assert_same(prediction, predictor.predict([bent()])[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda atoms: atoms.set_atomic_numbers([17, 1, 1]),
            "molecule 1: the model was not trained on Cl, but on H, C",
        ),
        (lambda atoms: atoms.set_pbc(True), "molecule 1: periodic boundaries"),
        (lambda atoms: atoms.positions.__setitem__((2, 0), np.nan), "molecule 1: atom 2: its position is not finite"),
        (lambda atoms: atoms.__delitem__([0, 1, 2]), "molecule 1: no atoms"),
    ],
)
def test_molecules_that_cannot_be_predicted_are_refused(predictor: Predictor, change: object, message: str) -> None:
    wrong = bent()
    change(wrong)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        predictor.predict([bent(), wrong])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Predictor(tmp_path)


def test_kept_programs_are_not_traced_again(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start predicts without the model, which takes seconds to import and to trace."""
    monkeypatch.setattr(predictor_module, "kept_programs", lambda digest: KeptPrograms(tmp_path, digest))
    atoms, built = bent(), []
    build = joint.build_model

    def build_and_tell(config: Any) -> Any:
        built.append("built")
        return build(config)

    monkeypatch.setattr(joint, "build_model", build_and_tell)
    (first,) = Predictor(run_folder, "float64").predict([atoms])
    (second,) = Predictor(run_folder, "float64").predict([atoms])
    assert built == ["built"]
    assert_same(second, first, rtol=0.0)
    (single,) = Predictor(run_folder, "float32").predict([atoms])
    assert built == ["built"] * 2
    assert single.energy == pytest.approx(first.energy, abs=1e-3)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    (again,) = Predictor(run_folder, "float64").predict([atoms])
    assert built == ["built"] * 3
    assert_same(again, first, rtol=0.0)

"""What would give wrong numbers in silence is refused or said: geometries, charges, masses, copies, threads, forks."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.mep import NEB

from shared.errors import UserError
from shared.input.total_charge import total_charge_of
from tests import support
from tests.use.conftest import FACTS, REFERENCES
from train import export_charges, spectra
from train.inference.calculator import JointCalculator
from train.inference.predictor import Predictor
from train.inference.unlike_training import UnlikeTrainingWarning
from train.model.saved_model import load_weights, save_weights


@pytest.fixture(scope="module")
def informed(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``run_folder`` with facts of a training."""
    folder = tmp_path_factory.mktemp("informed") / "best"
    save_weights(folder, replace(load_weights(run_folder / "best"), training=FACTS))
    return folder


def test_facts_are_kept_with_the_weights(informed: Path, run_folder: Path) -> None:
    assert load_weights(informed).training == FACTS
    assert load_weights(run_folder / "best").training is None


def water(**info: Any) -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def doubled() -> ase.Atoms:
    atoms = water()
    return atoms + ase.Atoms("H", [atoms.positions[2] + [1e-3, 0.0, 0.0]])


def test_atoms_at_one_place_are_refused_by_their_numbers(predictor: Predictor, calculator: JointCalculator) -> None:
    with pytest.raises(UserError, match=r"molecule 1: atoms 2 \(H\) and 3 \(H\) are 0.001 Å apart"):
        predictor.predict([water(), doubled()])
    atoms = doubled()
    atoms.calc = calculator
    with pytest.raises(UserError, match=r"closer than 0\.2 Å"):
        atoms.get_forces()
    with pytest.raises(UserError, match=r"closer than 0\.2 Å"):
        predictor.derivatives(atoms)


@pytest.mark.parametrize(
    ("charge", "message"),
    [
        (None, "not a total charge"),
        ("1+", "not a total charge"),
        (np.array([1.0, 0.0]), "not a total charge"),
        (True, "not a total charge"),
        (1j, "not a total charge"),
        (np.nan, "not finite"),
        ("inf", "not finite"),
    ],
)
def test_total_charges_that_are_no_number(calculator: JointCalculator, charge: Any, message: str) -> None:
    atoms = water(charge=charge)
    atoms.calc = calculator
    with pytest.raises(UserError, match=message):
        atoms.get_potential_energy()


def test_every_name_of_the_total_charge_is_read() -> None:
    for name in ("charge", "total_charge", "Charge", "REF_charge", "Q"):
        assert total_charge_of(water(**{name: -1})) == -1.0
    assert total_charge_of(water(charge="-1", total_charge=np.float32(-1))) == -1.0
    with pytest.raises(UserError, match="charge = -1, Charge = 1"):
        total_charge_of(water(charge=-1, Charge=1))
    atoms = water()
    atoms.set_initial_charges([0.5, 0.25, 0.25])
    assert total_charge_of(atoms) == 1.0


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (water(charge=100), r"total charge \+100: training had 0 alone"),
        (water(multiplicity=3), "multiplicity = 3: the model does not know spins"),
        (ase.Atoms("O"), r"a single atom \(O\)"),
        (water() + ase.Atoms("O", [[9.0, 0.0, 0.0]]), "2 parts that no bond holds together"),
        (
            ase.Atoms("COH", [[0, 0, 0], [1.2, 0, 0], [0, 0, 1.3]]),
            "C-H?.*H-C|H-C, 1.30 Å apart: bonds of these elements",
        ),
        (
            ase.Atoms("OCO", [[0, 0, 0], [0.9, 0, 0], [2.1, 0, 0]]),
            "0.90 Å apart: bonds of these elements had 1.10 to 1.30",
        ),
        (molecule("C2H6"), "8 atoms: the largest training molecule had 4"),
        (
            ase.Atoms("OHHH", [[0, 0, 0], [1, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]]),
            "atom 0, O, with 3 bonded neighbours: 1 to 2 in training",
        ),
        (molecule("CO2"), "atom 0, C, with 2 bonded neighbours: 3 to 4 in training"),
        (ase.Atoms("HHO", [[0, 0, 0], [0.74, 0, 0], [0.3, 0.9, 0]]), "no training molecule had a bond of these"),
    ],
)
def test_what_training_never_had_is_said_once(informed: Path, atoms: ase.Atoms, message: str) -> None:
    predictor = Predictor(informed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outside = predictor._check(atoms, "")
    assert {one.category for one in caught} == {UnlikeTrainingWarning}
    assert any(re.search(message, str(one.message)) for one in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictor._check(atoms, "") == outside
        assert predictor._check(water(), "") == ()
    strict = Predictor(informed, strict=True)
    assert strict._check(water(), "") == ()
    if "spins" in message:  # of which no training keeps a record
        with pytest.warns(UnlikeTrainingWarning, match=message):
            assert strict._check(atoms, "") == outside == ()
        return
    assert any(re.search(message, text) for text in outside)
    with pytest.raises(UserError, match=f"^b: {re.escape(outside[0])}.*--strict"):
        strict._check(atoms, "b: ")


@pytest.mark.parametrize("program", [export_charges, spectra])
def test_strict_programs_stop_at_what_is_outside(program: Any, informed: Path, tmp_path: Path) -> None:
    flags = ["--run", str(informed), "--molecule", "C2H6", "--output", str(tmp_path / "out"), "--strict"]
    with pytest.raises(UserError, match=r"8 atoms: the largest training molecule had 4.*--strict"):
        program.main(flags)
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_no_precision_or_no_list(run_folder: Path, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"model\.json: a file; give the folder of the run"):
        Predictor(run_folder / "best" / "model.json")
    for precision in ("double", "f64", np.float64):
        with pytest.raises(UserError, match="'float32' or 'float64'"):
            Predictor(run_folder, precision)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a list, \[atoms\]"):
        predictor.predict(molecule("H2O"))
    (prediction,) = predictor.predict(molecule("H2O") for _ in range(1))
    assert np.isfinite(prediction.energy)


def test_strict_needs_to_know_the_training(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"best: of an older version, .*--strict"):
        Predictor(run_folder, strict=True)


def test_as_many_atoms_as_half_more_than_in_training_are_inside(informed: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not any("largest" in text for text in Predictor(informed)._check(molecule("CH3OH"), ""))


def test_a_result_that_is_not_finite_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    broken = load_weights(run_folder / "best")
    broken.params["physnet"]["params"]["shift"][8, 0] = np.nan
    save_weights(tmp_path / "best", broken)
    with pytest.raises(UserError, match="the predicted energy is not finite"):
        Predictor(tmp_path).predict([water()])


def test_points_of_the_potential(predictor: Predictor, run_folder: Path, calculator: JointCalculator) -> None:
    (prediction,) = predictor.predict([water()])
    for points in (np.zeros(3), np.zeros((3, 2)), 1.0):
        with pytest.raises(UserError, match=r"\(G, 3\) is needed"):
            predictor.potential(prediction, points)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="point 1 is not finite"):
        predictor.potential(prediction, np.array([[5.0, 0, 0], [np.inf, 0, 0]]))
    fresh = copy.copy(calculator)
    with pytest.raises(UserError, match="no molecule yet"):
        fresh.get_potential(np.zeros((1, 3)))


def test_single_precision_is_as_good_far_from_the_origin(run_folder: Path) -> None:
    single = Predictor(run_folder)
    near, far = water(), water()
    far.positions += [1e5, -3e4, 2e5]
    first, second = single.predict([near, far])
    # The shifted positions themselves are rounded to 3e-11 Å.
    np.testing.assert_allclose(second.forces, first.forces, atol=2e-5)
    np.testing.assert_allclose(
        second.dcm_sites - far.positions[:, None], first.dcm_sites - near.positions[:, None], atol=1e-6
    )
    points = np.array([[3.0, 1.0, 0.5], [0.0, 4.0, 1.0]])
    shift = far.positions[0] - near.positions[0]
    np.testing.assert_allclose(single.potential(second, points + shift), single.potential(first, points), rtol=1e-4)


def test_masses_move_the_moments_of_an_ion(predictor: Predictor, calculator: JointCalculator) -> None:
    light, heavy = water(charge=1), water(charge=1)
    heavy.rattle(0.0)
    light.positions[1] += 0.1
    heavy.positions = light.positions
    heavy.set_masses([15.999, 2.014, 2.014])
    first, second = predictor.predict([light, heavy])
    centers = heavy.get_center_of_mass() - light.get_center_of_mass()
    np.testing.assert_allclose(first.dipole - second.dipole, centers, atol=1e-9)
    np.testing.assert_allclose(first.dipole_dcm - second.dipole_dcm, centers, atol=1e-9)
    # Quadrupoles are about the same centre.
    for atoms, found in ((light, first), (heavy, second)):
        arms = found.dcm_sites.reshape(-1, 3) - atoms.get_center_of_mass()
        moments = np.einsum("k,kx,ky->xy", 1.5 * found.dcm_charges.ravel(), arms, arms)
        np.testing.assert_allclose(found.quadrupole_dcm, moments - np.trace(moments) / 3 * np.eye(3), atol=1e-9)
    assert np.abs(first.quadrupole - second.quadrupole).max() > 1e-3
    light.calc = calculator
    before = light.get_dipole_moment()
    light.set_masses(heavy.get_masses())
    assert np.abs(light.get_dipole_moment() - before).max() > 1e-3
    # The derivative is that of the dipole: by finite differences.
    slope = predictor.derivatives(heavy).dipole
    moved = [heavy.copy() for _ in range(2)]
    for atoms, sign in zip(moved, (1, -1), strict=True):
        atoms.positions[1, 0] += sign * 1e-4
    ahead, behind = predictor.predict(moved)
    np.testing.assert_allclose(slope[3], (ahead.dipole - behind.dipole) / 2e-4, atol=1e-6)


def test_threads_share_a_calculator(calculator: JointCalculator) -> None:
    molecules = [molecule(name) for name in ("H2O", "CO2", "CH4", "NH3")]
    expected = [prediction.energy for prediction in calculator.predictor.predict(molecules)]

    def energies(index: int) -> list[float]:
        atoms = molecules[index].copy()
        atoms.calc = calculator
        found = []
        for _ in range(20):
            atoms.positions += 0.0
            calculator.calculate(atoms)
            found += [atoms.get_potential_energy(), calculator.results["energy"]]
            assert len(atoms.get_charges()) == len(atoms)
        return found

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(energies, range(4))):
            np.testing.assert_allclose(found, expected[index], atol=1e-9)


def test_copies_and_pickles_predict_the_same(calculator: JointCalculator) -> None:
    atoms = water()
    atoms.calc = calculator
    expected = atoms.get_forces()
    pickled = pickle.loads(pickle.dumps(calculator))  # noqa: S301 (its own)
    for other in (copy.copy(calculator), copy.deepcopy(calculator), pickled):
        again = water()
        again.positions[2] += 0.05
        again.calc = other
        assert np.abs(again.get_forces() - expected).max() > 1e-3
        again.positions = atoms.positions
        np.testing.assert_allclose(again.get_forces(), expected, atol=1e-10)
        np.testing.assert_array_equal(atoms.get_forces(), expected)


def test_images_of_a_neb_share_a_calculator(calculator: JointCalculator) -> None:
    images = [water() for _ in range(4)]
    images[-1].positions[2] += [0.0, 0.2, 0.1]
    band = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate()
    for image in images:
        image.calc = calculator
    together = band.get_forces()
    for image in images:
        image.calc = copy.deepcopy(calculator)
    np.testing.assert_allclose(NEB(images, method="improvedtangent").get_forces(), together, atol=1e-9)


def _refused(calculator: JointCalculator, queue: Any) -> None:
    try:
        calculator.get_potential_energy(molecule("CH3CH2OH"))
    except UserError as error:
        queue.put(str(error))
    else:
        queue.put("no error")


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_is_refused_with_one_line(calculator: JointCalculator) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_refused, args=(calculator, queue))
    process.start()
    try:
        assert 'get_context("spawn")' in queue.get(timeout=60)
    finally:
        process.join(10)
        process.kill()


def test_the_dipole_is_that_with_the_smaller_validation_error(
    informed: Path, run_folder: Path, calculator: JointCalculator, tmp_path: Path
) -> None:
    assert calculator.dipole_source == "physnet"  # nothing is known
    better = JointCalculator(informed)
    assert better.dipole_source == "dcmnet"
    assert JointCalculator(informed, dipole="physnet").dipole_source == "physnet"
    with pytest.raises(UserError, match='"physnet" or "dcmnet"'):
        JointCalculator(informed, dipole="both")  # type: ignore[arg-type]
    atoms = water()
    atoms.calc = better
    np.testing.assert_array_equal(atoms.get_dipole_moment(), better.get_distributed_dipole(atoms))
    # A run of an older version has its evaluation beside best/.
    shutil.copytree(run_folder, tmp_path / "run")
    record = '{"metrics": {"dipole_mae_debye": 0.2, "dipole_dcm_mae_debye": 0.1}}'
    (tmp_path / "run" / "evaluation-valid.json").write_text(record)
    assert JointCalculator(tmp_path / "run").dipole_source == "dcmnet"


def test_the_elements_of_the_model_are_those_of_the_references(predictor: Predictor) -> None:
    assert predictor.elements == sorted(REFERENCES)
    assert support.SMALL_MODEL["n_dcm"] == predictor.trained.config.n_dcm

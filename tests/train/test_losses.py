"""Losses and metrics against loops over the real entries."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import ase.units
import jax
import numpy as np
import pytest
from scipy.stats import gmean

from tests import support
from train.data.batch import Batch
from train.model import joint
from train.model.prediction import Prediction
from train.step import losses as step_losses
from train.step import metrics as step_metrics
from train.step.losses import LossWeights
from train.step.metrics import METRIC_NAMES, add_sums, mean_error, named_metrics, zero_sums

# Whole programs: to compile each of their operations takes longer.
clean, count = jax.jit(joint.clean), jax.jit(step_losses.count)
joint_loss = jax.jit(step_losses.joint_loss, static_argnums=2)
batch_sums = jax.jit(step_metrics.batch_sums, static_argnames="point_charges")

WEIGHTS = LossWeights(
    energy=2.0,
    forces=3.0,
    dipole=5.0,
    esp=7.0,
    mono=11.0,
    charge_sum=13.0,
    dipole_source="physnet",
    quadrupole=17.0,
    point_charge_esp=19.0,
    charge=23.0,
)
MOLECULES = [[6, 8, 8], [8, 1], [2]]
DEBYE = 0.20819434  # e·Å
KCAL_PER_MOL = 627.5095  # in one Hartree
BOHR = 0.529177210


@pytest.fixture(scope="module", params=["whole", "lacking"])
def batch(request: pytest.FixtureRequest) -> Batch:
    """Three molecules and padding full of NaN; one of them, or each, lacks targets."""
    rng = np.random.default_rng(0)
    made = support.random_batch(
        rng,
        MOLECULES,
        atoms=5,
        grid=9,
        padded_grid=12,
        extra_molecules=2,
        dtype="float32",
        poison=np.nan,
        quadrupoles=True,
    )
    mask = made.esp_mask.copy()
    mask[0, 2:5] = False  # different numbers of points, and a molecule without any
    mask[2] = False
    made = made._replace(esp_mask=mask)
    return made if request.param == "whole" else lacking(made)


def lacking(batch: Batch) -> Batch:
    """Without the energy of the first molecule, the forces of the second, dipoles and quadrupoles of two molecules."""
    names = ("energy", "forces", "dipole", "quadrupole")
    arrays = {name: getattr(batch, name).copy() for name in names}
    for name, rows in zip(names, ([0], [1], [1, 2], [0, 1]), strict=True):
        arrays[name][rows] = np.nan
    return batch._replace(**arrays)


@pytest.fixture(scope="module")
def prediction(batch: Batch) -> Prediction:
    """Random, but in the padding too: what a model says of padding must not count."""
    rng = np.random.default_rng(1)
    size, atoms, grid = *batch.atomic_numbers.shape, batch.grid.shape[1]
    shapes = {
        "energy": (size,),
        "forces": (size, atoms, 3),
        "charges": (size, atoms),
        "charge_excess": (size,),
        "dcm_charges": (size, atoms, 2),
        "dcm_sites": (size, atoms, 2, 3),
        "dipole": (size, 3),
        "dipole_dcm": (size, 3),
        "quadrupole": (size, 3, 3),
        "quadrupole_dcm": (size, 3, 3),
        "esp": (size, grid),
    }
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # Charges of padding are zero by contract: their potential is summed over all places.
    values["charges"] = np.where(batch.atomic_numbers > 0, values["charges"], 0.0).astype(np.float32)
    return Prediction(**values)


def point_charge_square(prediction: Prediction, batch: Batch, b: int) -> float:
    """Mean square error over a molecule's grid of the potential of PhysNet's charges, summed one by one."""
    squares = []
    for g in np.flatnonzero(batch.esp_mask[b]):
        potential = sum(
            prediction.charges[b, i] * BOHR / np.linalg.norm(batch.grid[b, g] - batch.positions[b, i])
            for i in range(len(MOLECULES[b]))
        )
        squares.append((potential - batch.esp[b, g]) ** 2)
    return float(np.mean(squares))


def differences(prediction: Prediction, batch: Batch, source: str) -> dict[str, list[float]]:
    """Every difference from a reference that there is, and every molecule's mean square on its grid."""
    energy, forces, dipole, quadrupole, esp, mono, charge_sum, point_charge_esp, charge = ([] for _ in range(9))
    for b, numbers in enumerate(MOLECULES):
        energy.append(float(prediction.energy[b] - batch.energy[b]))
        charge_sum.append(float(prediction.charge_excess[b]))
        of_physnet = source == "physnet"
        fitted = prediction.dipole if of_physnet else prediction.dipole_dcm
        dipole += [float(fitted[b, x] - batch.dipole[b, x]) for x in range(3)]
        tensor = prediction.quadrupole if of_physnet else prediction.quadrupole_dcm
        quadrupole += [float(tensor[b, x, y] - batch.quadrupole[b, x, y]) for x in range(3) for y in range(3)]
        for i in range(len(numbers)):
            forces += [float(prediction.forces[b, i, x] - batch.forces[b, i, x]) for x in range(3)]
            mono.append(float(prediction.dcm_charges[b, i].sum() - prediction.charges[b, i]))
            charge += [float(value) for value in prediction.dcm_charges[b, i]]
        points = [float(prediction.esp[b, g] - batch.esp[b, g]) ** 2 for g in range(9) if batch.esp_mask[b, g]]
        if points:
            esp.append(float(np.mean(points)))
            point_charge_esp.append(point_charge_square(prediction, batch, b))
    lists = {"energy": energy, "forces": forces, "dipole": dipole, "quadrupole": quadrupole, "esp": esp}
    lists |= {"mono": mono, "charge_sum": charge_sum, "point_charge_esp": point_charge_esp, "charge": charge}
    return {name: [value for value in values if not np.isnan(value)] for name, values in lists.items()}


def expected_terms(prediction: Prediction, batch: Batch, source: str) -> dict[str, float]:
    found = differences(prediction, batch, source)
    squares = {name: values if name.endswith("esp") else np.square(values) for name, values in found.items()}
    terms = {name: 0.5 * float(np.mean(values)) for name, values in squares.items()}
    # The absolute value, smooth below 0.01 e.
    return terms | {"charge_sum": float(np.mean([np.hypot(value, 0.01) - 0.01 for value in found["charge_sum"]]))}


@pytest.mark.parametrize("source", ["physnet", "dcmnet"])
def test_joint_loss(batch: Batch, prediction: Prediction, source: Literal["physnet", "dcmnet"]) -> None:
    weights = dataclasses.replace(WEIGHTS, dipole_source=source)
    with jax.numpy_rank_promotion("raise"):
        losses = joint_loss(prediction, clean(batch), weights)
    expected = expected_terms(prediction, batch, source)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(losses, name), value, rtol=1e-5, err_msg=name)
    total = 2 * expected["energy"] + 3 * expected["forces"] + 5 * expected["dipole"] + 7 * expected["esp"]
    total += 11 * expected["mono"]
    whole = total + 13 * expected["charge_sum"] + 17 * expected["quadrupole"] + 19 * expected["point_charge_esp"]
    whole += 23 * expected["charge"]
    np.testing.assert_allclose(losses.total, whole, rtol=1e-5)
    bare = dataclasses.replace(weights, charge_sum=None, quadrupole=None, point_charge_esp=None, charge=None)
    np.testing.assert_allclose(joint_loss(prediction, clean(batch), bare).total, total, rtol=1e-5)


def test_both_kinds_of_charges_have_the_whole_weight_each(batch: Batch, prediction: Prediction) -> None:
    both = joint_loss(prediction, clean(batch), dataclasses.replace(WEIGHTS, dipole_source="both"))
    single = [expected_terms(prediction, batch, source) for source in ("physnet", "dcmnet")]
    for name in ("dipole", "quadrupole"):
        np.testing.assert_allclose(getattr(both, name), single[0][name] + single[1][name], rtol=1e-5, err_msg=name)
    one = joint_loss(prediction, clean(batch), WEIGHTS)
    np.testing.assert_allclose(
        both.total, one.total + 5 * single[1]["dipole"] + 17 * single[1]["quadrupole"], rtol=1e-5
    )


def test_data_without_quadrupoles(batch: Batch, prediction: Prediction) -> None:
    """Neither their loss nor their errors, which are not zero but unknown."""
    without = clean(batch._replace(quadrupole=None))
    losses, others = joint_loss(prediction, without, WEIGHTS), joint_loss(prediction, clean(batch), WEIGHTS)
    assert float(losses.quadrupole) == 0.0
    assert float(losses.total) == pytest.approx(float(others.total - 17 * others.quadrupole), rel=1e-5)
    named = named_metrics(batch_sums(prediction, without, losses, count(without), point_charges=True))
    assert set(METRIC_NAMES) - set(named) == {"quadrupole_mae_debye_angstrom", "quadrupole_dcm_mae_debye_angstrom"}


def test_gradients_are_those_of_the_known_targets(batch: Batch, prediction: Prediction) -> None:
    """The derivative of ½ Σ Δ²/n is Δ/n, and nothing where a target is not known."""
    gradient = jax.jit(jax.grad(lambda prediction: joint_loss(prediction, clean(batch), WEIGHTS).total))(prediction)
    found = differences(prediction, batch, "physnet")
    for name in ("energy", "forces", "dipole", "quadrupole"):
        weight = getattr(WEIGHTS, name)
        slopes = np.asarray(getattr(gradient, name))
        assert np.isfinite(slopes).all(), name
        known = ~np.isnan(getattr(batch, name))
        assert not slopes[~known].any(), name
        expected = weight * np.array(found[name]) / len(found[name])
        np.testing.assert_allclose(slopes[known], expected, rtol=1e-5, err_msg=name)
    assert np.isfinite(gradient.esp).all()
    assert not np.asarray(gradient.esp)[~batch.esp_mask].any()
    assert np.asarray(gradient.esp)[batch.esp_mask].all()


@pytest.mark.parametrize("target", ["energy", "forces", "dipole", "quadrupole", "esp"])
def test_a_target_that_nothing_has_is_not_reported(batch: Batch, prediction: Prediction, target: str) -> None:
    if target == "esp":
        empty = clean(batch._replace(esp_mask=np.zeros_like(batch.esp_mask)))
    else:
        empty = clean(batch._replace(**{target: np.full_like(getattr(batch, target), np.nan)}))
    losses, others = (joint_loss(prediction, made, WEIGHTS) for made in (empty, clean(batch)))
    assert float(getattr(losses, target)) == 0.0
    for name in {"energy", "forces", "dipole", "quadrupole", "esp", "mono"} - {target}:
        assert float(getattr(losses, name)) == pytest.approx(float(getattr(others, name)), rel=1e-6), name
    named = named_metrics(batch_sums(prediction, empty, losses, count(empty), point_charges=True))
    assert set(METRIC_NAMES) - set(named) == {name for name in METRIC_NAMES if name.startswith(target)}
    assert np.isfinite(list(named.values())).all()
    not_trained = ("loss", "mono", "charge_sum", "dipole_dcm", "quadrupole_dcm")
    trained = [value for name, value in named.items() if not name.startswith(not_trained)]
    assert mean_error(named, WEIGHTS) == pytest.approx(gmean(trained))


def test_perfect_prediction_has_no_loss(batch: Batch, prediction: Prediction) -> None:
    cleaned = clean(batch)
    # Where there is no reference, anything is right.
    perfect = prediction._replace(
        energy=cleaned.energy,
        forces=cleaned.forces,
        dipole=cleaned.dipole,
        dipole_dcm=cleaned.dipole,
        quadrupole=cleaned.quadrupole,
        quadrupole_dcm=cleaned.quadrupole,
        esp=cleaned.esp,
        charges=prediction.dcm_charges.sum(axis=-1),
        charge_excess=np.zeros_like(prediction.charge_excess),
    )
    # The ESP of its random charges is no reference's.
    weights = dataclasses.replace(WEIGHTS, dipole_source="both", point_charge_esp=None, charge=None)
    assert float(joint_loss(perfect, cleaned, weights).total) == 0.0


def test_a_batch_without_molecules_has_no_loss(batch: Batch, prediction: Prediction) -> None:
    empty = clean(batch._replace(molecule_mask=np.zeros_like(batch.molecule_mask)))
    assert float(joint_loss(prediction, empty, WEIGHTS).total) == 0.0


def test_losses_of_the_parts_add_up(batch: Batch, prediction: Prediction) -> None:
    """However the molecules are divided: the means are over all of them."""
    whole = joint_loss(prediction, clean(batch), WEIGHTS)
    counts = count(clean(batch))
    for parts in (([0], [1, 2, 3, 4]), ([0, 1, 2], [3, 4]), ([0], [1], [2], [3], [4])):
        divided = [
            joint_loss(
                jax.tree.map(lambda array, rows=rows: array[np.asarray(rows)], prediction),
                clean(jax.tree.map(lambda array, rows=rows: array[np.asarray(rows)], batch)),
                WEIGHTS,
                counts,
            )
            for rows in parts
        ]
        for name, value in whole._asdict().items():
            total = sum(float(getattr(losses, name)) for losses in divided)
            assert total == pytest.approx(float(value), rel=1e-5), name


def test_metrics_in_their_units(batch: Batch, prediction: Prediction) -> None:
    with jax.numpy_rank_promotion("raise"):
        cleaned = clean(batch)
        losses = joint_loss(prediction, cleaned, WEIGHTS)
        sums = batch_sums(prediction, cleaned, losses, count(cleaned), point_charges=True)
        named = named_metrics(add_sums(zero_sums(), sums))
    lists: dict[str, list[Any]] = {name: [] for name in METRIC_NAMES}
    for b, numbers in enumerate(MOLECULES):
        lists["charge_sum_mae_e"].append(abs(prediction.charge_excess[b]))
        lists["energy_mae_ev"].append(abs(prediction.energy[b] - batch.energy[b]))
        lists["dipole_mae_debye"] += list(np.abs(prediction.dipole[b] - batch.dipole[b]) / DEBYE)
        lists["dipole_dcm_mae_debye"] += list(np.abs(prediction.dipole_dcm[b] - batch.dipole[b]) / DEBYE)
        for name, tensor in (("quadrupole", prediction.quadrupole), ("quadrupole_dcm", prediction.quadrupole_dcm)):
            lists[f"{name}_mae_debye_angstrom"] += list(np.abs(tensor[b] - batch.quadrupole[b]).ravel() / DEBYE)
        for i in range(len(numbers)):
            lists["forces_mae_ev_per_angstrom"] += list(np.abs(prediction.forces[b, i] - batch.forces[b, i]))
            lists["monopole_mae_e"].append(abs(prediction.dcm_charges[b, i].sum() - prediction.charges[b, i]))
        squares = [(prediction.esp[b, g] - batch.esp[b, g]) ** 2 for g in np.flatnonzero(batch.esp_mask[b])]
        if squares:
            lists["esp_rmse_kcal_per_mol_e"].append(np.mean(squares))
            lists["esp_rmse_point_charges_kcal_per_mol_e"].append(point_charge_square(prediction, batch, b))
    expected = {name: float(np.nanmean(values)) for name, values in lists.items() if values}
    for name in ("esp_rmse_kcal_per_mol_e", "esp_rmse_point_charges_kcal_per_mol_e"):
        expected[name] = KCAL_PER_MOL * np.sqrt(expected[name])
    expected["loss"] = float(losses.total)
    assert set(named) == set(METRIC_NAMES)
    for name, value in named.items():
        assert value == pytest.approx(expected[name], rel=1e-5), name
    assert pytest.approx(ase.units.Debye, rel=1e-6) == DEBYE


def test_metrics_average_over_molecules_not_batches(batch: Batch, prediction: Prediction) -> None:
    """A batch of three and a batch of one weigh three to one, or as the numbers of their known energies."""
    cleaned = clean(batch)
    one = clean(batch._replace(molecule_mask=np.arange(5) == 1))
    sums = [
        batch_sums(prediction, b, joint_loss(prediction, b, WEIGHTS), count(b), point_charges=False)
        for b in (cleaned, one)
    ]
    named = named_metrics(add_sums(*sums))
    errors = np.abs(prediction.energy - batch.energy)[[0, 1, 2, 1]]
    assert named["energy_mae_ev"] == pytest.approx(np.nanmean(errors), rel=1e-5)
    assert "esp_rmse_point_charges_kcal_per_mol_e" not in named


def test_mean_error_is_the_geometric_mean_of_what_is_trained() -> None:
    metrics = dict(zip(METRIC_NAMES, (1e3, 0.02, 0.3, 0.05, 0.007, 0.6, 0.4, 0.11, 1.3, 0.017, 0.2), strict=True))
    usual = dataclasses.replace(WEIGHTS, quadrupole=None, point_charge_esp=None, charge=None)
    assert mean_error(metrics, usual) == pytest.approx(gmean([0.02, 0.3, 0.05, 0.11]))
    assert mean_error(metrics, WEIGHTS) == pytest.approx(gmean([0.02, 0.3, 0.05, 0.6, 0.11, 1.3]))
    both = dataclasses.replace(WEIGHTS, dipole_source="both")
    assert mean_error(metrics, both) == pytest.approx(gmean([0.02, 0.3, 0.05, 0.007, 0.6, 0.4, 0.11, 1.3]))
    assert mean_error(metrics, dataclasses.replace(usual, forces=1e6)) == pytest.approx(mean_error(metrics, usual))
    no_energy = dataclasses.replace(usual, energy=0.0, dipole_source="dcmnet")
    assert mean_error(metrics, no_energy) == pytest.approx(gmean([0.3, 0.007, 0.11]))
    # No grid point in the split: the others still tell two epochs apart.
    without = {**metrics, "esp_rmse_kcal_per_mol_e": 0.0}
    worse = {**without, "forces_mae_ev_per_angstrom": 0.31}
    assert 0 < mean_error(without, usual) < mean_error(worse, usual)
    nothing = LossWeights(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, "physnet")
    assert mean_error(metrics, nothing) == metrics["loss"]

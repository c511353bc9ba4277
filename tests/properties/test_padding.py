"""Padding changes nothing: neither the loss, nor the gradients, nor the metrics, whatever stands in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import support
from tests.properties.helpers import build, repelled_pairs
from train.data.batch import Batch
from train.model.joint import JointModel, clean
from train.model.prediction import Params
from train.step.losses import LossWeights, count
from train.step.metrics import METRIC_NAMES, batch_sums, named_metrics
from train.step.train_step import loss_and_prediction

MOLECULES = [[6, 8, 16], [7, 17, 1]]
CHARGES = [0.0, 1.0]
# Cutoffs that leave out some pairs.
CUTOFFS = (2.0, 2.3)
# Penalised monopoles, because with exact ones their loss is rounding and would test nothing.
CONFIG: dict[str, Any] = {
    "physnet_cutoff": CUTOFFS[0],
    "dcmnet_cutoff": CUTOFFS[1],
    "mix_coulomb_energy": True,
    "exact_monopoles": False,
}


def make(molecules: list[list[int]] = MOLECULES, **padding: Any) -> Batch:
    """Always the same molecules, padded as asked."""
    rng = np.random.default_rng(3)
    charges = CHARGES[: len(molecules)]
    return support.random_batch(rng, molecules, cutoffs=CUTOFFS, total_charge=charges, quadrupoles=True, **padding)


TARGETS = ("energy", "forces", "dipole", "esp", "mono", "charge_sum", "quadrupole", "point_charge_esp", "charge")
CONFIGURED = support.small_config(quadrupole_weight=25.0, point_charge_esp_weight=5000.0, charge_weight=1.0)
WEIGHTS = {name: getattr(CONFIGURED, f"{name}_weight") for name in TARGETS}


class Evaluated:
    """A model with weights, and its jitted loss, gradient and metric sums."""

    def __init__(self) -> None:
        batch = make()
        assert repelled_pairs(batch) >= 2
        self.model: JointModel
        self.params: Params
        self.model, self.params, self.predict = build(batch, **CONFIG)

        def evaluate(params: Params, batch: Batch, weights: dict[str, Any] = WEIGHTS) -> Any:
            batch, weights = clean(batch), LossWeights(**weights, dipole_source="both")
            gradient_of = jax.value_and_grad(loss_and_prediction, has_aux=True)
            (loss, (losses, prediction)), gradient = gradient_of(params, batch, self.model, weights)
            return loss, losses, gradient, batch_sums(prediction, batch, losses, count(batch), point_charges=True)

        self.evaluate: Callable[..., Any] = jax.jit(evaluate)
        self.plain = jax.device_get(self.evaluate(self.params, batch))


@pytest.fixture(scope="module")
def evaluated() -> Evaluated:
    return Evaluated()


def poisoned(value: float) -> Batch:
    """60-atom padding, and garbage in every place that does not count."""
    batch = make(atoms=60, padded_grid=50, extra_molecules=2, extra_edges=7, poison=value)
    real = np.arange(batch.physnet_dst.shape[1]) < batch.physnet_n_edges[:, None]
    real_dcm = np.arange(batch.dcmnet_dst.shape[1]) < batch.dcmnet_n_edges[:, None]
    assert not real.all(axis=1).any()
    numbers, n_edges = batch.atomic_numbers.copy(), batch.physnet_n_edges.copy()
    numbers[2:], n_edges[2:] = 6, 5  # molecules that are masked
    return batch._replace(
        atomic_numbers=numbers,
        physnet_dst=np.where(real, batch.physnet_dst, 1_000_000).astype(np.int32),
        physnet_src=np.where(real, batch.physnet_src, -9).astype(np.int32),
        dcmnet_src=np.where(real_dcm, batch.dcmnet_src, 1_000_000).astype(np.int32),
        physnet_n_edges=n_edges,
    )


@pytest.mark.parametrize("poison", [1e30, np.nan, np.inf])
def test_padding_changes_neither_loss_nor_gradients_nor_metrics(evaluated: Evaluated, poison: float) -> None:
    loss, losses, gradient, sums = evaluated.plain
    other_loss, other_losses, other_gradient, other_sums = evaluated.evaluate(evaluated.params, poisoned(poison))
    assert loss > 0.01
    np.testing.assert_allclose(other_loss, loss, rtol=1e-10)
    for name, term in losses._asdict().items():
        assert term > 0, name
        np.testing.assert_allclose(getattr(other_losses, name), term, rtol=1e-10, err_msg=name)
    flat, other_flat = jax.tree.leaves_with_path(gradient), jax.tree.leaves(other_gradient)
    largest = max(np.abs(leaf).max() for _, leaf in flat)
    assert largest > 0
    for (path, leaf), other in zip(flat, other_flat, strict=True):
        np.testing.assert_allclose(other, leaf, rtol=1e-8, atol=1e-10 * largest, err_msg=str(path))
    metrics, other_metrics = named_metrics(sums), named_metrics(other_sums)
    assert set(metrics) == set(METRIC_NAMES)
    for name, value in metrics.items():
        assert value > 0, name
        assert other_metrics[name] == pytest.approx(value, rel=1e-6), name


def without(batch: Batch, **molecules: int) -> Batch:
    """The batch, of whose molecules these lack a target."""
    arrays = {name: np.array(array) for name, array in batch._asdict().items()}
    for name, i in molecules.items():
        if name == "esp":
            arrays["esp_mask"][i], arrays["grid"][i], arrays["esp"][i] = False, 0.0, 0.0
        else:
            arrays[name][i] = np.nan
    return Batch(**arrays)


LACKING = {"energy": 0, "forces": 1, "dipole": 0, "quadrupole": 1, "esp": 1}
LACKING_OF_TERM = {**LACKING, "point_charge_esp": LACKING["esp"]}


def test_missing_targets_are_terms_left_out(evaluated: Evaluated) -> None:
    """Loss and gradient are sums over the targets, each of a batch that holds only the molecules that have it."""
    batch = make()
    loss, losses, gradient, _ = evaluated.evaluate(evaluated.params, without(batch, **LACKING))
    total, slope = 0.0, jax.tree.map(np.zeros_like, gradient)
    for name in TARGETS:
        mask = batch.molecule_mask.copy()
        if name in LACKING_OF_TERM:
            mask[LACKING_OF_TERM[name]] = False
        only = {other: WEIGHTS[name] * (other == name) for other in TARGETS}
        part, parts, own, _ = evaluated.evaluate(evaluated.params, batch._replace(molecule_mask=mask), only)
        assert getattr(losses, name) == pytest.approx(float(getattr(parts, name)), rel=1e-12), name
        total, slope = total + part, jax.tree.map(np.add, slope, own)
    assert loss == pytest.approx(float(total), rel=1e-12)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope))
    for (path, leaf), expected in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-8, atol=1e-10 * largest, err_msg=str(path))


def test_padding_changes_nothing_where_targets_are_missing(evaluated: Evaluated) -> None:
    loss, _, gradient, sums = evaluated.evaluate(evaluated.params, without(make(), **LACKING))
    padded = without(poisoned(np.nan), **LACKING)
    other_loss, _, other_gradient, other_sums = evaluated.evaluate(evaluated.params, padded)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-10)
    np.testing.assert_allclose(other_sums, sums, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for leaf, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(other, leaf, rtol=1e-8, atol=1e-10 * largest)


def test_the_gradient_is_the_slope_of_the_loss(evaluated: Evaluated) -> None:
    """Along a random direction in the parameters of both networks."""
    _, _, gradient, _ = evaluated.plain
    rng = np.random.default_rng(8)
    direction = jax.tree.map(lambda x: rng.normal(size=np.shape(x)), evaluated.params)
    step, batch = 1e-6, make()

    def loss(sign: float) -> float:
        moved = jax.tree.map(lambda x, along: x + sign * step * along, evaluated.params, direction)
        return float(evaluated.evaluate(moved, batch)[0])

    products = jax.tree.map(lambda slope, along: float((slope * along).sum()), gradient, direction)
    assert (loss(1.0) - loss(-1.0)) / (2 * step) == pytest.approx(sum(jax.tree.leaves(products)), rel=1e-5)


def test_a_molecule_in_a_batch_is_predicted_as_alone(evaluated: Evaluated) -> None:
    together = jax.device_get(evaluated.predict(evaluated.params, make(atoms=5)))
    # The same random numbers give the first molecule again. Its padded edges point to an atom that is there.
    alone = jax.device_get(evaluated.predict(evaluated.params, make(MOLECULES[:1], extra_edges=3)))
    n = len(MOLECULES[0])
    for name in ("energy", "dipole", "dipole_dcm", "quadrupole", "quadrupole_dcm", "esp"):
        np.testing.assert_allclose(getattr(together, name)[0], getattr(alone, name)[0], rtol=1e-10, err_msg=name)
    for name in ("forces", "charges", "dcm_charges", "dcm_sites"):
        first = getattr(together, name)[0]
        np.testing.assert_allclose(first[:n], getattr(alone, name)[0], rtol=1e-10, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(first[n:], 0.0, err_msg=name)


def test_molecules_do_not_interact(evaluated: Evaluated) -> None:
    batch = clean(make())

    def first_energy(positions: jax.Array) -> jax.Array:
        return evaluated.model.apply(evaluated.params, batch._replace(positions=positions)).energy[0]

    gradient = np.asarray(jax.jit(jax.grad(first_energy))(jnp.asarray(batch.positions)))
    assert np.abs(gradient[0]).max() > 1e-3
    np.testing.assert_array_equal(gradient[1], 0.0)

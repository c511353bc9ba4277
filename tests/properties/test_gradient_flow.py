"""The two networks are one model: errors of the ESP reach PhysNet, and nothing is dead at the start."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import support
from tests.properties.helpers import build
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.model.joint import JointModel, build_model, clean
from train.model.prediction import Params
from train.step.losses import LossWeights
from train.step.train_step import loss_and_prediction

ESP_ONLY = LossWeights(energy=0.0, forces=0.0, dipole=0.0, esp=1.0, mono=0.0, charge_sum=None, dipole_source="physnet")
DIPOLE_ONLY = LossWeights(
    energy=0.0, forces=0.0, dipole=1.0, esp=0.0, mono=0.0, charge_sum=None, dipole_source="physnet"
)
CHARGES = [0.0, 1.0, -2.0]


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(2)
    return support.random_batch(rng, [[6, 8, 8], [7, 1, 1, 1], [8, 1]], atoms=5, total_charge=CHARGES)


@functools.cache
def gradient_of_esp(model: JointModel) -> Callable[[Params, Batch], Params]:
    """Of the loss of the ESP alone, compiled once for each model."""
    return jax.jit(jax.grad(lambda params, batch: loss_and_prediction(params, clean(batch), model, ESP_ONLY)[0]))


@pytest.mark.parametrize("exact", [False, True], ids=["penalised", "exact"])
@pytest.mark.parametrize("scale", [0.0, 0.1], ids=["initial", "random"])
def test_esp_alone_trains_both_networks(batch: Batch, exact: bool, scale: float) -> None:
    model, params, predict = build(batch, physnet_iterations=2, exact_monopoles=exact, scale=scale)
    gradient = jax.device_get(gradient_of_esp(model)(params, batch))
    physnet = gradient["physnet"]["params"]
    for i in range(2):
        kernel = physnet[f"output_{i}"]["linear"]["kernel"]
        assert np.abs(kernel[:, 1]).max() > 1e-12, "the charge head gets no gradient"
        assert np.abs(kernel[:, 0]).max() == 0.0, "energies have nothing to do with the ESP"
    assert np.abs(physnet["embedding"]["embedding"]).max() > 1e-12
    assert np.abs(physnet["interaction_0"]["others"]["kernel"]).max() > 1e-12
    assert np.abs(gradient["dcmnet"]["params"]["charges"]["kernel"]).max() > 1e-12
    prediction = jax.device_get(predict(params, batch))
    atoms = batch.atomic_numbers > 0
    assert np.abs(prediction.charges[atoms]).min() > 1e-9
    assert np.abs(prediction.dipole).max() > 1e-6
    assert np.abs(prediction.dipole_dcm).max() > 1e-6
    assert np.abs(prediction.esp).max() > 1e-9


def test_the_esp_reaches_physnet_through_shared_features(batch: Batch) -> None:
    """With charges that do not depend on the features, there is no other way."""
    model, params, _ = build(batch)
    params["physnet"]["params"]["output_0"]["linear"]["kernel"] *= 0.0

    def largest() -> float:
        return float(np.abs(gradient_of_esp(model)(params, batch)["physnet"]["params"]["embedding"]["embedding"]).max())

    assert largest() > 1e-12
    params["dcmnet"]["params"]["shared"]["kernel"] *= 0.0
    assert largest() == 0.0


def test_the_dipole_alone_trains_a_new_charge_head(batch: Batch) -> None:
    model, params, _ = build(batch, scale=0.0)
    gradient = jax.jit(jax.grad(lambda p, b: loss_and_prediction(p, clean(b), model, DIPOLE_ONLY)[0]))(params, batch)
    assert np.abs(gradient["physnet"]["params"]["output_0"]["linear"]["kernel"][:, 1]).max() > 1e-6
    assert np.abs(gradient["physnet"]["params"]["embedding"]["embedding"]).max() > 1e-9
    # This dipole is PhysNet's own.
    assert all(np.abs(leaf).max() == 0.0 for leaf in jax.tree.leaves(gradient["dcmnet"]))


@pytest.mark.parametrize(("exact", "n_dcm"), [(True, 1), (True, 3), (False, 3)])
def test_charges_are_conserved(batch: Batch, exact: bool, n_dcm: int) -> None:
    model, params, _ = build(batch, scale=0.3, exact_monopoles=exact, n_dcm=n_dcm)
    _, (losses, prediction) = jax.jit(lambda p, b: loss_and_prediction(p, clean(b), model, ESP_ONLY))(params, batch)
    np.testing.assert_allclose(np.asarray(prediction.charges).sum(axis=1), CHARGES, atol=1e-13)
    assert np.abs(np.asarray(prediction.charges)[0]).max() > 0.01
    monopoles = np.asarray(prediction.dcm_charges).sum(axis=-1)
    assert prediction.dcm_charges.shape == (*batch.atomic_numbers.shape, n_dcm)
    if exact:
        np.testing.assert_allclose(monopoles, np.asarray(prediction.charges), atol=1e-13)
        assert float(losses.mono) < 1e-26
    else:
        assert float(losses.mono) > 1e-6
    if n_dcm > 1:  # the charges of one atom are not all the same
        assert np.ptp(np.asarray(prediction.dcm_charges)[0, 0]) > 1e-3


def test_each_network_uses_its_own_edges(batch: Batch) -> None:
    _, params, predict = build(batch)
    before = jax.device_get(predict(params, batch))
    none = np.zeros_like(batch.physnet_n_edges)
    no_dcmnet = jax.device_get(predict(params, batch._replace(dcmnet_n_edges=none)))
    no_physnet = jax.device_get(predict(params, batch._replace(physnet_n_edges=none)))
    np.testing.assert_array_equal(no_dcmnet.energy, before.energy)
    np.testing.assert_array_equal(no_dcmnet.charges, before.charges)
    assert np.abs(no_dcmnet.dcm_charges - before.dcm_charges).max() > 1e-3
    assert np.abs(no_physnet.energy - before.energy).max() > 1e-3


def test_pairs_between_the_cutoffs_reach_dcmnet_only() -> None:
    """Two atoms 8 Å apart: outside PhysNet's 6 Å, inside DCMNet's 10 Å."""

    def pair(distance: float) -> Batch:
        one = support.random_batch(np.random.default_rng(0), [[6, 8]], cutoffs=(6.0, 10.0))
        near = np.asarray([[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]])
        edge = {f"physnet_{k}": np.zeros((1, 2), np.int32) for k in ("dst", "src")}
        return one._replace(positions=near, physnet_n_edges=np.zeros(1, np.int32), **edge)

    _, params, predict = build(pair(8.0))
    first, second = (jax.device_get(predict(params, pair(distance))) for distance in (8.0, 9.0))
    np.testing.assert_allclose(first.charges, second.charges, rtol=1e-12)
    assert np.abs(first.dcm_charges - second.dcm_charges).max() > 1e-8


def test_a_new_network_predicts_values_of_the_data_s_order(small_cache: Path) -> None:
    """Of the default size, on real molecules, whatever the seed: neither 10^6 times the data nor nothing at all.

    On another geometry, of atoms at any places 1.2 Å apart, nothing explodes either.
    """
    loader = Loader(open_cache(small_cache, 6.0, 10.0).load_split("valid"), 4, EspSelection(1.0))
    _, batch = next(iter(loader.stream(loader.plan(), loader.read)))
    model = build_model(TrainConfig())
    predict = jax.jit(lambda params, batch: model.apply(params, clean(batch)))
    atoms, points = np.asarray(batch.atomic_numbers) > 0, np.asarray(batch.esp_mask)
    rng = np.random.default_rng(4)
    steps = rng.normal(size=batch.positions.shape)
    steps *= 1.2 / np.linalg.norm(steps, axis=-1, keepdims=True)
    # Never back in any direction, so that no atom comes near another but its neighbours.
    walk = batch._replace(positions=np.abs(steps).cumsum(axis=1).astype(batch.positions.dtype))
    for seed in range(4):
        params = support.initial_weights(TrainConfig(), seed)
        new = jax.device_get(predict(params, batch))
        on_walk = jax.device_get(predict(params, walk))
        assert 0.0 < np.abs(on_walk.forces[atoms]).max() < 10.0
        forces = np.std(new.forces[atoms]) / np.std(batch.forces[atoms])
        esp = np.sqrt(np.mean(new.esp[points] ** 2) / np.mean(batch.esp[points] ** 2))
        displacement = np.linalg.norm(new.dcm_sites - np.asarray(batch.positions)[:, :, None], axis=-1)[atoms].mean()
        # Of it, the repulsion in double bonds is about as much as all of the data's.
        assert 1e-3 < forces < 2.0, seed
        assert 1e-3 < esp < 5.0, seed
        assert 2e-3 < displacement < 0.2, seed

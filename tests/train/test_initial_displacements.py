"""Displacements of new networks: of one length on the training split, for any seed and number of charges."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import support
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.model.joint import build_model, clean
from train.run.initial_displacements import scale_displacements
from train.step.compiled_steps import Steps
from train.step.devices import all_devices

CHARGES = np.zeros(119)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    folder = tmp_path_factory.mktemp("displacements")
    support.run_preprocess(support.write_splits(folder / "input", train=10, valid=2), folder / "cache", max_buckets=1)
    return Loader(open_cache(folder / "cache", 6.0, 10.0).load_split("train"), 20, EspSelection(1.0))


def distributed(apply: Any, params: Any, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
    """(atoms, n_dcm, 3) displacements and (atoms, n_dcm) charges of all real atoms, by the whole model."""
    batch = clean(jax.tree.map(jnp.asarray, loader.read(loader.plan()[0])))
    prediction = apply(params, batch)
    real = np.asarray(batch.atomic_numbers) > 0
    displacements = np.asarray(prediction.dcm_sites - batch.positions[:, :, None])[real]
    return displacements, np.asarray(prediction.dcm_charges)[real]


@pytest.mark.parametrize("n_dcm", [1, 3])
def test_of_one_length_whatever_was_drawn(n_dcm: int, loader: Loader) -> None:
    small = {"physnet_iterations": 1, "dcmnet_iterations": 1, "dcmnet_max_degree": 1}
    config = support.small_config(n_dcm=n_dcm, **small)
    model = build_model(config)
    steps, apply, lengths = Steps(config, 1, all_devices()), jax.jit(model.apply), []
    for seed in range(3):
        drawn = support.initial_weights(config, seed)
        before, charges_before = distributed(apply, drawn, loader)
        params = scale_displacements(drawn, steps, CHARGES, loader)
        displacements, charges = distributed(apply, params, loader)
        # Longer or shorter, in the same directions, and nothing else.
        factor = np.linalg.norm(displacements) / np.linalg.norm(before)
        np.testing.assert_allclose(displacements, factor * before, atol=1e-5)
        np.testing.assert_array_equal(charges, charges_before)
        farthest = np.linalg.norm(displacements, axis=-1).max(axis=-1)
        # The whole model's charges enter DCMNet, not those that were fitted.
        assert np.sqrt((farthest**2).mean()) == pytest.approx(0.2, rel=0.25)
        lengths.append(np.linalg.norm(before, axis=-1).max())
    assert max(lengths) > 1.3 * min(lengths)
    # Before a bound, which none of them would reach.
    bounded = Steps(dataclasses.replace(config, longest_arm=0.1), 1, all_devices())
    bound = scale_displacements(drawn, bounded, CHARGES, loader)
    jax.tree.map(np.testing.assert_array_equal, bound, params)


@pytest.mark.parametrize("n_dcm", [2, 3, 4])
def test_charges_begin_unequal_on_both_sides_of_their_atoms(n_dcm: int, loader: Loader) -> None:
    config = support.small_config(n_dcm=n_dcm, physnet_iterations=1, dcmnet_iterations=1, dcmnet_max_degree=1)
    model = build_model(config)
    params = support.initial_weights(config)
    displacements, charges = distributed(jax.jit(model.apply), params, loader)
    first, last = displacements[:, 0], displacements[:, -1]
    cosines = (first * last).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(last, axis=-1)
    assert np.median(cosines) < -0.9
    # Two carry a dipole; more a quadrupole: the outer ones of one sign against the mean, the inner of the other.
    outer = charges - charges.mean(axis=1, keepdims=True)
    ratio = np.median(outer[:, 0] / outer[:, -1])
    assert ratio == pytest.approx(-1.0 if n_dcm == 2 else 1.0, abs=0.3)
    assert np.median(np.abs(outer[:, 0])) > 0.3
    if n_dcm > 2:
        assert np.median(outer[:, 1] / outer[:, 0]) < -0.5


def test_atoms_without_neighbours_leave_the_weights_alone(loader: Loader) -> None:
    """There is no direction for a charge to be displaced in."""
    config = support.small_config(physnet_iterations=1, dcmnet_iterations=1, dcmnet_max_degree=1)
    params = support.initial_weights(config)

    class Lonely(Loader):
        def read_rows(self, index: int, rows: np.ndarray, places: int) -> Any:
            batch = super().read_rows(index, rows, places)
            return batch._replace(dcmnet_n_edges=np.zeros_like(batch.dcmnet_n_edges))

    lonely = Lonely(loader.buckets, 20, EspSelection(1.0))
    assert scale_displacements(params, Steps(config, 1, all_devices()), CHARGES, lonely) is params

"""Displacements of new networks: of one length on the training split, for any seed and number of charges."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.cache import open_cache
from tests import support
from train.esp_points import EspSelection
from train.initial_displacements import scale_displacements
from train.joint import build_model, clean
from train.loader import Loader
from train.step import _initial_parameters

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
    draw, apply, lengths = jax.jit(functools.partial(_initial_parameters, model)), jax.jit(model.apply), []
    for seed in range(3):
        drawn = draw(jax.random.key(seed))
        before, charges_before = distributed(apply, drawn, loader)
        params = scale_displacements(drawn, config, CHARGES, loader)
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


def test_atoms_without_neighbours_leave_the_weights_alone(loader: Loader) -> None:
    """There is no direction for a charge to be displaced in."""
    config = support.small_config(physnet_iterations=1, dcmnet_iterations=1, dcmnet_max_degree=1)
    params = jax.jit(functools.partial(_initial_parameters, build_model(config)))(jax.random.key(0))

    class Lonely(Loader):
        def gather(self, index: int, rows: np.ndarray, places: int) -> Any:
            batch = super().gather(index, rows, places)
            return batch._replace(dcmnet_n_edges=np.zeros_like(batch.dcmnet_n_edges))

    lonely = Lonely(loader.buckets, 20, EspSelection(1.0))
    assert scale_displacements(params, config, CHARGES, lonely) is params

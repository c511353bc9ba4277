"""Forces are -dE/dR of the reported energy: compared with central finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import support
from tests.properties.helpers import build, repelled_pairs
from train.data.batch import Batch
from train.model.joint import clean
from train.step.losses import loss_weights
from train.step.train_step import loss_and_prediction

STEP = 1e-4
CUTOFFS = (2.5, 4.0)
SMALL = {"physnet_cutoff": CUTOFFS[0], "dcmnet_cutoff": CUTOFFS[1]}


def finite_differences(energies: object, batch: Batch) -> np.ndarray:
    """-ΔE/Δx of every real atom's components, all molecules at once: they do not interact."""
    forces = np.zeros_like(batch.positions)
    for atom in range(batch.positions.shape[1]):
        for axis in range(3):
            shift = np.zeros_like(batch.positions)
            shift[:, atom, axis] = STEP
            up = energies(batch._replace(positions=batch.positions + shift))  # type: ignore[operator]
            down = energies(batch._replace(positions=batch.positions - shift))  # type: ignore[operator]
            forces[:, atom, axis] = -(up - down) / (2 * STEP)
    return np.where(batch.atomic_numbers[..., None] > 0, forces, 0.0)


@pytest.mark.parametrize("mixed", [False, True])
def test_forces_are_the_gradient_of_the_energy(mixed: bool) -> None:
    rng = np.random.default_rng(0)
    molecules = [[6, 8, 16, 1], [7, 17, 1], [8, 1], [3]]
    batch = support.random_batch(rng, molecules, atoms=5, grid=4, cutoffs=CUTOFFS, total_charge=[0.0, 1.0, -1.0, 1.0])
    assert repelled_pairs(batch) >= 2
    _, params, predict = build(batch, mix_coulomb_energy=mixed, **SMALL)
    if mixed:
        params["coulomb_scale"] = jnp.asarray(0.7)
        without = predict({**params, "coulomb_scale": jnp.asarray(0.0)}, batch)
        assert np.abs(np.asarray(predict(params, batch).energy - without.energy))[:3].min() > 1e-3
    expected = finite_differences(lambda moved: np.asarray(predict(params, moved).energy), batch)
    forces = np.asarray(predict(params, batch).forces)
    assert np.abs(expected[:3, :2]).max(axis=(1, 2)).min() > 1e-3
    np.testing.assert_allclose(forces, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(forces[3], 0.0)  # a single atom
    np.testing.assert_allclose(forces.sum(axis=1), 0.0, atol=1e-10)


@pytest.mark.parametrize("shape", ["atom", "far apart", "one edge in a padded list"])
def test_gradients_are_finite_without_edges(shape: str) -> None:
    """No edge at all, lists without a single place, or a list that is nearly all padding: no norm of zero."""
    rng = np.random.default_rng(1)
    molecules = {"atom": [[8]], "far apart": [[6, 8, 1]], "one edge in a padded list": [[6, 8], [1]]}[shape]
    extra = 5 if shape == "one edge in a padded list" else 0
    cutoffs = (0.5, 0.6) if shape == "far apart" else CUTOFFS
    padding = {"extra_edges": extra, "extra_molecules": 1}
    batch = support.random_batch(rng, molecules, atoms=4, cutoffs=cutoffs, quadrupoles=True, **padding)
    assert (batch.physnet_n_edges.sum() == 0) == (extra == 0)
    terms = {"quadrupole_weight": 1.0, "point_charge_esp_weight": 1.0, "dipole_source": "both"}
    config = support.small_config(**terms)
    model, params, _ = build(batch, physnet_cutoff=cutoffs[0], dcmnet_cutoff=cutoffs[1], mix_coulomb_energy=True)
    weights = loss_weights(config)

    @jax.jit
    def gradient_of(params: object, batch: Batch) -> object:
        return jax.value_and_grad(loss_and_prediction, has_aux=True)(params, clean(batch), model, weights)

    (loss, (_, prediction)), gradient = gradient_of(params, batch)  # type: ignore[misc]
    assert np.isfinite(loss)
    for leaf in jax.tree.leaves((prediction, gradient)):
        assert np.isfinite(np.asarray(leaf)).all()
    if shape == "atom":
        np.testing.assert_array_equal(np.asarray(prediction.forces), 0.0)

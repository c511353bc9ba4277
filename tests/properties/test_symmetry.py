"""Rotations, reflections, translations and permutations: every predicted field transforms as its quantity does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from shared.neighbor_list import build_edges
from tests import support
from tests.properties.helpers import build, repelled_pairs
from train.data.batch import Batch
from train.model.prediction import Prediction

MOLECULES = [[6, 8, 8], [7, 16, 1, 1, 1], [8, 1], [2]]
CHARGES = [0.0, 1.0, -1.0, 0.0]
CUTOFFS = (2.5, 4.0)
LONGEST = 0.05
Case = tuple[Batch, Callable[[Batch], Prediction], Prediction]


@pytest.fixture(
    scope="module",
    params=[
        {"n_dcm": 1, "exact_monopoles": False, "physnet_degree": 0},
        {"n_dcm": 3, "exact_monopoles": True, "mix_coulomb_energy": True, "physnet_degree": 2},
        {"n_dcm": 3, "exact_monopoles": False, "dcmnet_max_degree": 1, "longest_arm": LONGEST},
    ],
    ids=["1-penalised-distances", "3-exact-mixed-angles", "3-penalised-bound"],
)
def case(request: pytest.FixtureRequest) -> Case:
    """A batch of molecules and ions, a model, and its prediction there."""
    rng = np.random.default_rng(5)
    batch = support.random_batch(rng, MOLECULES, atoms=6, grid=8, cutoffs=CUTOFFS, total_charge=CHARGES)
    assert repelled_pairs(batch) >= 2
    changes: dict[str, Any] = {"physnet_cutoff": CUTOFFS[0], "dcmnet_cutoff": CUTOFFS[1], **request.param}
    _, params, predict = build(batch, **changes)
    # Tables of the elements would hide a lost dependence on direction if displacements were all zero.
    before = jax.device_get(predict(params, batch))
    offsets = before.dcm_sites - batch.positions[:, :, None, :]
    assert np.abs(offsets[:2, :3]).max() > 1e-3
    assert np.abs(before.forces[:2, :3]).max() > 1e-3
    bound = request.param.get("longest_arm", np.inf)
    assert min(bound, 0.1) / 2 < np.linalg.norm(offsets, axis=-1).max() <= bound
    return batch, lambda moved: jax.device_get(predict(params, moved)), before


def assert_moved(before: Prediction, after: Prediction, batch: Batch, matrix: np.ndarray, shift: np.ndarray) -> None:
    """Scalars are the same, vectors and tensors are turned, positions are turned and shifted."""
    atoms = batch.atomic_numbers > 0
    close = {"rtol": 1e-9, "atol": 1e-10}
    for name in ("energy", "charges", "dcm_charges", "esp"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), err_msg=name, **close)
    for name in ("forces", "dipole", "dipole_dcm"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name) @ matrix.T, err_msg=name, **close)
    for name in ("quadrupole", "quadrupole_dcm"):
        turned = matrix @ getattr(before, name) @ matrix.T
        np.testing.assert_allclose(getattr(after, name), turned, err_msg=name, **close)
        np.testing.assert_allclose(np.trace(turned, axis1=1, axis2=2), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        after.dcm_sites[atoms], (before.dcm_sites @ matrix.T + shift)[atoms], err_msg="dcm_sites", **close
    )


def orthogonal(determinant: float) -> np.ndarray:
    """A random rotation (1) or rotation with a reflection (-1)."""
    matrix, _ = np.linalg.qr(np.random.default_rng(11).normal(size=(3, 3)))
    return matrix * determinant * np.sign(np.linalg.det(matrix))


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "reflection"])
def test_rotation_and_reflection(case: Case, determinant: float) -> None:
    batch, predict, before = case
    matrix = orthogonal(determinant)
    assert np.linalg.det(matrix) == pytest.approx(determinant)
    after = predict(batch._replace(positions=batch.positions @ matrix.T, grid=batch.grid @ matrix.T))
    assert_moved(before, after, batch, matrix, np.zeros(3))


def test_translation(case: Case) -> None:
    batch, predict, before = case
    shift = np.array([3.0, -7.0, 11.0])
    after = predict(batch._replace(positions=batch.positions + shift, grid=batch.grid + shift))
    assert_moved(before, after, batch, np.eye(3), shift)


def test_permutation(case: Case) -> None:
    batch, predict, before = case
    rng = np.random.default_rng(7)
    order = np.tile(np.arange(batch.positions.shape[1]), (len(MOLECULES), 1))
    for row, numbers in zip(order, MOLECULES, strict=True):
        row[: len(numbers)] = np.roll(rng.permutation(len(numbers)), 1)
    assert (order != np.arange(order.shape[1])).any(axis=1).sum() >= 2

    def permuted(values: np.ndarray) -> np.ndarray:
        return np.stack([rows[places] for rows, places in zip(values, order, strict=True)])

    positions = permuted(batch.positions)
    counts = np.array([len(numbers) for numbers in MOLECULES])
    edges = {
        f"{network}_{name}": values
        for network, cutoff in zip(("physnet", "dcmnet"), CUTOFFS, strict=True)
        for name, values in build_edges(positions, counts, cutoff)._asdict().items()
    }
    after = predict(batch._replace(atomic_numbers=permuted(batch.atomic_numbers), positions=positions, **edges))
    close = {"rtol": 1e-9, "atol": 1e-10}
    for name in ("energy", "dipole", "dipole_dcm", "quadrupole", "quadrupole_dcm", "esp"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), err_msg=name, **close)
    for name in ("forces", "charges", "dcm_charges", "dcm_sites"):
        np.testing.assert_allclose(getattr(after, name), permuted(getattr(before, name)), err_msg=name, **close)

"""The repulsion of nuclei: against Thomas and Fermi's screening, a sum over pairs in numpy, and its limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.elements import COVALENT_RADII
from shared.units import BOHR_IN_ANGSTROM, COULOMB_CONSTANT_EV_ANGSTROM
from tests import support
from train.data.batch import Batch
from train.model.electrostatics import polynomial_cutoff
from train.model.graph import batch_pairs
from train.model.repulsion import nuclear_repulsion, screened_repulsion

CUTOFF = 3.0


screened = jax.jit(screened_repulsion)
cutoff_function = jax.jit(polynomial_cutoff)


@jax.jit
def repulsion(batch: Batch) -> jax.Array:
    pairs = batch_pairs(batch.positions, batch.physnet_dst, batch.physnet_src, batch.physnet_n_edges, CUTOFF)
    return nuclear_repulsion(batch.atomic_numbers, pairs, jnp.linalg.norm(pairs.displacements, axis=1), CUTOFF)


def screening(z: int, distances: np.ndarray) -> np.ndarray:
    numbers = np.full(len(distances), z)
    potential = np.asarray(screened(numbers, numbers, distances))
    return potential * distances / (COULOMB_CONSTANT_EV_ANGSTROM * z**2)


@pytest.mark.parametrize("z", [1, 8, 29])
def test_the_screening_is_near_that_of_thomas_and_fermi(z: int) -> None:
    """Bare nuclei at no distance; φ(x) of L. H. Thomas and E. Fermi at x = 0.5, 1 and 2 of the screening length."""
    length = 0.8854 * BOHR_IN_ANGSTROM / (2 * z**0.23)
    np.testing.assert_allclose(screening(z, np.array([1e-6])), 1.0, atol=1e-4)
    np.testing.assert_allclose(screening(z, length * np.array([0.5, 1.0, 2.0])), [0.607, 0.424, 0.243], rtol=0.1)
    np.testing.assert_allclose(screening(z, length * np.array([0.5, 1.0])), [0.607, 0.424], rtol=0.02)


def test_it_is_a_sum_over_near_pairs_and_padding_has_none() -> None:
    rng = np.random.default_rng(0)
    batch = support.random_batch(
        rng, [[6, 8, 16, 1], [7, 17, 1], [3]], atoms=6, cutoffs=(CUTOFF, CUTOFF), extra_edges=3, extra_molecules=1
    )
    expected, near = np.zeros(len(batch.positions)), 0
    for row, (numbers, positions) in enumerate(zip(batch.atomic_numbers, batch.positions, strict=True)):
        for i in range((numbers > 0).sum()):
            for j in range(i):
                distance, z = np.linalg.norm(positions[i] - positions[j]), np.array([numbers[i], numbers[j]])
                reach = COVALENT_RADII[z].sum()
                near += distance < reach
                bare = np.asarray(screened(*z[:, None], np.array([distance])))[0]
                expected[row] += bare * np.asarray(cutoff_function(distance, reach))
    assert near >= 3
    np.testing.assert_allclose(repulsion(batch), expected, rtol=1e-5)


def test_it_ends_smoothly_at_the_covalent_radii_and_at_a_shorter_cutoff() -> None:
    def energy(distance: jax.Array, cutoff: float) -> jax.Array:
        positions = jnp.zeros((1, 2, 3)).at[0, 1, 0].set(distance)
        edges = jnp.array([[0, 1]]), jnp.array([[1, 0]]), jnp.array([2])
        pairs = batch_pairs(positions, *edges, cutoff)
        return nuclear_repulsion(jnp.array([[6, 8]]), pairs, pairs.displacements[:, 0], cutoff)[0]

    slope, curvature = jax.jit(jax.grad(energy)), jax.jit(jax.grad(jax.grad(energy)))
    scanned = jax.jit(jax.vmap(energy, (0, None)))
    reach = COVALENT_RADII[[6, 8]].sum()
    for end, cutoff in ((reach, 3.0), (1.0, 1.0)):
        for distance in (end - 1e-4, end + 0.2):
            assert abs(scanned(np.array([distance]), cutoff)[0]) < 1e-5
            assert abs(slope(distance, cutoff)) < 1e-4
            assert abs(curvature(distance, cutoff)) < 0.5
        assert (np.diff(scanned(np.linspace(0.2, end, 30), cutoff)) < 0).all()

"""PhysNet's message pass against loops over the atoms and their neighbours; its named derivatives; in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_legendre

from train.model.equivariant import spherical_harmonics
from train.model.graph import Pairs
from train.model.physnet import Angular, Interaction, activation, radial_basis, radial_filters

ATOMS, FEATURES, BASIS, CUTOFF = 5, 3, 6, 4.0
FIRST = np.array([0, 0, 1, 2])
SECOND = np.array([1, 2, 3, 3])
"""Atom 4 has no neighbour."""
DISTANCES = np.array([0.9, 1.7, 2.2, 3.9])


def softplus(x: np.ndarray) -> np.ndarray:
    """Shifted, Unke & Meuwly 2019, eq 3."""
    return np.logaddexp(0.0, x) - np.log(2.0)


def dense(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ params["kernel"] + params.get("bias", 0.0))


def expected_basis(distance: float) -> np.ndarray:
    """Equations 7 and 8."""
    x = distance / CUTOFF
    centers = np.linspace(np.exp(-CUTOFF), 1.0, BASIS)
    width = (2.0 / BASIS * (1.0 - np.exp(-CUTOFF))) ** -2
    functions: np.ndarray = np.exp(-width * (np.exp(-distance) - centers) ** 2)
    return (1.0 - 6.0 * x**5 + 15.0 * x**4 - 10.0 * x**3) * functions


def expected_interaction(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Equations 5 and 6, atom by atom."""
    out = np.empty_like(x)
    for i in range(len(x)):
        v = softplus(dense(params["own"], softplus(x[i])))
        for first, second, distance in zip(FIRST, SECOND, DISTANCES, strict=True):
            if i in (first, second):
                j = second if i == first else first
                filters = expected_basis(distance) @ params["filter"]["kernel"]
                v = v + filters * softplus(dense(params["others"], softplus(x[j])))
        block = params["residual_0"]
        v = v + dense(block["second"], softplus(dense(block["first"], softplus(v))))
        out[i] = params["gate"] * x[i] + dense(params["update"], softplus(v))
    return out


def test_interaction_is_the_sum_over_neighbours() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ATOMS, FEATURES))
    with jax.enable_x64(True):
        pairs = Pairs(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.zeros((len(FIRST), 3)))
        module = Interaction(residuals=1, basis=BASIS, cutoff=CUTOFF)
        drawn = module.init(jax.random.key(0), x, DISTANCES, pairs, None)
        # None of them zero, as those of a new block are.
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), drawn)
        found = np.asarray(module.apply(params, x, DISTANCES, pairs, None))
    np.testing.assert_allclose(found, expected_interaction(params["params"], x), rtol=1e-10)


def test_angular_terms_are_legendre_polynomials_of_the_angles() -> None:
    """Without spherical harmonics, by their addition theorem: a sum over pairs of neighbours of P_l(cos θ)."""
    rng = np.random.default_rng(1)
    degree, channels = 3, 2
    x, positions = rng.normal(size=(ATOMS, FEATURES)), rng.uniform(-1.0, 1.0, size=(ATOMS, 3))
    vectors = positions[SECOND] - positions[FIRST]
    distances = np.linalg.norm(vectors, axis=1)
    with jax.enable_x64(True):
        pairs = Pairs(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.asarray(vectors))
        harmonics = spherical_harmonics(pairs.displacements, degree)
        module = Angular(degree, channels, BASIS, CUTOFF)
        arguments = (x, distances, jnp.concatenate(harmonics[1:], axis=-1), pairs)
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), module.init(jax.random.key(0), *arguments))
        found = np.asarray(module.apply(params, *arguments))
    weights = params["params"]
    for i in range(ATOMS):
        neighbours = []
        for first, second, distance in zip(FIRST, SECOND, distances, strict=True):
            if i in (first, second):
                j = second if i == first else first
                message = expected_basis(distance) @ weights["filter"]["kernel"]
                message = message * softplus(dense(weights["others"], x[j]))
                neighbours.append((message.reshape(degree, channels), (positions[j] - positions[i]) / distance))
        for number in range(1, degree + 1):
            left, right = np.split(weights[f"mix_{number}"]["kernel"], 2, axis=1)
            expected = sum(
                (
                    (one[number - 1] @ left) * (other[number - 1] @ right) * eval_legendre(number, u @ v)
                    for one, u in neighbours
                    for other, v in neighbours
                ),
                start=np.zeros(channels),
            )
            own = found[i, (number - 1) * channels : number * channels]
            np.testing.assert_allclose(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_filters_have_the_derivatives_of_finite_differences(order: int) -> None:
    """By the distances, also of derivatives; and by the weights, in which they are linear."""
    rng = np.random.default_rng(order)
    kernel, direction = rng.normal(size=(2, BASIS, FEATURES))
    with jax.enable_x64(True):
        filters = jax.jit(lambda r, kernel: radial_filters(r, kernel, CUTOFF, order))
        ones = np.ones_like(DISTANCES)
        value, slope = jax.jvp(lambda r: filters(r, kernel), (DISTANCES,), (ones,))
        step = 1e-5
        difference = (filters(DISTANCES + step, kernel) - filters(DISTANCES - step, kernel)) / (2 * step)
        _, both = jax.jvp(filters, (DISTANCES, kernel), (ones, direction))
        by_kernel = filters(DISTANCES, direction)
    if order == 0:
        expected = np.stack([expected_basis(distance) for distance in DISTANCES]) @ kernel
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(both, slope + by_kernel, rtol=1e-12)


def test_gradient_of_a_loss_of_slopes_is_that_without_named_derivatives() -> None:
    """As in the loss of forces: a derivative by distances, then by weights and features."""
    rng = np.random.default_rng(3)
    kernel, x = rng.normal(size=(BASIS, FEATURES)), 4.0 * rng.normal(size=(len(DISTANCES), FEATURES))

    def plain(x: jax.Array) -> jax.Array:
        return jnp.logaddexp(0.0, x) - jnp.log(2.0)

    def loss(kernel: jax.Array, x: jax.Array, named: bool) -> jax.Array:
        def energy(r: jax.Array) -> jax.Array:
            filters = radial_filters(r, kernel, CUTOFF) if named else radial_basis(r, BASIS, CUTOFF) @ kernel
            function = activation if named else plain
            return function(x * function(filters)).sum()

        return (jax.grad(energy)(jnp.asarray(DISTANCES)) ** 2).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
        found, expected = gradient(kernel, x, True), gradient(kernel, x, False)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_activation_and_its_slope_where_they_are_straight_and_where_they_are_bent() -> None:
    x = np.array([-200.0, -30.0, -1.0, 0.0, 1.0, 19.9, 20.1, 30.0, 200.0], np.float32)
    slope = jax.vmap(jax.grad(activation))(x)
    np.testing.assert_allclose(activation(x), softplus(x.astype(float)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(slope, 1.0 / (1.0 + np.exp(-x.astype(float))), rtol=1e-6, atol=1e-30)

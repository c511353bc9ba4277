"""PhysNet's message pass against loops over the atoms and their neighbours; its named derivatives; in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_legendre

from train.model.graph import Pairs
from train.model.physnet import Interaction, PhysNet, activation, radial_basis, radial_filters

ATOMS, FEATURES, BASIS, CUTOFF = 5, 3, 6, 4.0
FIRST = np.array([0, 0, 1, 2])
SECOND = np.array([1, 2, 3, 3])
"""Atom 4 has no neighbour."""
DISTANCES = np.array([0.9, 1.7, 2.2, 3.9])
DEGREE, CHANNELS = 3, 2


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


def neighbours(i: int, distances: np.ndarray) -> list[tuple[int, float]]:
    """The neighbours of atom i, with their distances."""
    pairs = zip(FIRST.tolist(), SECOND.tolist(), distances.tolist(), strict=True)
    return [(second if i == first else first, distance) for first, second, distance in pairs if i in (first, second)]


def residual(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Equation 4."""
    return x + dense(params["second"], softplus(dense(params["first"], softplus(x))))


def expected_interaction(
    params: dict[str, Any], x: np.ndarray, distances: np.ndarray, positions: np.ndarray | None = None
) -> np.ndarray:
    """Equations 5 and 6, atom by atom; with angular terms of these positions."""
    out = np.empty_like(x)
    for i in range(len(x)):
        v = softplus(dense(params["own"], softplus(x[i])))
        for j, distance in neighbours(i, distances):
            filters = expected_basis(distance) @ params["filter"]["kernel"]
            v = v + filters * softplus(dense(params["others"], softplus(x[j])))
        if positions is not None:
            v = v + dense(params["angular_update"], expected_invariants(params["angular"], i, softplus(x), positions))
        out[i] = params["gate"] * x[i] + dense(params["update"], softplus(residual(params["residual_0"], v)))
    return out


def expected_invariants(params: dict[str, Any], i: int, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Without spherical harmonics, by their addition theorem: a sum over pairs of neighbours of P_l(cos θ)."""
    messages = []
    for j, distance in neighbours(i, np.linalg.norm(positions[SECOND] - positions[FIRST], axis=1)):
        message = expected_basis(distance) @ params["filter"]["kernel"] * softplus(dense(params["others"], x[j]))
        messages.append((message.reshape(DEGREE, CHANNELS), (positions[j] - positions[i]) / distance))
    invariants = np.zeros((DEGREE, CHANNELS))
    for number in range(1, DEGREE + 1):
        left, right = np.split(params[f"mix_{number}"]["kernel"], 2, axis=1)
        for one, u in messages:
            for other, v in messages:
                product = (one[number - 1] @ left) * (other[number - 1] @ right)
                invariants[number - 1] += product * eval_legendre(number, u @ v)
    return invariants.ravel()


def drawn(tree: Any, rng: np.random.Generator) -> Any:
    """Parameters of the same shapes, none of them zero, as those of new blocks are."""
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), tree)


def test_interaction_is_the_sum_over_neighbours() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(ATOMS, FEATURES)), rng.normal(size=(BASIS, FEATURES))
    with jax.enable_x64(True):
        pairs = Pairs(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.zeros((len(FIRST), 3)))
        module = Interaction(FEATURES, residuals=1, basis=BASIS)
        arguments = x, [radial_filters(DISTANCES, kernel, CUTOFF)], pairs, None
        params = drawn(jax.eval_shape(module.init, jax.random.key(0), *arguments), rng)
        found = np.asarray(jax.jit(module.apply)(params, *arguments))
    expected = expected_interaction(params["params"] | {"filter": {"kernel": kernel}}, x, DISTANCES)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("degree", [0, DEGREE])
def test_modules_are_those_of_each_by_itself(degree: int) -> None:
    """Filters and output blocks of all modules are computed together; angular terms are Legendre polynomials."""
    rng = np.random.default_rng(1)
    numbers, positions = np.array([[1, 6, 8, 7, 1]]), rng.uniform(-1.0, 1.0, size=(1, ATOMS, 3))
    network = PhysNet(FEATURES, 2, BASIS, CUTOFF, degree=degree, channels=CHANNELS)
    vectors = positions[0, SECOND] - positions[0, FIRST]
    with jax.enable_x64(True):
        pairs = Pairs(jnp.asarray(FIRST), jnp.asarray(SECOND), jnp.asarray(vectors))
        arguments = numbers, positions, pairs, np.zeros(1)
        params = drawn(jax.eval_shape(network.init, jax.random.key(0), *arguments), rng)
        found: Any = jax.jit(network.apply)(params, *arguments)
    weights, distances = params["params"], np.linalg.norm(vectors, axis=1)
    x, outputs = weights["embedding"]["embedding"][numbers[0]], np.zeros((ATOMS, 2))
    for i in range(2):
        x = expected_interaction(weights[f"interaction_{i}"], x, distances, positions[0] if degree else None)
        x = residual(weights[f"atomic_{i}_0"], x)
        block = weights[f"output_{i}"]
        outputs += dense(block["linear"], softplus(residual(block["residual_0"], x)))
    charges = (weights["scale"][numbers[0]] * outputs + weights["shift"][numbers[0]])[:, 1]
    np.testing.assert_allclose(found.features[0], softplus(x), rtol=1e-9)
    np.testing.assert_allclose(found.charges[0], charges - charges.mean(), rtol=1e-9)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_filters_have_the_derivatives_of_finite_differences(order: int) -> None:
    """By the distances, also of derivatives; and by the weights, in which they are linear."""
    rng = np.random.default_rng(order)
    kernel, direction = rng.normal(size=(2, BASIS, FEATURES))
    with jax.enable_x64(True):
        filters = jax.jit(lambda r, kernel: radial_filters(r, kernel, CUTOFF, order))
        ones = np.ones_like(DISTANCES)
        value, slope = jax.jit(lambda r, along: jax.jvp(lambda r: filters(r, kernel), (r,), (along,)))(DISTANCES, ones)
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
    slope = jax.jit(jax.vmap(jax.grad(activation)))(x)
    np.testing.assert_allclose(jax.jit(activation)(x), softplus(x.astype(float)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(slope, 1.0 / (1.0 + np.exp(-x.astype(float))), rtol=1e-6, atol=1e-30)

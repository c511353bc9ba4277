"""The fast equivariant layers against e3x's own, with the same parameters."""

from __future__ import annotations

import functools
from typing import Any

import e3x
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plain_dcmnet import PlainDCMNet
from train.model.dcmnet import DCMNet, DistributedCharges, reciprocal_bernstein
from train.model.equivariant import MessagePass, TensorDense, couple, coupling_terms, spherical_harmonics
from train.model.graph import Edges

Array = jax.Array
ATOMS, FEATURES, BASIS, CUTOFF = 7, 4, 5, 6.0


def graph(rng: np.random.Generator) -> Edges:
    """All pairs of seven atoms, sorted by dst, two places of padding beyond the cutoff."""
    positions = rng.normal(scale=1.5, size=(ATOMS, 3))
    dst, src = np.nonzero(~np.eye(ATOMS, dtype=bool))
    displacements = positions[src] - positions[dst]
    beyond = np.array([[2 * CUTOFF, 0.0, 0.0]] * 2)
    last = [ATOMS - 1] * 2
    return Edges(
        jnp.asarray(np.append(dst, last)),
        jnp.asarray(np.append(src, last)),
        jnp.asarray(np.concatenate([displacements, beyond]), jnp.float32),
    )


def perturbed(params: Any, seed: int = 0) -> Any:
    """Parameters of order one, so that no path is hidden behind a zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.3 * rng.normal(size=p.shape), jnp.float32), params)


def drawn(layer: Any, *inputs: Any, **more: Any) -> Any:
    """New parameters, by one program."""
    return jax.jit(functools.partial(layer.init, **more))(jax.random.key(0), *inputs)


def random_components(rng: np.random.Generator, degree: int, n: int = ATOMS) -> list[Array]:
    """Features of degrees up to ``degree``."""
    return [jnp.asarray(rng.normal(size=(n, FEATURES)), jnp.float32) for _ in range((degree + 1) ** 2)]


def as_e3x(components: list[Array]) -> np.ndarray:
    """(n, 1, (L+1)², features)."""
    return np.stack(components, axis=1)[:, None]


@pytest.mark.parametrize(
    ("first", "second", "result"), [(0, 0, 0), (1, 1, 1), (2, 0, 2), (2, 2, 1), (2, 2, 2), (1, 3, 2)]
)
def test_tensor_product_is_that_of_e3x(first: int, second: int, result: int) -> None:
    """Every path with a weight of its own; parity forbids the others there too."""
    rng = np.random.default_rng(first + 10 * second)
    x, y = random_components(rng, first), random_components(rng, second)
    layer = e3x.nn.Tensor(max_degree=result, include_pseudotensors=False)
    params = perturbed(drawn(layer, as_e3x(x), as_e3x(y)))
    expected = jax.jit(layer.apply)(params, as_e3x(x), as_e3x(y))
    ours = jax.jit(couple, static_argnums=3)(x, y, params["params"]["kernel"], result)
    np.testing.assert_allclose(as_e3x(ours), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 4])  # which has those between
def test_harmonics_are_those_of_e3x(degree: int) -> None:
    """Of directions along the axes too, and of atoms at the same place, with their derivatives."""
    rng = np.random.default_rng(degree)
    vectors = jnp.asarray(np.concatenate([rng.normal(size=(20, 3)), 3.0 * np.eye(3), -np.eye(3), np.zeros((1, 3))]))
    weights = jnp.asarray(rng.normal(size=(27, (degree + 1) ** 2)))

    def ours(vectors: Array) -> Array:
        return jnp.concatenate(spherical_harmonics(vectors, degree), axis=-1)

    def theirs(vectors: Array) -> Array:
        return e3x.so3.spherical_harmonics(vectors, degree)

    np.testing.assert_allclose(jax.jit(ours)(vectors), jax.jit(theirs)(vectors), atol=1e-6)
    with jax.enable_x64(True):
        double = jnp.asarray(np.asarray(vectors, np.float64))
        np.testing.assert_allclose(jax.jit(ours)(double), jax.jit(theirs)(double), atol=1e-14)
    slopes = [jax.jit(jax.grad(lambda v, f=f: (weights * f(v)).sum()))(vectors) for f in (ours, theirs)]
    np.testing.assert_allclose(*slopes, atol=2e-5)


@pytest.mark.parametrize("num", [1, 2, 16, 40])
def test_radial_functions_are_those_of_e3x(num: int) -> None:
    distances = jnp.asarray([0.0, 1e-9, 0.3, 1.0, 2.5, 9.99, 20.0, 1e3], jnp.float32)
    expected = jax.jit(e3x.nn.reciprocal_bernstein, static_argnums=1)(distances, num)
    functions = jax.jit(lambda r: reciprocal_bernstein(r, num))
    np.testing.assert_allclose(functions(distances), expected, rtol=3e-5, atol=2e-7 * num)
    np.testing.assert_allclose(np.asarray(functions(distances)).sum(axis=-1), 1.0, rtol=3e-5)
    with jax.enable_x64(True):
        ahead, behind = (np.asarray(functions(np.array([0.8 + step]))) for step in (1e-6, -1e-6))
        slope = np.asarray(jax.jit(jax.jacfwd(functions))(np.array([0.8])))[0, :, 0]
        np.testing.assert_allclose(slope, (ahead - behind)[0] / 2e-6, atol=1e-8)
    assert np.isfinite(jax.jit(jax.grad(lambda r: functions(r).sum()))(distances)).all()


def test_couplings_are_few() -> None:
    """83 of 729 coefficients in 11 paths: what makes the layer fast."""
    terms = coupling_terms(2, 2, 2)
    assert len(terms) == 11
    assert sum(len(parts) for path in terms.values() for parts in path.values()) == 83


@pytest.mark.parametrize("source_degree", [0, 2])
def test_message_pass_is_that_of_e3x(source_degree: int) -> None:
    """The same parameter tree gives the same messages."""
    rng = np.random.default_rng(1)
    edges, x = graph(rng), random_components(rng, source_degree)

    @jax.jit
    def functions(displacements: Array) -> tuple[Array, list[Array], Array]:
        distances = jnp.linalg.norm(displacements, axis=-1)
        cutoff = e3x.nn.smooth_cutoff(distances, cutoff=CUTOFF)
        radial = e3x.nn.reciprocal_bernstein(distances, BASIS) * cutoff[:, None]
        harmonics = jnp.split(e3x.so3.spherical_harmonics(displacements, 2), 9, axis=-1)
        basis = e3x.nn.basis(
            displacements,
            max_degree=2,
            num=BASIS,
            radial_fn=e3x.nn.reciprocal_bernstein,
            cutoff_fn=functools.partial(e3x.nn.smooth_cutoff, cutoff=CUTOFF),
        )
        return radial, harmonics, basis

    radial, harmonics, basis = functions(edges.displacements)
    layer = e3x.nn.MessagePass(max_degree=2, include_pseudotensors=False)
    indices: dict[str, Any] = {"dst_idx": edges.dst_idx, "src_idx": edges.src_idx, "indices_are_sorted": True}
    params = perturbed(drawn(layer, as_e3x(x), basis, **indices))
    ours = jax.jit(MessagePass(2).apply)(params, x, radial, harmonics, edges)
    expected = jax.jit(functools.partial(layer.apply, **indices))(params, as_e3x(x), basis)
    np.testing.assert_allclose(as_e3x(ours), expected, rtol=1e-5, atol=1e-5)


def test_tensor_dense_is_that_of_e3x() -> None:
    """Down to degree one, to another number of features."""
    x = random_components(np.random.default_rng(2), 2)
    layer = e3x.nn.TensorDense(3, max_degree=1, include_pseudotensors=False)
    params = perturbed(drawn(layer, as_e3x(x)))
    ours = jax.jit(TensorDense(3, 1).apply)(params, x)
    np.testing.assert_allclose(as_e3x(ours), jax.jit(layer.apply)(params, as_e3x(x)), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def networks() -> tuple[DCMNet, PlainDCMNet, Any, tuple[Array, Array, Edges]]:
    """Both networks, parameters for both, and a molecule with padding."""
    shape: dict[str, Any] = {"features": FEATURES, "iterations": 2, "basis": BASIS, "cutoff": CUTOFF, "n_dcm": 3}
    rng = np.random.default_rng(3)
    numbers = jnp.asarray([[6, 8, 1, 1, 7, 9, 0]])
    molecule = (numbers, jnp.asarray(rng.normal(size=(1, ATOMS)), jnp.float32), graph(rng))
    plain = PlainDCMNet(**shape, max_degree=2)
    return DCMNet(**shape, max_degree=2), plain, drawn(plain, *molecule), molecule


def test_new_parameters_are_those_of_e3x(networks: Any) -> None:
    """The same names, shapes and, but for the head, initial spread: weights of one network fit the other."""
    fast, _, params, molecule = networks
    ours = drawn(fast, *molecule)
    assert jax.tree.structure(ours) == jax.tree.structure(params)
    for (path, one), two in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path)
        assert one.shape == two.shape, name
        if two.size > 30 and np.std(two) > 0 and "head" not in name:
            assert np.std(one) == pytest.approx(np.std(two), rel=0.5), name


def test_network_is_that_of_e3x(networks: Any) -> None:
    """Charges, displacements, and the gradient of both in parameters and monopoles, to float32 rounding."""
    fast, plain, params, (numbers, monopoles, edges) = networks
    params = perturbed(params)

    def loss(network: Any, params: Any, monopoles: Array) -> tuple[Array, DistributedCharges]:
        out = network.apply(params, numbers, monopoles, edges)
        return (out.charges**2).sum() + (out.displacements**3).sum(), out

    gradients = []
    outputs = []
    for network in (fast, plain):
        gradient_of = jax.jit(jax.grad(functools.partial(loss, network), argnums=(0, 1), has_aux=True))
        gradient, out = gradient_of(params, monopoles)
        gradients.append(gradient)
        outputs.append(out)
    scale = float(np.abs(outputs[1].charges).max())
    np.testing.assert_allclose(outputs[0].charges, outputs[1].charges, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(outputs[0].displacements, outputs[1].displacements, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(gradients[1]), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * max(float(np.abs(expected).max()), 1e-3))

"""Equivariant layers in the fastest layout for this model: components first, (degree, order) × atoms × features.

They compute what e3x's Dense, Tensor and MessagePass compute for features of one parity channel, with parameters of the
same names and shapes, and the tests compare them. e3x contracts dense 9 × 9 × 9 arrays of Clebsch-Gordan coefficients,
of which nine in ten are zero (or forbidden by parity), for every edge and feature; here each non-zero coefficient is
one multiplication of whole rows, which the compiler fuses.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import e3x
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.model.graph import Edges

Array = jax.Array
Components = list[Array]
"""(L+1)² arrays of shape (n, features): the components of degrees 0 … L, in e3x's order."""

Path = tuple[int, int, int]
"""Degrees of the first factor, of the second one, and of their product."""

Term = tuple[int, int, float]
"""Component of the first factor, component of the second one, coefficient."""

Initializer = Callable[..., Any]
"""An initialiser of flax: (key, shape, dtype) -> array."""

_USUAL_DEGREE = 4
"""Largest that a model has."""

Rotations = dict[Path, dict[int, dict[int, Array]]]


def max_degree_of(components: Components) -> int:
    """Return L from the number of components."""
    return math.isqrt(len(components)) - 1


@functools.cache
def _coefficients(degree: int) -> np.ndarray:
    """Return e3x's Clebsch-Gordan coefficients of all degrees up to this one; computing them, JAX compiles."""
    # In full precision, whatever the first model to be traced has.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(e3x.so3.clebsch_gordan(degree, degree, degree))


@functools.cache
def coupling_terms(first: int, second: int, result: int) -> dict[Path, dict[int, list[Term]]]:
    """Return the non-zero Clebsch-Gordan coefficients that couple proper tensors to proper tensors.

    Args:
        first: largest degree of the first factor.
        second: of the second factor.
        result: of the product.

    Returns:
        for each path (l1, l2, l3) with l1 + l2 + l3 even, for each component of degree l3, its terms.
    """
    coefficients = _coefficients(max(first, second, result, _USUAL_DEGREE))
    coefficients = coefficients[: (first + 1) ** 2, : (second + 1) ** 2, : (result + 1) ** 2]
    paths: dict[Path, dict[int, list[Term]]] = {}
    for i, j, k in np.argwhere(np.abs(coefficients) > 1e-9).tolist():
        path = (math.isqrt(i), math.isqrt(j), math.isqrt(k))
        if sum(path) % 2 == 0:
            paths.setdefault(path, {}).setdefault(k, []).append((i, j, float(coefficients[i, j, k])))
    return paths


def spherical_harmonics(vectors: Array, max_degree: int) -> Components:
    """Return real spherical harmonics of directions (P, 3), (P, 1) each: e3x.so3.spherical_harmonics.

    Each degree from the one below: coupled with the direction itself, to a value of 1 on the z axis. e3x computes its
    coefficients with JAX while a model is traced, which compiles some fifty small programs in every cold start.
    """
    unit = jnp.split(e3x.ops.normalize(vectors, axis=-1), 3, axis=-1)
    harmonics: Components = [jnp.ones_like(unit[0]), *unit][: (max_degree + 1) ** 2]
    for degree in range(2, max_degree + 1):
        components = coupling_terms(1, degree - 1, degree)[1, degree - 1, degree]
        # On the z axis only the last component of each degree is not zero.
        on_axis = sum(value for i, j, value in components[(degree + 1) ** 2 - 1] if (i, j) == (3, degree**2 - 1))
        for k in range(degree**2, (degree + 1) ** 2):
            terms = [value / on_axis * unit[i - 1] * harmonics[j] for i, j, value in components[k]]
            harmonics.append(sum(terms[1:], start=terms[0]))
    # Computed once: the compiler would compute them again in each product (4 % of a step of 132 edges, measured).
    together = jax.lax.optimization_barrier(jnp.concatenate(harmonics, axis=-1))
    return jnp.split(together, len(harmonics), axis=-1)


def couple(first: Components, second: Components, kernel: Array, max_degree: int) -> Components:
    """Return Σ over paths of kernel · CG · first · second: e3x.nn.Tensor for one parity channel.

    Args:
        first: components of (n, features).
        second: components of (n, features).
        kernel: (1, L1+1, 1, L2+1, 1, L3+1, features).
        max_degree: L3.
    """
    out: dict[int, Array] = {}
    terms = coupling_terms(max_degree_of(first), max_degree_of(second), max_degree)
    weights = _path_weights(kernel)
    for path, components in terms.items():
        weight = weights[path]
        for k, parts in components.items():
            product = weight * sum(value * first[i] * second[j] for i, j, value in parts)
            out[k] = out[k] + product if k in out else product
    return [out[k] for k in range((max_degree + 1) ** 2)]


def unstack(array: Array, axis: int = 0) -> list[Array]:
    """Return the slices along an axis.

    Unlike indexing, whose derivatives are padded to the whole array and added one by one, a split has a concatenation
    as its derivative.
    """
    parts = jax.lax.split(array, [1] * array.shape[axis], axis)
    return [jnp.squeeze(part, axis) for part in parts]


def _path_weights(kernel: Array) -> dict[Path, Array]:
    """Return the weights (1, features) of every path, from e3x's array of them."""
    _, first, _, second, _, result, features = kernel.shape
    paths = itertools.product(range(first), range(second), range(result))
    rows = jax.lax.split(kernel.reshape(-1, features), [1] * (first * second * result), 0)
    return dict(zip(paths, rows, strict=True))


def add(first: Components, second: Components) -> Components:
    """Add features whose largest degrees may differ."""
    if len(first) > len(second):
        first, second = second, first
    return [a + b for a, b in zip(first, second[: len(first)], strict=True)] + second[len(first) :]


def gated_silu(components: Components) -> Components:
    """Return x · sigmoid(x₀): SiLU of the scalars, which also gate the other degrees."""
    gate = jax.nn.sigmoid(components[0])
    return [gate * component for component in components]


class DegreeDense(nn.Module):
    """A linear map of the features, one for each degree; a bias for the scalars (e3x.nn.Dense)."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, components: Components) -> Components:
        """Map components of (n, features)."""
        out: Components = []
        for degree in range(max_degree_of(components) + 1):
            stacked = jnp.stack(components[degree**2 : (degree + 1) ** 2])
            with_bias = self.use_bias and degree == 0
            dense = nn.Dense(self.features, use_bias=with_bias, kernel_init=self.kernel_init, name=_degree_name(degree))
            out.extend(unstack(dense(stacked)))
        return out


class _Kernel(nn.Module):
    """The weights of the coupling paths, one for each feature, by default initialised as e3x does."""

    kernel_init: Initializer = e3x.nn.initializers.tensor_lecun_normal()

    @nn.compact
    def __call__(self, first: int, second: int, result: int, features: int) -> Array:
        shape = (1, first + 1, 1, second + 1, 1, result + 1, features)
        kernel: Array = self.param("kernel", self.kernel_init, shape)
        return kernel


def rotations(harmonics: Components, source_degree: int, max_degree: int) -> Rotations:
    """Return Σ CG · harmonics for every path: the factors by which an edge's direction maps its source's components.

    The factors have no features and no parameters, and so cost little, forwards and backwards.

    Args:
        harmonics: spherical harmonics of the edges' directions, (P, 1) each.
        source_degree: largest degree of the sources.
        max_degree: of the messages.

    Returns:
        for each path, for each component of the message, the factors (P, 1) of the source's components.
    """
    result: Rotations = {}
    for path, components in coupling_terms(max_degree_of(harmonics), source_degree, max_degree).items():
        for k, parts in components.items():
            factors: dict[int, Array] = {}
            for i, j, value in parts:
                term = value * harmonics[i]
                factors[j] = factors[j] + term if j in factors else term
            result.setdefault(path, {})[k] = factors
    return result


class MessagePass(nn.Module):
    """m_i = Σ_j tensor(filter(r_ij), x_j) (e3x.nn.MessagePass), the filter being linear in the radial basis."""

    max_degree: int

    @nn.compact
    def __call__(self, components: Components, radial: Array, harmonics: Components, edges: Edges) -> Components:
        """Sum the messages that arrive at every atom.

        Args:
            components: of the atoms, (N, features) each.
            radial: (P, basis) radial functions of the edges, zero beyond the cutoff.
            harmonics: spherical harmonics of the edges' directions, (P, 1) each.
            edges: of the batch.
        """
        n, features = components[0].shape
        filters = _RadialFilter(features, self.max_degree, name="filter")(radial)
        source_degree = max_degree_of(components)
        kernel = _Kernel(name="tensor")(self.max_degree, source_degree, self.max_degree, features)
        sources = unstack(jnp.stack(components)[:, edges.src_idx])
        weights = _path_weights(kernel)
        messages: dict[int, Array] = {}
        for path, rotation in rotations(harmonics, source_degree, self.max_degree).items():
            # All orders of a degree share their filter, so it is taken out of the sum over the orders.
            weight = filters[path[0]] * weights[path]
            for k, factors in rotation.items():
                message = weight * sum(factor * sources[j] for j, factor in factors.items())
                messages[k] = messages[k] + message if k in messages else message
        stacked = jnp.stack([messages[k] for k in range((self.max_degree + 1) ** 2)], axis=1)
        summed = jax.ops.segment_sum(stacked, edges.dst_idx, n, indices_are_sorted=True)
        return unstack(summed, axis=1)


class _RadialFilter(nn.Module):
    """One linear map of the radial basis for each degree, (P, features) each."""

    features: int
    max_degree: int

    @nn.compact
    def __call__(self, radial: Array) -> list[Array]:
        # The functions add up to one (Bernstein polynomials), so that each is small: with the usual variance, of one
        # over their number, messages begin at a hundredth of the features, displacements at 0.001 Å, and the
        # potential stays on a plateau for long.
        initial = nn.initializers.normal(1.0)
        return [
            nn.Dense(self.features, use_bias=False, kernel_init=initial, name=_degree_name(degree))(radial)
            for degree in range(self.max_degree + 1)
        ]


class TensorDense(nn.Module):
    """The tensor product of two linear maps of the features (e3x.nn.TensorDense without pseudotensors)."""

    features: int
    max_degree: int
    dense_init: Initializer = nn.initializers.lecun_normal()
    tensor_init: Initializer = e3x.nn.initializers.tensor_lecun_normal()

    @nn.compact
    def __call__(self, components: Components) -> Components:
        """Return the product of two maps of components of (n, features)."""
        mapped = DegreeDense(2 * self.features, kernel_init=self.dense_init, name="dense")(components)
        degree = max_degree_of(components)
        kernel = _Kernel(self.tensor_init, name="tensor")(degree, degree, self.max_degree, self.features)
        halves = [jnp.split(part, 2, axis=1) for part in mapped]
        return couple([half[0] for half in halves], [half[1] for half in halves], kernel, self.max_degree)


def _degree_name(degree: int) -> str:
    return f"{degree}{'+-'[degree % 2]}"

"""DCMNet: distributed charges per atom, equivariant (Boittier & Meuwly, arXiv 2602.07234)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import e3x
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from shared.elements import MAX_ATOMIC_NUMBER
from train.model.equivariant import (
    Components,
    DegreeDense,
    MessagePass,
    TensorDense,
    add,
    gated_silu,
    spherical_harmonics,
)
from train.model.graph import Edges

Array = jax.Array

DISPLACEMENT_SCALE_ANGSTROM = 0.175


class DistributedCharges(NamedTuple):
    """Point charges of a batch; those of padding are zero."""

    charges: Array  # (B, A, n_dcm) e
    displacements: Array  # (B, A, n_dcm, 3) Å, from the atom


_INITIAL_CHARGE = 0.8
"""Largest of an atom's initial charges before its monopole is added, e."""

_INITIAL_LENGTH = 3.0
"""Length of the line, in units of the displacement that e3x's initial weights would give."""

_OWN_SHARE = 0.1
"""Size of a charge's own initial weights, relative to those that it shares with the atom's other charges."""


def _initial_bias(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Return initial charges (elements, n_dcm) of a linear quadrupole, + - + or + - - +, or dipole, + -, in each row.

    Together with :func:`_initial_couplings`, which lays them along a line through the atom. Charges that begin equal,
    and anywhere, are pulled the same way and end up all on one side of their atom: on CO2, in most seeds, with twice
    the ESP error of charges on both sides, and they do not find the way from one to the other.
    """
    line = _line(shape[1])
    # Two charges have the dipole alone. Those that began equal ended with three times the ESP error on CO2.
    pattern = line**2 if shape[1] > 2 else line
    pattern = pattern - pattern.mean()
    largest = np.abs(pattern).max()
    return jnp.broadcast_to(jnp.asarray(_INITIAL_CHARGE * pattern / (largest or 1.0), dtype), shape)


def _initial_maps(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Return two maps of the features, (features, 2 n_dcm), nearly the same for all charges."""
    drawn = nn.initializers.lecun_normal()(key, shape, dtype).reshape(shape[0], 2, -1)
    return (drawn[..., :1] + _OWN_SHARE * drawn).reshape(shape)


def _initial_couplings(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Return couplings (1, L+1, 1, L+1, 1, 2, n_dcm) that displace charges along one line, at equal distances."""
    drawn = e3x.nn.initializers.tensor_lecun_normal()(key, shape, dtype)
    vectors = drawn[..., 1, :]
    along = vectors[..., :1] * jnp.asarray(_INITIAL_LENGTH * _line(shape[-1]), dtype)
    return drawn.at[..., 1, :].set(along + _OWN_SHARE * vectors)


def _line(n_dcm: int) -> np.ndarray:
    """Return the initial places of an atom's charges on a line; a single one is not at its middle."""
    return np.linspace(1.0, -1.0, n_dcm)


def reciprocal_bernstein(distances: Array, num: int) -> Array:
    """Return C(K-1, k) y^k (1-y)^(K-1-k) of y = r / (1 + r), r in Å: e3x.nn.reciprocal_bernstein.

    e3x computes the coefficients with JAX while a model is traced, which compiles some seventy small programs in every
    cold start.

    Args:
        distances: (P,) in Å.
        num: number of functions K.

    Returns:
        (P, K).
    """
    last, k = num - 1, np.arange(num)
    coefficients = np.array([math.log(math.comb(last, i)) for i in k], distances.dtype)
    # No logarithm of zero where two atoms are at the same place.
    safe = jnp.maximum(distances, jnp.finfo(distances.dtype).eps)[:, None]
    return jnp.exp(coefficients + k.astype(distances.dtype) * jnp.log(safe) - last * jnp.log1p(safe))


def bound_length(vectors: Array, longest: float) -> Array:
    """Return vectors (..., 3) of the same directions, their lengths r as r_max tanh(r / r_max)."""
    square = (vectors**2).sum(axis=-1, keepdims=True) / longest**2
    # Near zero by its series: a norm there has no derivative, and forces need two.
    small = square < 1e-3
    root = jnp.sqrt(jnp.where(small, 1.0, square))
    series = 1.0 - square / 3.0 * (1.0 - square * 2.0 / 5.0 * (1.0 - square * 17.0 / 42.0))
    return vectors * jnp.where(small, series, jnp.tanh(root) / root)


class DCMNet(nn.Module):
    """Network for n_dcm charges per atom and their displacements.

    Features are proper tensors (one parity channel, in e3x's terms), so displacements are true vectors under rotation
    and reflection.

    Attributes:
        features: F, channels.
        iterations: message passes.
        basis: radial basis functions.
        cutoff: Å.
        max_degree: L.
        n_dcm: charges per atom.
        exact_monopoles: shift each atom's charges so that they sum to the monopole that came in.
        longest_arm: Å, bound of a displacement's length; 0: none.
    """

    features: int
    iterations: int
    basis: int
    cutoff: float
    n_dcm: int
    max_degree: int = 2
    exact_monopoles: bool = False
    longest_arm: float = 0.0

    @nn.compact
    def __call__(
        self, atomic_numbers: Array, monopoles: Array, edges: Edges, atom_features: Array | None = None
    ) -> DistributedCharges:
        """Return charges and displacements.

        Args:
            atomic_numbers: (B, A), 0 = padding.
            monopoles: (B, A) charges of the atoms in e, from PhysNet.
            edges: edges within ``cutoff`` of this batch.
            atom_features: (B, A, any) invariant features from PhysNet, where it shares them.
        """
        shape = atomic_numbers.shape
        flat_numbers = atomic_numbers.reshape(-1)
        x = self._features(flat_numbers, monopoles.reshape(-1), edges, atom_features)
        layer = TensorDense(self.n_dcm, 1, dense_init=_initial_maps, tensor_init=_initial_couplings, name="head")
        head = jnp.stack(layer(x), axis=1)[:, None]
        scalars, vectors = head[:, 0, 0, :], e3x.nn.hard_tanh(head)[:, 0, 1:4, :]
        bias = self.param("element_bias", _initial_bias, (MAX_ATOMIC_NUMBER + 1, self.n_dcm))
        # Small, so that the potential of a new network is not a hundred times the data's.
        small = nn.initializers.variance_scaling(0.003, "fan_in", "normal")
        charges = nn.Dense(self.n_dcm, use_bias=False, kernel_init=small, name="charges")(scalars)
        charges = charges + bias[flat_numbers]
        # (N, xyz, n_dcm) to (N, n_dcm, xyz): a transposition, never a reshape, which would mix the charges' x, y, z.
        displacements = DISPLACEMENT_SCALE_ANGSTROM * jnp.swapaxes(vectors, 1, 2)
        if self.longest_arm:
            displacements = bound_length(displacements, self.longest_arm)
        charges = charges.reshape(*shape, self.n_dcm)
        if self.exact_monopoles:
            charges = charges + ((monopoles - charges.sum(axis=-1)) / self.n_dcm)[..., None]
        atom_mask = atomic_numbers > 0
        return DistributedCharges(
            charges=jnp.where(atom_mask[..., None], charges, 0.0),
            displacements=jnp.where(atom_mask[..., None, None], displacements.reshape(*shape, self.n_dcm, 3), 0.0),
        )

    def _features(
        self, atomic_numbers: Array, monopoles: Array, edges: Edges, atom_features: Array | None
    ) -> Components:
        """Return the features after message passing: (max_degree+1)² components of (N, features)."""
        distances = e3x.ops.norm(edges.displacements, axis=-1)
        cutoff = e3x.nn.smooth_cutoff(distances, cutoff=self.cutoff)
        radial = reciprocal_bernstein(distances, self.basis) * cutoff[:, None]
        harmonics = spherical_harmonics(edges.displacements, self.max_degree)
        half = nn.initializers.normal(0.5)
        embed = e3x.nn.Embed(MAX_ATOMIC_NUMBER + 1, self.features, embedding_init=half, name="embedding")
        embedded = embed(atomic_numbers)
        charged = DegreeDense(self.features, use_bias=False, name="monopole")([monopoles[:, None]])
        scalars = embedded[:, 0, 0] + charged[0]
        if atom_features is not None:
            # From zero: a new network begins as one without them.
            shared = nn.Dense(self.features, use_bias=False, kernel_init=nn.initializers.zeros, name="shared")
            scalars = scalars + shared(atom_features.reshape(scalars.shape[0], -1))
        x: Components = [scalars]
        for i in range(self.iterations):
            y = MessagePass(self.max_degree, name=f"message_{i}")(x, radial, harmonics, edges)
            x = add(x, y)
            y = DegreeDense(self.features, name=f"mlp_{i}_0")(x)
            y = DegreeDense(self.features, name=f"mlp_{i}_1")(gated_silu(y))
            x = add(x, y)
        return x

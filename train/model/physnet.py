"""PhysNet: energies and charges from element and distances (Unke & Meuwly, JCTC 2019, 15, 3678)."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import e3x
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from shared.elements import MAX_ATOMIC_NUMBER
from train.model.electrostatics import damped_coulomb_energy, polynomial_cutoff
from train.model.equivariant import spherical_harmonics
from train.model.graph import Pairs
from train.model.repulsion import nuclear_repulsion

Array = jax.Array


@jax.custom_jvp
def activation(x: Array) -> Array:
    """Return the shifted softplus ln(1 + eˣ) - ln 2 (eq 3): smooth, and zero at zero.

    Computed as ln(½ + ½eˣ), which is cheaper than the usual form; beyond 20 it equals x - ln 2 in float32. Its
    derivative is named, because that of this form, and of its derivatives, are many operations.
    """
    small = jnp.minimum(x, 20.0)
    return jnp.where(x > 20.0, x - math.log(2.0), jnp.log(0.5 + 0.5 * jnp.exp(small)))


activation.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))


class PhysNetOutput(NamedTuple):
    """Energy, charges and features of a batch."""

    energy: Array  # (B,) eV
    charges: Array  # (B, A) e, 0 for padding; they sum to the total charge
    charge_excess: Array  # (B,) e, of the sum of the charges over the total charge, before it was corrected
    features: Array  # (B, A, features) σ(x) of the last module; without meaning for padding


def radial_basis(distances: Array, num: int, cutoff: float) -> Array:
    """Return g_k(r) = φ(r)·exp(-β (e^{-r} - μ_k)²) (eq 7), μ_k from e^{-r_c} to 1, β = [2/K·(1 - e^{-r_c})]⁻².

    Args:
        distances: (P,) in Å.
        num: number of functions K.
        cutoff: r_c in Å.

    Returns:
        (P, K).
    """
    start = jnp.exp(-jnp.asarray(cutoff, distances.dtype))
    centers = jnp.linspace(start, 1.0, num)
    width = (2.0 / num * (1.0 - start)) ** -2
    gaussians = jnp.exp(-width * (jnp.exp(-distances)[:, None] - centers[None, :]) ** 2)
    return polynomial_cutoff(distances, cutoff)[:, None] * gaussians


def _basis_derivative(distances: Array, num: int, cutoff: float, order: int) -> Array:
    if order == 0:
        return radial_basis(distances, num, cutoff)
    lower = functools.partial(_basis_derivative, num=num, cutoff=cutoff, order=order - 1)
    derivative: Array = jax.jvp(lower, (distances,), (jnp.ones_like(distances),))[1]
    return derivative


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def radial_filters(distances: Array, kernel: Array, cutoff: float, order: int = 0) -> Array:
    """Return the filters Σ_k g_k(r) G_k of distances (eq 6), or a derivative of them by r.

    Each has one distance and many features: its derivative is one number for each feature, which takes one matrix
    product. Automatic differentiation goes back to all basis functions, with another product, and forward again with a
    third for the forces' loss.

    Args:
        distances: (P,) in Å.
        kernel: (K, features) G, of K basis functions.
        cutoff: r_c in Å.
        order: of the derivative.

    Returns:
        (P, features), in 1/Å^order.
    """
    return _basis_derivative(distances, kernel.shape[0], cutoff, order) @ kernel


@functools.partial(radial_filters.defjvp, symbolic_zeros=True)
def _radial_filters_jvp(cutoff: float, order: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    distances, kernel = primals
    by_distance, by_kernel = tangents
    filters = radial_filters(distances, kernel, cutoff, order)
    parts = []
    if not isinstance(by_distance, jax.custom_derivatives.SymbolicZero):
        parts.append(by_distance[:, None] * radial_filters(distances, kernel, cutoff, order + 1))
    if not isinstance(by_kernel, jax.custom_derivatives.SymbolicZero):
        parts.append(radial_filters(distances, by_kernel, cutoff, order))
    return filters, sum(parts[1:], start=parts[0])


class Residual(nn.Module):
    """A residual block x + W₂σ(W₁σ(x) + b₁) + b₂ (eq 4); W₂ starts at zero, so that a new block changes nothing."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map features (N, features)."""
        features = x.shape[-1]
        y = nn.Dense(features, kernel_init=nn.initializers.orthogonal(), name="first")(activation(x))
        return x + nn.Dense(features, kernel_init=nn.initializers.zeros, name="second")(activation(y))


class _Filter(nn.Module):
    """The filters of one interaction."""

    features: int
    basis: int
    cutoff: float

    @nn.compact
    def __call__(self, distances: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.basis, self.features))
        return radial_filters(distances, kernel, self.cutoff)


class Angular(nn.Module):
    """Invariants of the directions in which an atom's neighbours lie, which no single distance tells.

    The neighbours' density A_i^{lm} = Σ_j (G_l g(r_ij)) ∘ σ(W_l σ(x_j) + b_l) Y_lm(r_ij), and of each degree l the
    products b_i^l = Σ_m (U_l A_i^{lm}) ∘ (V_l A_i^{lm}): the terms of three bodies of the atomic cluster expansion
    (Drautz, Phys. Rev. B 2019, 99, 014104), with messages that the network learns (Batatia et al., MACE, NeurIPS 2022).
    """

    degree: int
    channels: int
    basis: int
    cutoff: float

    @nn.compact
    def __call__(self, activated: Array, distances: Array, directions: Array, pairs: Pairs) -> Array:
        """Return invariants (N, degree · channels).

        Args:
            activated: (N, features) σ(x).
            distances: (P,) of the pairs in Å.
            directions: (P, (degree + 1)² - 1) spherical harmonics of the pairs' displacements, from degree 1.
            pairs: of the batch.
        """
        width = self.degree * self.channels
        others = activation(nn.Dense(width, name="others")(activated))
        filters = _Filter(width, self.basis, self.cutoff, name="filter")(distances)
        degrees = np.repeat(np.arange(1, self.degree + 1), 2 * np.arange(1, self.degree + 1) + 1)

        def by_component(values: Array) -> Array:
            return values.reshape(-1, self.degree, self.channels)[:, degrees - 1]

        # Seen from the other atom, the direction is the opposite one.
        opposite = directions * np.where(degrees % 2, -1.0, 1.0).astype(directions.dtype)
        to_first = by_component(filters * others[pairs.second_idx]) * directions[..., None]
        to_second = by_component(filters * others[pairs.first_idx]) * opposite[..., None]
        receivers = jnp.concatenate([pairs.first_idx, pairs.second_idx])
        density = jax.ops.segment_sum(jnp.concatenate([to_first, to_second]), receivers, activated.shape[0])
        invariants = []
        for degree in range(1, self.degree + 1):
            own = density[:, degree**2 - 1 : (degree + 1) ** 2 - 1]
            mixed = nn.Dense(2 * self.channels, use_bias=False, name=f"mix_{degree}")(own)
            left, right = jnp.split(mixed, 2, axis=-1)
            invariants.append((left * right).sum(axis=1))
        return jnp.concatenate(invariants, axis=-1)


class Interaction(nn.Module):
    """One message pass, residual blocks on the messages, and the gated update of the features (eqs 5 and 6).

    With a ``degree``, the invariants of :class:`Angular` join the messages by a linear map.
    """

    residuals: int
    basis: int
    cutoff: float
    degree: int = 0
    channels: int = 0

    @nn.compact
    def __call__(self, x: Array, distances: Array, pairs: Pairs, directions: Array | None) -> Array:
        """Update features (N, features) with messages both ways between P pairs.

        Args:
            x: (N, features).
            distances: (P,) of the pairs in Å.
            pairs: of the batch.
            directions: as in :class:`Angular`; None without a degree.
        """
        features = x.shape[-1]
        activated = activation(x)
        own = activation(nn.Dense(features, name="own")(activated))
        others = activation(nn.Dense(features, name="others")(activated))
        filters = _Filter(features, self.basis, self.cutoff, name="filter")(distances)
        messages = jnp.concatenate([filters * others[pairs.second_idx], filters * others[pairs.first_idx]])
        receivers = jnp.concatenate([pairs.first_idx, pairs.second_idx])
        v = own + jax.ops.segment_sum(messages, receivers, x.shape[0])
        if directions is not None:
            angular = Angular(self.degree, self.channels, self.basis, self.cutoff, name="angular")
            v = v + nn.Dense(features, name="angular_update")(angular(activated, distances, directions, pairs))
        for i in range(self.residuals):
            v = Residual(name=f"residual_{i}")(v)
        gate = self.param("gate", nn.initializers.ones, (features,))
        return gate[None, :] * x + nn.Dense(features, name="update")(activation(v))


class Output(nn.Module):
    """Residual blocks and a linear map to (E_i, q_i)."""

    residuals: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map features (N, features) to contributions (N, 2) to energy and charge."""
        for i in range(self.residuals):
            x = Residual(name=f"residual_{i}")(x)
        # Small, so that a new network predicts energies and forces of the data's order; not zero, because charges
        # of zero have no dipole, no potential and no gradient to grow from.
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        return nn.Dense(2, use_bias=False, kernel_init=small, name="linear")(activation(x))


class PhysNet(nn.Module):
    """Network for the energy and charges of every molecule of a batch.

    Attributes:
        features: F, features per atom.
        iterations: number of modules.
        basis: K, radial basis functions.
        cutoff: r_c in Å.
        residual_interaction: residual blocks on the messages.
        residual_atomic: residual blocks on the features after each interaction.
        residual_output: residual blocks in each output block.
        degree: highest degree of the angular terms; 0: distances alone, as published.
        channels: angular channels of each degree.
        zbl: add the repulsion of nuclei at short distances.
    """

    features: int
    iterations: int
    basis: int
    cutoff: float
    residual_interaction: int = 1
    residual_atomic: int = 1
    residual_output: int = 1
    degree: int = 0
    channels: int = 16
    zbl: bool = False

    @nn.compact
    def __call__(self, atomic_numbers: Array, positions: Array, pairs: Pairs, total_charge: Array) -> PhysNetOutput:
        """Return energies, charges and features.

        Args:
            atomic_numbers: (B, A), 0 = padding.
            positions: (B, A, 3) in Å.
            pairs: pairs within ``cutoff`` of this batch.
            total_charge: (B,) in e.
        """
        shape = atomic_numbers.shape
        flat_numbers = atomic_numbers.reshape(-1)
        atom_mask = atomic_numbers > 0
        elements = MAX_ATOMIC_NUMBER + 1
        distances = e3x.ops.norm(pairs.displacements, axis=-1)
        x = nn.Embed(elements, self.features, embedding_init=nn.initializers.normal(1.0), name="embedding")(
            flat_numbers
        )
        directions = None
        if self.degree:
            directions = jnp.concatenate(spherical_harmonics(pairs.displacements, self.degree)[1:], axis=-1)
        interaction = functools.partial(
            Interaction, self.residual_interaction, self.basis, self.cutoff, self.degree, self.channels
        )
        outputs = jnp.zeros((x.shape[0], 2), x.dtype)
        for i in range(self.iterations):
            x = interaction(name=f"interaction_{i}")(x, distances, pairs, directions)
            for j in range(self.residual_atomic):
                x = Residual(name=f"atomic_{i}_{j}")(x)
            outputs = outputs + Output(self.residual_output, name=f"output_{i}")(x)
        scale = self.param("scale", nn.initializers.ones, (elements, 2))[flat_numbers]
        shift = self.param("shift", nn.initializers.zeros, (elements, 2))[flat_numbers]
        atomic = (scale * outputs + shift).reshape(*shape, 2)
        atomic = jnp.where(atom_mask[..., None], atomic, 0.0)
        charges, excess = conserve_charge(atomic[..., 1], atom_mask, total_charge)
        energy = atomic[..., 0].sum(axis=1) + damped_coulomb_energy(charges, positions, atom_mask, self.cutoff)
        if self.zbl:
            energy = energy + nuclear_repulsion(atomic_numbers, pairs, distances, self.cutoff)
        return PhysNetOutput(energy, charges, excess, activation(x).reshape(*shape, -1))


def conserve_charge(charges: Array, atom_mask: Array, total_charge: Array) -> tuple[Array, Array]:
    """Return charges that sum to the total charge, q̃_i = q_i - (Σ_j q_j - Q)/N (eq 14), and the excess Σ_j q_j - Q.

    Args:
        charges: (B, A) in e, 0 for padding.
        atom_mask: (B, A) bool.
        total_charge: (B,) Q in e.

    Returns:
        (B, A) and (B,) in e.
    """
    count = jnp.maximum(atom_mask.sum(axis=1), 1)
    excess = charges.sum(axis=1) - total_charge
    return jnp.where(atom_mask, charges - (excess / count)[:, None], 0.0), excess

"""PhysNet: energies and charges from element and distances (Unke & Meuwly, JCTC 2019, 15, 3678)."""

from __future__ import annotations

import math
from typing import NamedTuple

import e3x
import jax
import jax.numpy as jnp
from flax import linen as nn

from shared.elements import MAX_ATOMIC_NUMBER
from train.model.electrostatics import damped_coulomb_energy, polynomial_cutoff
from train.model.graph import Edges

Array = jax.Array


def activation(x: Array) -> Array:
    """Return the shifted softplus ln(1 + eˣ) - ln 2 (eq 3): smooth, and zero at zero.

    Computed as ln(½ + ½eˣ), which is cheaper than the usual form; beyond 20 it equals x - ln 2 in float32.
    """
    small = jnp.minimum(x, 20.0)
    return jnp.where(x > 20.0, x - math.log(2.0), jnp.log(0.5 + 0.5 * jnp.exp(small)))


class PhysNetOutput(NamedTuple):
    """Energy and charges of a batch."""

    energy: Array  # (B,) eV
    charges: Array  # (B, A) e, 0 for padding; they sum to the total charge
    charge_excess: Array  # (B,) e, of the sum of the charges over the total charge, before it was corrected


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


class Residual(nn.Module):
    """A residual block x + W₂σ(W₁σ(x) + b₁) + b₂ (eq 4); W₂ starts at zero, so that a new block changes nothing."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map features (N, features)."""
        features = x.shape[-1]
        y = nn.Dense(features, kernel_init=nn.initializers.orthogonal(), name="first")(activation(x))
        return x + nn.Dense(features, kernel_init=nn.initializers.zeros, name="second")(activation(y))


class Interaction(nn.Module):
    """One message pass, residual blocks on the messages, and the gated update of the features (eqs 5 and 6)."""

    residuals: int

    @nn.compact
    def __call__(self, x: Array, basis: Array, edges: Edges) -> Array:
        """Update features (N, features) along P edges with radial functions ``basis`` (P, K)."""
        features = x.shape[-1]
        activated = activation(x)
        own = activation(nn.Dense(features, name="own")(activated))
        others = activation(nn.Dense(features, name="others")(activated))
        filters = nn.Dense(features, use_bias=False, name="filter")(basis)
        messages = filters * others[edges.src_idx]
        v = own + jax.ops.segment_sum(messages, edges.dst_idx, x.shape[0], indices_are_sorted=True)
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
    """

    features: int
    iterations: int
    basis: int
    cutoff: float
    residual_interaction: int = 1
    residual_atomic: int = 1
    residual_output: int = 1

    @nn.compact
    def __call__(self, atomic_numbers: Array, positions: Array, edges: Edges, total_charge: Array) -> PhysNetOutput:
        """Return energies and charges.

        Args:
            atomic_numbers: (B, A), 0 = padding.
            positions: (B, A, 3) in Å.
            edges: edges within ``cutoff`` of this batch.
            total_charge: (B,) in e.
        """
        shape = atomic_numbers.shape
        flat_numbers = atomic_numbers.reshape(-1)
        atom_mask = atomic_numbers > 0
        elements = MAX_ATOMIC_NUMBER + 1
        basis = radial_basis(e3x.ops.norm(edges.displacements, axis=-1), self.basis, self.cutoff)
        x = nn.Embed(elements, self.features, embedding_init=nn.initializers.normal(1.0), name="embedding")(
            flat_numbers
        )
        outputs = jnp.zeros((x.shape[0], 2), x.dtype)
        for i in range(self.iterations):
            x = Interaction(self.residual_interaction, name=f"interaction_{i}")(x, basis, edges)
            for j in range(self.residual_atomic):
                x = Residual(name=f"atomic_{i}_{j}")(x)
            outputs = outputs + Output(self.residual_output, name=f"output_{i}")(x)
        scale = self.param("scale", nn.initializers.ones, (elements, 2))[flat_numbers]
        shift = self.param("shift", nn.initializers.zeros, (elements, 2))[flat_numbers]
        atomic = (scale * outputs + shift).reshape(*shape, 2)
        atomic = jnp.where(atom_mask[..., None], atomic, 0.0)
        charges, excess = conserve_charge(atomic[..., 1], atom_mask, total_charge)
        coulomb = damped_coulomb_energy(charges, positions, atom_mask, self.cutoff)
        return PhysNetOutput(atomic[..., 0].sum(axis=1) + coulomb, charges, excess)


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

"""PhysNet: energies and charges from element and distances (Unke & Meuwly, JCTC 2019, 15, 3678)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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


class Kernel(nn.Module):
    """The parameters of a linear map without a bias."""

    inputs: int
    outputs: int
    kernel_init: Any = nn.initializers.lecun_normal()

    def setup(self) -> None:
        """Make the parameters."""
        self.kernel = self.param("kernel", self.kernel_init, (self.inputs, self.outputs), jnp.float32)


class Layer(Kernel):
    """The parameters of a linear map with a bias."""

    def setup(self) -> None:
        """Make the parameters."""
        super().setup()
        self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)


def linear(layers: Sequence[Layer], x: Array) -> Array:
    """Apply layers, each to its own features (layers, N, inputs), in one product."""
    kernels, biases = jnp.stack([layer.kernel for layer in layers]), jnp.stack([layer.bias for layer in layers])
    return jnp.matmul(x, kernels) + biases[:, None]


def joined(layers: Sequence[Layer], x: Array) -> list[Array]:
    """Apply layers and the activation to the same features (N, inputs), in one product."""
    kernel, bias = jnp.concatenate([layer.kernel for layer in layers], axis=1), [layer.bias for layer in layers]
    parts = jax.lax.split(activation(x @ kernel + jnp.concatenate(bias)), [layer.outputs for layer in layers], axis=1)
    return list(parts)


class Residual(nn.Module):
    """A residual block x + W₂σ(W₁σ(x) + b₁) + b₂ (eq 4); W₂ starts at zero, so that a new block changes nothing."""

    features: int

    def setup(self) -> None:
        """Make the two layers."""
        self.first = Layer(self.features, self.features, nn.initializers.orthogonal())
        self.second = Layer(self.features, self.features, nn.initializers.zeros)

    def __call__(self, x: Array) -> Array:
        """Map features (N, features)."""
        return residuals([self], x[None])[0]


def residuals(blocks: Sequence[Residual], x: Array) -> Array:
    """Apply residual blocks, each to its own features (blocks, N, features)."""
    inner = linear([block.first for block in blocks], activation(x))
    return x + linear([block.second for block in blocks], activation(inner))


class Angular(nn.Module):
    """Invariants of the directions in which an atom's neighbours lie, which no single distance tells.

    The neighbours' density A_i^{lm} = Σ_j (G_l g(r_ij)) ∘ σ(W_l σ(x_j) + b_l) Y_lm(r_ij), and of each degree l the
    products b_i^l = Σ_m (U_l A_i^{lm}) ∘ (V_l A_i^{lm}): the terms of three bodies of the atomic cluster expansion
    (Drautz, Phys. Rev. B 2019, 99, 014104), with messages that the network learns (Batatia et al., MACE, NeurIPS 2022).
    """

    features: int
    degree: int
    channels: int
    basis: int

    def setup(self) -> None:
        """Make the layers."""
        width = self.degree * self.channels
        self.filter = Kernel(self.basis, width)
        self.others = Layer(self.features, width)
        degrees = range(1, self.degree + 1)
        self.mix = {str(degree): nn.Dense(2 * self.channels, use_bias=False) for degree in degrees}

    def __call__(self, others: Array, filters: Array, directions: Array, pairs: Pairs) -> Array:
        """Return invariants (N, degree · channels).

        Args:
            others: (N, degree · channels) σ(W_l σ(x) + b_l).
            filters: (P, degree · channels) of the pairs.
            directions: (P, (degree + 1)² - 1) spherical harmonics of the pairs' displacements, from degree 1.
            pairs: of the batch.
        """
        degrees = np.repeat(np.arange(1, self.degree + 1), 2 * np.arange(1, self.degree + 1) + 1)

        def by_component(values: Array) -> Array:
            # Each degree as often as it has components, by broadcasting: its transpose is a sum, that of an index a
            # scatter into zeros.
            of_degree = jnp.split(values.reshape(-1, self.degree, self.channels), self.degree, axis=1)
            repeated = [jnp.repeat(value, 2 * degree + 1, axis=1) for degree, value in enumerate(of_degree, start=1)]
            return jnp.concatenate(repeated, axis=1)

        # Seen from the other atom, the direction is the opposite one.
        opposite = directions * np.where(degrees % 2, -1.0, 1.0).astype(directions.dtype)
        to_first = by_component(filters * others[pairs.second_idx]) * directions[..., None]
        to_second = by_component(filters * others[pairs.first_idx]) * opposite[..., None]
        receivers = jnp.concatenate([pairs.first_idx, pairs.second_idx])
        density = jax.ops.segment_sum(jnp.concatenate([to_first, to_second]), receivers, others.shape[0])
        invariants = []
        for degree in range(1, self.degree + 1):
            own = density[:, degree**2 - 1 : (degree + 1) ** 2 - 1]
            left, right = jnp.split(self.mix[str(degree)](own), 2, axis=-1)
            invariants.append((left * right).sum(axis=1))
        return jnp.concatenate(invariants, axis=-1)


class Interaction(nn.Module):
    """One message pass, residual blocks on the messages, and the gated update of the features (eqs 5 and 6).

    With a ``degree``, the invariants of :class:`Angular` join the messages by a linear map.
    """

    features: int
    residuals: int
    basis: int
    degree: int = 0
    channels: int = 0

    def setup(self) -> None:
        """Make the layers."""
        self.filter = Kernel(self.basis, self.features)
        self.own, self.others = Layer(self.features, self.features), Layer(self.features, self.features)
        if self.degree:
            self.angular = Angular(self.features, self.degree, self.channels, self.basis)
            self.angular_update = nn.Dense(self.features)
        self.residual = [Residual(self.features) for _ in range(self.residuals)]
        self.update = nn.Dense(self.features)
        self.gate = self.param("gate", nn.initializers.ones, (self.features,))

    def filter_kernels(self) -> list[Array]:
        """Return the parameters of its filters: of the messages, and of the angular terms."""
        angular = [self.angular.filter.kernel] if self.degree else []
        return [self.filter.kernel, *angular]

    def __call__(self, x: Array, filters: Sequence[Array], pairs: Pairs, directions: Array | None) -> Array:
        """Update features (N, features) with messages both ways between P pairs.

        Args:
            x: (N, features).
            filters: (P, ...) of the pairs, for each of :meth:`filter_kernels`.
            pairs: of the batch.
            directions: as in :class:`Angular`; None without a degree.
        """
        angular = [self.angular.others] if directions is not None else []
        own, others, *of_directions = joined([self.own, self.others, *angular], activation(x))
        messages = jnp.concatenate([filters[0] * others[pairs.second_idx], filters[0] * others[pairs.first_idx]])
        receivers = jnp.concatenate([pairs.first_idx, pairs.second_idx])
        v = own + jax.ops.segment_sum(messages, receivers, x.shape[0])
        if directions is not None:
            v = v + self.angular_update(self.angular(of_directions[0], filters[1], directions, pairs))
        for block in self.residual:
            v = block(v)
        return self.gate[None, :] * x + self.update(activation(v))


class Output(nn.Module):
    """The parameters of residual blocks and a linear map to (E_i, q_i)."""

    features: int
    residuals: int

    def setup(self) -> None:
        """Make the layers."""
        self.residual = [Residual(self.features) for _ in range(self.residuals)]
        # Small, so that a new network predicts energies and forces of the data's order; not zero, because charges
        # of zero have no dipole, no potential and no gradient to grow from.
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.linear = Kernel(self.features, 2, small)


def outputs_of(blocks: Sequence[Output], x: Array) -> Array:
    """Return the sum of the modules' contributions (N, 2) to energy and charge.

    They do not depend on each other, so that one product does for each layer of all.

    Args:
        blocks: of the modules.
        x: (modules, N, features).
    """
    for level in zip(*(block.residual for block in blocks), strict=True):
        x = residuals(level, x)
    return jnp.einsum("mnf,mfo->no", activation(x), jnp.stack([block.linear.kernel for block in blocks]))


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
            Interaction, self.features, self.residual_interaction, self.basis, self.degree, self.channels
        )
        modules = [interaction(name=f"interaction_{i}") for i in range(self.iterations)]
        filters = self._filters(modules, distances)
        found = []
        for i, (module, own) in enumerate(zip(modules, filters, strict=True)):
            x = module(x, own, pairs, directions)
            for j in range(self.residual_atomic):
                x = Residual(self.features, name=f"atomic_{i}_{j}")(x)
            found.append(x)
        blocks = [Output(self.features, self.residual_output, name=f"output_{i}") for i in range(self.iterations)]
        outputs = outputs_of(blocks, jnp.stack(found))
        scale = self.param("scale", nn.initializers.ones, (elements, 2))[flat_numbers]
        shift = self.param("shift", nn.initializers.zeros, (elements, 2))[flat_numbers]
        atomic = (scale * outputs + shift).reshape(*shape, 2)
        atomic = jnp.where(atom_mask[..., None], atomic, 0.0)
        charges, excess = conserve_charge(atomic[..., 1], atom_mask, total_charge)
        energy = atomic[..., 0].sum(axis=1) + damped_coulomb_energy(charges, positions, atom_mask, self.cutoff)
        if self.zbl:
            energy = energy + nuclear_repulsion(atomic_numbers, pairs, distances, self.cutoff)
        return PhysNetOutput(energy, charges, excess, activation(x).reshape(*shape, -1))

    def _filters(self, modules: Sequence[Interaction], distances: Array) -> list[list[Array]]:
        """Return the filters of each module: those of all modules, of the same distances, in one product."""
        kernels = [module.filter_kernels() for module in modules]
        widths = [kernel.shape[1] for own in kernels for kernel in own]
        of_all = radial_filters(distances, jnp.concatenate([k for own in kernels for k in own], axis=1), self.cutoff)
        parts = iter(jax.lax.split(of_all, widths, axis=1))
        return [[next(parts) for _ in own] for own in kernels]


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

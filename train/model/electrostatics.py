"""Coulomb's law for point charges: damped pair energies, potentials on grids, dipoles, quadrupoles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from shared.elements import MASSES
from shared.units import BOHR_IN_ANGSTROM, COULOMB_CONSTANT_EV_ANGSTROM
from train.model.graph import pair_distances

Array = jax.Array

_LARGEST_INVERSE = 1e3
"""Largest inverse distance of a charge from a grid point, 1/Å."""


def polynomial_cutoff(distances: Array, cutoff: float) -> Array:
    """Return φ(r) = 1 - 6x⁵ + 15x⁴ - 10x³ with x = r/r_c, and 0 from r_c on (Unke & Meuwly 2019, eq 8).

    Value, first and second derivative vanish at the cutoff.
    """
    x = jnp.minimum(distances / cutoff, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def damped_inverse_distance(distances: Array, cutoff: float) -> Array:
    """Return χ(r) = φ(2r)/√(r² + 1) + (1 - φ(2r))/r in 1/Å (Unke & Meuwly 2019, eq 13); 1/r beyond r_c/2."""
    switch = polynomial_cutoff(2.0 * distances, cutoff)
    return switch / jnp.sqrt(distances**2 + 1.0) + (1.0 - switch) / distances


def damped_coulomb_energy(charges: Array, positions: Array, atom_mask: Array, cutoff: float) -> Array:
    """Return k_e Σ_{i<j} q_i q_j χ(r_ij) over all pairs of each molecule (Unke & Meuwly 2019, eq 12).

    Args:
        charges: (B, A) in e, 0 for padding.
        positions: (B, A, 3) in Å.
        atom_mask: (B, A) bool.
        cutoff: Å.

    Returns:
        (B,) in eV.
    """
    distances, pairs = pair_distances(positions, atom_mask)
    kernel = jnp.where(pairs, damped_inverse_distance(distances, cutoff), 0.0)
    return 0.5 * COULOMB_CONSTANT_EV_ANGSTROM * jnp.einsum("bi,bij,bj->b", charges, kernel, charges)


def distributed_coulomb_energy(charges: Array, sites: Array, atom_mask: Array) -> Array:
    """Return the Coulomb energy between the distributed charges of different atoms.

    Args:
        charges: (B, A, n_dcm) in e.
        sites: (B, A, n_dcm, 3) positions of the charges, Å.
        atom_mask: (B, A) bool.

    Returns:
        (B,) in eV.
    """
    batch_size, atoms, n_dcm = charges.shape
    owner = jnp.repeat(jnp.arange(atoms), n_dcm)
    real = jnp.repeat(atom_mask, n_dcm, axis=1)
    flat = sites.reshape(batch_size, -1, 3)
    difference = flat[:, :, None, :] - flat[:, None, :, :]
    pairs = real[:, :, None] & real[:, None, :] & (owner[:, None] != owner[None, :])[None]
    squared = jnp.where(pairs, (difference**2).sum(-1), 1.0)
    kernel = jnp.where(pairs, jax.lax.rsqrt(squared), 0.0)
    flat_charges = charges.reshape(batch_size, -1)
    return 0.5 * COULOMB_CONSTANT_EV_ANGSTROM * jnp.einsum("bi,bij,bj->b", flat_charges, kernel, flat_charges)


@jax.custom_vjp
def electrostatic_potential(charges: Array, sites: Array, grid: Array) -> Array:
    """Return the ESP at the grid points: V(r) = Σ_k m_k / |r - r_k| in Hartree/e, distances in Bohr.

    Its derivative is written by hand: automatic differentiation would keep several arrays over (charge × grid point),
    and sum over them without using the vector registers. Here both directions are a few matrix products.

    Args:
        charges: (B, K) in e; 0 for padding.
        sites: (B, K, 3) in Å.
        grid: (B, G, 3) in Å.

    Returns:
        (B, G) in Hartree/e.
    """
    return BOHR_IN_ANGSTROM * jnp.einsum("bk,bkg->bg", charges, _inverse_distances(sites, grid))


def _potential_forward(charges: Array, sites: Array, grid: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return electrostatic_potential(charges, sites, grid), (charges, sites, grid)


def _potential_backward(kept: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, Array, Array]:
    """Return the cotangents, with w = 1/|r - r_k|³: ∂V/∂r_k = m_k w (r - r_k), ∂V/∂r = -Σ_k of the same."""
    charges, sites, grid = kept
    # Relative to the molecule, for Σ c w r - r_k Σ c w to lose no digits where it is far from the origin.
    origin = sites[:, :1]
    sites, grid = sites - origin, grid - origin
    inverse = _inverse_distances(sites, grid)
    # Nearer than the bound the potential is constant.
    cubed = jnp.where(inverse < _LARGEST_INVERSE, inverse**3, 0.0)
    # Materialised once: fused into both products, it would be computed again for each of their terms.
    inverse, cubed = jax.lax.optimization_barrier((inverse, cubed))
    moments = jnp.stack([cotangent, *(cotangent * grid[..., i] for i in range(3))], axis=1)
    weighted = jnp.einsum("bkg,bcg->bkc", cubed, moments)
    to_charges = jnp.einsum("bkg,bg->bk", inverse, cotangent)
    to_sites = charges[..., None] * (weighted[..., 1:] - sites * weighted[..., :1])
    sources = jnp.concatenate([charges[..., None], charges[..., None] * sites], axis=-1)
    field = jnp.einsum("bkg,bkc->bgc", cubed, sources)
    to_grid = cotangent[..., None] * (field[..., 1:] - grid * field[..., :1])
    return BOHR_IN_ANGSTROM * to_charges, BOHR_IN_ANGSTROM * to_sites, BOHR_IN_ANGSTROM * to_grid


electrostatic_potential.defvjp(_potential_forward, _potential_backward)


def _inverse_distances(sites: Array, grid: Array) -> Array:
    """Return 1/|r - r_k| (B, K, G) in 1/Å, bounded: a charge exactly on a grid point gives a large finite number."""
    # Component by component: an array with a trailing axis of 3 wastes most of a vector register.
    squared = sum((grid[:, None, :, i] - sites[:, :, None, i]) ** 2 for i in range(3))
    return jnp.minimum(jax.lax.rsqrt(squared), _LARGEST_INVERSE)


def centers_of_mass(positions: Array, atomic_numbers: Array) -> Array:
    """Return the centre of mass (B, 3) of each molecule in Å; 0 for a molecule without atoms."""
    mass = jnp.asarray(MASSES, positions.dtype)[atomic_numbers]
    total = mass.sum(axis=1)
    return (mass[..., None] * positions).sum(axis=1) / jnp.where(total > 0, total, 1.0)[:, None]


def dipole(charges: Array, sites: Array, origin: Array) -> Array:
    """Return the dipole Σ_k q_k (r_k - origin) in e·Å.

    Args:
        charges: (B, K) in e.
        sites: (B, K, 3) in Å.
        origin: (B, 3) in Å; it matters only for ions, and is the centre of mass everywhere in this project.
    """
    return jnp.einsum("bk,bkx->bx", charges, sites - origin[:, None, :])


def quadrupole(charges: Array, sites: Array, origin: Array) -> Array:
    """Return the traceless quadrupole ½ Σ_k q_k (3 x xᵀ - |x|² 1), x = r_k - origin, in e·Å².

    Convention of A. D. Buckingham, Quarterly Reviews 1959, 13, 183.

    Args:
        charges: (B, K) in e.
        sites: (B, K, 3) in Å.
        origin: (B, 3) in Å; it matters to all molecules with a charge or a dipole, and is the centre of mass everywhere
            in this project.

    Returns:
        (B, 3, 3), symmetric.
    """
    arms = sites - origin[:, None, :]
    moments = 1.5 * jnp.einsum("bk,bkx,bky->bxy", charges, arms, arms)
    trace = jnp.trace(moments, axis1=1, axis2=2)[:, None, None]
    return moments - trace / 3.0 * jnp.eye(3, dtype=moments.dtype)[None]

"""Pairs of a batch on the device: flat indices and displacement vectors, padding out of reach."""

from __future__ import annotations

from typing import NamedTuple

import e3x
import jax
import jax.numpy as jnp

Array = jax.Array


class Pairs(NamedTuple):
    """P = B·(E/2) pairs of a batch's N = B·A atoms. Each pair is an edge in both directions.

    Both directions share the distance, and so the radial functions and the filters made of them, which are most of
    what an edge costs: these are computed once for a pair.
    """

    first: Array  # (P,) int32
    second: Array  # (P,) int32
    displacements: Array  # (P, 3) Å, r_second - r_first; a constant beyond the cutoff for padding

    @property
    def dst_idx(self) -> Array:
        """(2, P) receiving atoms of both directions; at [0] the sender is the second atom, as in the displacement."""
        return jnp.stack([self.first, self.second])

    @property
    def src_idx(self) -> Array:
        """(2, P) sending atoms."""
        return jnp.stack([self.second, self.first])


def batch_pairs(positions: Array, dst: Array, src: Array, n_edges: Array, cutoff: float) -> Pairs:
    """Pairs of a batch from its molecules' local edge lists, which hold every pair in both directions.

    Padding gets a constant displacement beyond the cutoff before any norm is taken: its messages vanish with the
    cutoff function, and no gradient of a norm at zero is hidden behind a mask.

    Args:
        positions: (B, A, 3) in Å.
        dst: (B, E) local index of the receiving atom; whatever stands in the padding is ignored.
        src: (B, E) local index of the sending atom.
        n_edges: (B,) real edges.
        cutoff: Å.
    """
    batch_size, atoms, _ = positions.shape
    if dst.shape[1] < 2:
        # No molecule of the bucket has an edge: one place of padding, because e3x cannot reduce over no edges.
        dst = src = jnp.zeros((batch_size, 2), jnp.int32)
    # The direction from the larger index to the smaller one stands for the pair; these edges first, in their order.
    stands = (dst < src) & (jnp.arange(dst.shape[1])[None, :] < n_edges[:, None])
    order = jnp.argsort(~stands, axis=1, stable=True)[:, : dst.shape[1] // 2]
    real = jnp.arange(order.shape[1])[None, :] < n_edges[:, None] // 2
    first_atom = jnp.arange(batch_size, dtype=jnp.int32)[:, None] * atoms

    def place(index: Array) -> Array:
        """Local index of each pair's atom to the batch's; padding points to the molecule's last place."""
        local = jnp.where(real, jnp.take_along_axis(index, order, axis=1), atoms - 1)
        return (local + first_atom).reshape(-1)

    first, second = place(dst), place(src)
    flat = positions.reshape(-1, 3)
    beyond = jnp.asarray([2.0 * cutoff, 0.0, 0.0], positions.dtype)
    displacements = jnp.where(real.reshape(-1, 1), flat[second] - flat[first], beyond[None, :])
    return Pairs(first, second, displacements)


def pair_distances(positions: Array, atom_mask: Array) -> tuple[Array, Array]:
    """All pairs of distinct real atoms of each molecule.

    Args:
        positions: (B, A, 3) in Å.
        atom_mask: (B, A) bool.

    Returns:
        Distances (B, A, A) in Å, 1 where there is no pair, and the mask (B, A, A) of the pairs, each in both orders.
    """
    atoms = positions.shape[1]
    mask = atom_mask[:, :, None] & atom_mask[:, None, :] & ~jnp.eye(atoms, dtype=bool)[None]
    difference = positions[:, :, None, :] - positions[:, None, :, :]
    safe = jnp.asarray([1.0, 0.0, 0.0], positions.dtype)
    return e3x.ops.norm(jnp.where(mask[..., None], difference, safe[None, None, None]), axis=-1), mask

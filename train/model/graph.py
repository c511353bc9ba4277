"""Edges and pairs of a batch on the device: flat indices and displacement vectors, with padding beyond the cutoff."""

from __future__ import annotations

from typing import NamedTuple

import e3x
import jax
import jax.numpy as jnp

Array = jax.Array


class Edges(NamedTuple):
    """P = B·E directed edges of a batch over its N = B·A atoms, sorted by dst; padding is beyond the cutoff."""

    dst_idx: Array  # (P,) int32
    src_idx: Array  # (P,) int32
    displacements: Array  # (P, 3) Å, r_src - r_dst; a constant beyond the cutoff for padding


class Pairs(NamedTuple):
    """P pairs of atoms of a batch, each once: an edge and the opposite one, at one distance."""

    first_idx: Array  # (P,) int32
    second_idx: Array  # (P,) int32
    displacements: Array  # (P, 3) Å, r_second - r_first; a constant beyond the cutoff for padding


def batch_edges(positions: Array, dst: Array, src: Array, n_edges: Array, cutoff: float) -> Edges:
    """Return the edges of a batch from its molecules' local edge lists.

    Padding gets a constant displacement beyond the cutoff before any norm is taken: its messages vanish with the
    cutoff function, and no gradient of a norm at zero is hidden behind a mask.

    Args:
        positions: (B, A, 3) in Å.
        dst: (B, E) local index of the receiving atom; the padding is ignored.
        src: (B, E) local index of the sending atom.
        n_edges: (B,) real edges.
        cutoff: Å.
    """
    dst, src = _at_least_one(dst), _at_least_one(src)
    real = jnp.arange(dst.shape[1])[None, :] < n_edges[:, None]
    return Edges(*_connect(positions, dst, src, real, cutoff))


def batch_pairs(positions: Array, dst: Array, src: Array, n_edges: Array, cutoff: float) -> Pairs:
    """Return the pairs of atoms of a batch from its molecules' local edge lists, which hold both directions of each.

    Arguments are those of :func:`batch_edges`. A molecule's ⌈E/2⌉ places hold its pairs in the order of its list, then
    the padding.
    """
    dst, src = _at_least_one(dst), _at_least_one(src)
    number = dst.shape[1]
    place = jnp.arange(number)[None, :]
    once = (place < n_edges[:, None]) & (dst < src)
    place = jnp.sort(jnp.where(once, place, number), axis=1)[:, : (number + 1) // 2]
    real = place < number
    place = jnp.minimum(place, number - 1)
    first, second = (jnp.take_along_axis(idx, place, axis=1) for idx in (dst, src))
    return Pairs(*_connect(positions, first, second, real, cutoff))


def _at_least_one(idx: Array) -> Array:
    """Return a place of padding where no molecule of the bucket has an edge: e3x cannot reduce over none."""
    return idx if idx.shape[1] else jnp.zeros((idx.shape[0], 1), jnp.int32)


def _connect(positions: Array, dst: Array, src: Array, real: Array, cutoff: float) -> tuple[Array, Array, Array]:
    """Return flat indices of both ends, and displacements from dst to src."""
    batch_size, atoms, _ = positions.shape
    first_atom = jnp.arange(batch_size, dtype=jnp.int32)[:, None] * atoms
    # Padding points to the molecule's last place, so that dst stays sorted over the whole batch.
    dst_idx = (jnp.where(real, dst, atoms - 1) + first_atom).reshape(-1)
    src_idx = (jnp.where(real, src, atoms - 1) + first_atom).reshape(-1)
    flat = positions.reshape(-1, 3)
    beyond = jnp.asarray([2.0 * cutoff, 0.0, 0.0], positions.dtype)
    displacements = jnp.where(real.reshape(-1, 1), flat[src_idx] - flat[dst_idx], beyond[None, :])
    return dst_idx, src_idx, displacements


def pair_distances(positions: Array, atom_mask: Array) -> tuple[Array, Array]:
    """Return all pairs of distinct real atoms of each molecule.

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

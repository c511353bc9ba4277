"""Initial displacements of a new network's distributed charges, scaled to the length of trained ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import ModelConfig
from train.data.batch import Batch
from train.data.loader import Loader
from train.model.dcmnet import DCMNet
from train.model.graph import batch_edges
from train.model.joint import build_model, clean
from train.model.prediction import Params
from train.step.compiled_steps import UNOPTIMIZED
from train.step.devices import largest

_TARGET_ANGSTROM = 0.2
"""Root mean square over atoms of the farthest charge's displacement, Å."""

_MOST_MOLECULES = 64
_SMALLEST_ANGSTROM = 1e-4
"""Smallest displacement that counts, Å: atoms without neighbours, or between cancelling ones, have no direction."""

_LARGEST_FACTOR = 100.0


def scale_displacements(params: Params, config: ModelConfig, charges: np.ndarray, loader: Loader) -> Params:
    """Return the parameters with the weights that displacements are linear in multiplied by one number.

    As drawn, the displacements of one element in one molecule have any length from 0.02 to 0.4 Å. Charges that begin
    almost at their atom's place do not stay along one line for long, and end on one side of it.

    Args:
        params: of a new network.
        config: of the model.
        charges: (MAX_ATOMIC_NUMBER + 1,) in e, the monopoles to take for PhysNet's.
        loader: of the training split, whose most numerous bucket with any edges is the sample.
    """
    lengths = _lengths(params, config, charges, loader)
    if not len(lengths):
        return params
    factor = min(_TARGET_ANGSTROM / float(np.sqrt((lengths**2).mean())), _LARGEST_FACTOR)
    # One number for all processes, which may round differently.
    factor = largest(max(round(100.0 * factor), 1)) / 100.0
    head = params["dcmnet"]["params"]["head"]
    name, kernel = next(iter(head["tensor"].items()))
    kernel = np.array(kernel)
    kernel[..., 1, :] *= factor
    network = {**params["dcmnet"]["params"], "head": {**head, "tensor": {name: kernel}}}
    return {**params, "dcmnet": {**params["dcmnet"], "params": network}}


def _lengths(params: Params, config: ModelConfig, charges: np.ndarray, loader: Loader) -> np.ndarray:
    """Return the farthest charge's displacement in Å, of each atom in a sample that has any."""
    sizes = [len(bucket) if bucket.shape.edge.dcmnet_edges else 0 for bucket in loader.buckets]
    index = int(np.argmax(sizes))
    if not sizes[index]:
        return np.zeros(0)
    # Before they are bound: a bound length does not grow with the weights.
    dcmnet = build_model(config).dcmnet.clone(longest_arm=0.0)
    rows = np.unique(np.linspace(0, sizes[index] - 1, min(_MOST_MOLECULES, sizes[index])).astype(int))
    # As many at once as a step takes, for which the memory suffices.
    parts = np.split(rows, range(loader.batch_size, len(rows), loader.batch_size))
    batches = (loader.read_rows(index, part, loader.batch_size) for part in parts)
    lengths = np.concatenate([np.ravel(_farthest(params["dcmnet"], batch, charges, dcmnet)) for batch in batches])
    return lengths[lengths > _SMALLEST_ANGSTROM]


@functools.partial(jax.jit, static_argnames="dcmnet", compiler_options=UNOPTIMIZED)
def _farthest(params: Params, batch: Batch, charges: jax.Array, dcmnet: DCMNet) -> jax.Array:
    """Return the distance (B, A) of each atom's farthest charge in Å; compiled once for all members."""
    batch = clean(batch)
    edges = batch_edges(batch.positions, batch.dcmnet_dst, batch.dcmnet_src, batch.dcmnet_n_edges, dcmnet.cutoff)
    made: Any = dcmnet.apply(params, batch.atomic_numbers, charges[batch.atomic_numbers], edges)
    return jnp.sqrt((made.displacements**2).sum(axis=-1).max(axis=-1))

"""How far from their atoms a new network's distributed charges begin: as far as they will end, whatever was drawn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import ModelConfig
from train.graph import batch_edges
from train.joint import build_model, clean
from train.loader import Loader
from train.prediction import Params

_TARGET_ANGSTROM = 0.2
"""Root mean square over atoms of the farthest charge's displacement."""

_MOST_MOLECULES = 64
_LARGEST_FACTOR = 100.0


def scale_displacements(params: Params, config: ModelConfig, charges: np.ndarray, loader: Loader) -> Params:
    """The same parameters, with the weights that displacements are linear in multiplied by one number.

    Drawn as they are, the displacements of one element in one molecule are of any length from 0.02 to 0.4 Å. Charges
    that begin almost at their atom's place do not lie along one line for long, and end on one side of it.

    Args:
        params: of a new network.
        config: of the model.
        charges: (MAX_ATOMIC_NUMBER + 1,) in e, the monopoles to take for PhysNet's.
        loader: of the training split, whose most numerous bucket is looked at.
    """
    index = int(np.argmax([len(bucket) for bucket in loader.buckets]))
    bucket = loader.buckets[index]
    rows = np.unique(np.linspace(0, len(bucket) - 1, min(_MOST_MOLECULES, len(bucket))).astype(int))
    batch = clean(jax.tree.map(jnp.asarray, loader.gather(index, rows, len(rows))))
    dcmnet = build_model(config).dcmnet

    @jax.jit
    def farthest(params: Params) -> jax.Array:
        edges = batch_edges(batch.positions, batch.dcmnet_dst, batch.dcmnet_src, batch.dcmnet_n_edges, dcmnet.cutoff)
        made: Any = dcmnet.apply(params, batch.atomic_numbers, jnp.asarray(charges)[batch.atomic_numbers], edges)
        return (made.displacements**2).sum(axis=-1).max(axis=-1)

    squares = np.asarray(farthest(params["dcmnet"]))[np.asarray(batch.atomic_numbers) > 0]
    length = float(np.sqrt(squares.mean()))
    if length < _TARGET_ANGSTROM / _LARGEST_FACTOR:  # single atoms, or too symmetrical to tell
        return params
    # Rounded, so that processes on different machines arrive at the same number.
    factor = float(f"{_TARGET_ANGSTROM / length:.2g}")
    head = params["dcmnet"]["params"]["head"]
    name, kernel = next(iter(head["tensor"].items()))
    kernel = np.array(kernel)
    kernel[..., 1, :] *= factor
    network = {**params["dcmnet"]["params"], "head": {**head, "tensor": {name: kernel}}}
    return {**params, "dcmnet": {**params["dcmnet"], "params": network}}

"""Initial displacements of a new network's distributed charges, scaled to the length of trained ones."""

from __future__ import annotations

import numpy as np

from train.data.loader import Loader
from train.model.prediction import Params
from train.step.compiled_steps import Steps
from train.step.devices import largest

_TARGET_ANGSTROM = 0.2
"""Root mean square over atoms of the farthest charge's displacement, Å."""

_MOST_MOLECULES = 64
_SMALLEST_ANGSTROM = 1e-4
"""Smallest displacement that counts, Å: atoms without neighbours, or between cancelling ones, have no direction."""

_LARGEST_FACTOR = 100.0


def scale_displacements(params: Params, steps: Steps, charges: np.ndarray, loader: Loader) -> Params:
    """Return the parameters with the weights that displacements are linear in multiplied by one number.

    As drawn, the displacements of one element in one molecule have any length from 0.02 to 0.4 Å. Charges that begin
    almost at their atom's place do not stay along one line for long, and end on one side of it.

    Args:
        params: of a new network.
        steps: of the model.
        charges: (MAX_ATOMIC_NUMBER + 1,) in e, the monopoles to take for PhysNet's.
        loader: of the training split, whose most numerous bucket with any edges is the sample.
    """
    lengths = _lengths(params, steps, charges, loader)
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


def _lengths(params: Params, steps: Steps, charges: np.ndarray, loader: Loader) -> np.ndarray:
    """Return the farthest charge's displacement in Å, of each atom in a sample that has any."""
    sizes = [len(bucket) if bucket.shape.edge.dcmnet_edges else 0 for bucket in loader.buckets]
    index = int(np.argmax(sizes))
    if not sizes[index]:
        return np.zeros(0)
    rows = np.unique(np.linspace(0, sizes[index] - 1, min(_MOST_MOLECULES, sizes[index])).astype(int))
    # As many at once as a step takes, for which the memory suffices.
    parts = np.split(rows, range(loader.batch_size, len(rows), loader.batch_size))
    batches = (loader.read_rows(index, part, loader.batch_size) for part in parts)
    vector = steps.parameters.from_host(params)
    lengths = np.concatenate([np.ravel(steps.farthest_charges(vector, batch, charges)) for batch in batches])
    return lengths[lengths > _SMALLEST_ANGSTROM]

"""All parameters as one vector: the optimizer, the sum over devices and the checkpoint each take one pass over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shared.batch import empty_batch
from shared.buckets import BucketShape, EdgeShape, FrameShape
from train.joint import JointModel, Params

Array = jax.Array

_SMALLEST = BucketShape(FrameShape(2, 1), EdgeShape(2, 2))


@dataclass(frozen=True)
class ParameterVector:
    """The order and shapes of a model's parameters within the vector."""

    structure: Any  # of the tree
    shapes: tuple[tuple[int, ...], ...]  # of its leaves, in order

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    def join(self, params: Params) -> Array:
        """(size,) vector of a tree of arrays."""
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])

    def split(self, vector: Array) -> Params:
        """The tree, of slices of the vector."""
        parts = jax.lax.split(vector, [math.prod(shape) for shape in self.shapes])
        leaves = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def to_host(self, vector: Array) -> Params:
        """The tree, as arrays of numpy."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(np.asarray(jax.device_get(vector)), ends)
        leaves = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def from_host(self, params: Params) -> np.ndarray:
        """The vector, as an array of numpy."""
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def parameter_vector(model: JointModel) -> ParameterVector:
    """Where each parameter of the model stands; nothing is computed."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: initial_parameters(model, jax.random.key(0))))
    return ParameterVector(structure, tuple(leaf.shape for leaf in leaves))


def initial_parameters(model: JointModel, key: Array) -> Params:
    """New parameters. They do not depend on the data, so the smallest batch does."""
    return model.init(key, empty_batch(_SMALLEST, 1))

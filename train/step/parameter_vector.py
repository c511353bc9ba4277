"""All parameters as one vector, for one pass by the optimizer, the sum over devices and the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from train.model.prediction import Params

Array = jax.Array


@dataclass(frozen=True)
class ParameterVector:
    """The order and shapes of a model's parameters within the vector.

    Attributes:
        shapes: of the leaves of the tree, in JAX's order, with their names (``physnet/params/embedding/embedding``).
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, shapes: Iterable[Any]) -> ParameterVector:
        """Build the layout from pairs of names and shapes."""
        return cls(tuple((str(name), tuple(shape)) for name, shape in shapes))

    @classmethod
    def of_tree(cls, params: Params) -> ParameterVector:
        """Build the layout from a tree of arrays, or of their shapes."""
        names = unflatten_dict({path: "/".join(path) for path in flatten_dict(params)})
        leaves = zip(jax.tree.leaves(names), jax.tree.leaves(params), strict=True)
        return cls.of((name, leaf.shape) for name, leaf in leaves)

    @cached_property
    def _structure(self) -> Any:
        return jax.tree.structure(unflatten_dict({tuple(name.split("/")): 0 for name, _ in self.shapes}))

    @cached_property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for _, shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return sum(self._sizes)

    @property
    def networks(self) -> dict[str, slice]:
        """Slice of each network's parameters, by the first part of their names."""
        found: dict[str, slice] = {}
        for (name, _), size, end in zip(self.shapes, self._sizes, np.cumsum(self._sizes).tolist(), strict=True):
            network = name.split("/")[0]
            found[network] = slice(found[network].start if network in found else end - size, end)
        return found

    def matrices(self, but: str = "none") -> Array:
        """Return 1 for the elements of dense layers' matrices, else 0 (P,).

        Args:
            but: name of a network, all of whose parameters are 0.
        """
        chosen = (name.endswith("/kernel") and not name.startswith(f"{but}/") for name, _ in self.shapes)
        runs = groupby(zip(chosen, self._sizes, strict=True), key=lambda pair: pair[0])
        return jnp.concatenate([jnp.full(sum(size for _, size in run), float(one)) for one, run in runs])

    def join(self, params: Params) -> Array:
        """Return the vector (P,) of a tree of arrays."""
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])

    def split(self, vector: Array) -> Params:
        """Return the tree of slices of the vector."""
        return self._tree(jax.lax.split(vector, self._sizes))

    def to_host(self, vector: Array) -> Params:
        """Return the tree as NumPy arrays."""
        return self._tree(np.split(np.asarray(jax.device_get(vector)), np.cumsum(self._sizes)[:-1]))

    def from_host(self, params: Params) -> np.ndarray:
        """Return the vector as a NumPy array."""
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])

    def _tree(self, parts: Iterable[Any]) -> Params:
        leaves = [part.reshape(shape) for part, (_, shape) in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

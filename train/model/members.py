"""The members of an ensemble in arrays: a first axis, which the arrays of a single model do not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


def over_members(function: Callable[..., Any], members: int, platform: str) -> Callable[..., Any]:
    """Return the function of one member as one of all: first axes of its first argument and of what it returns.

    Args:
        function: of a tree of a member's arrays, and of others that all members share; of a single model as it is.
        members: how many.
        platform: of the devices. An accelerator takes all members at once. A processor takes one after another, since
            it is slow at many small matrix products at once, and its cache holds the arrays of one.
    """
    if members == 1:
        return function
    if platform == "cpu":
        return lambda own, *shared: jax.lax.map(lambda one: function(one, *shared), own)
    return lambda own, *shared: jax.vmap(lambda one: function(one, *shared))(own)


def members_shape(members: int) -> tuple[int, ...]:
    """Return the shape of one number of each member: that of a scalar for a single model."""
    return (members,) if members > 1 else ()


def stack_members(trees: Sequence[Tree]) -> Tree:
    """Return the arrays of the host of several members as one tree; those of a single model as they are."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if len(trees) > 1 else trees[0]


def split_members(tree: Tree, members: int) -> list[Tree]:
    """Return each member's arrays on the host, waiting for the device."""
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    if members == 1:
        return [jax.tree.unflatten(structure, leaves)]
    return [jax.tree.unflatten(structure, own) for own in zip(*leaves, strict=True)]

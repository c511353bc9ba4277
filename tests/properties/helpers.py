"""Models with random float64 weights: layers that start at zero would hide what they break."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shared.elements import COVALENT_RADII
from tests import support
from train.data.batch import Batch
from train.model.joint import JointModel, build_model
from train.model.prediction import Params, Prediction


def build(batch: Batch, scale: float = 0.1, **changes: Any) -> tuple[JointModel, Params, Callable[..., Prediction]]:
    """A small model, its weights, and the jitted prediction ``predict(params, batch)``; each is compiled once."""
    model, initial, predict = _compiled(tuple(sorted(changes.items())))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x, np.float64) + scale * rng.normal(size=np.shape(x))), initial
    )
    return model, params, predict


@functools.cache
def _compiled(changes: tuple[tuple[str, Any], ...]) -> tuple[JointModel, Params, Callable[..., Prediction]]:
    config = support.small_config(**dict(changes))
    model = build_model(config)
    return model, support.initial_weights(config), jax.jit(model.apply)


def repelled_pairs(batch: Batch) -> int:
    """Pairs of atoms so near that the repulsion of their nuclei acts."""
    distances = np.linalg.norm(batch.positions[:, :, None] - batch.positions[:, None], axis=-1)
    radii = COVALENT_RADII[batch.atomic_numbers]
    real = (batch.atomic_numbers[:, :, None] > 0) & (batch.atomic_numbers[:, None] > 0)
    return int((real & (distances < radii[:, :, None] + radii[:, None]) & (distances > 0)).sum()) // 2

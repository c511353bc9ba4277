"""Models with random float64 weights: layers that start at zero would hide what they break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import support
from train.data.batch import Batch
from train.model.joint import JointModel, build_model, clean
from train.model.prediction import Params, Prediction


def random_params(model: JointModel, batch: Batch, seed: int = 0, scale: float = 0.1) -> Params:
    """Initial weights in float64, plus noise of this scale."""
    params = jax.jit(model.init)(jax.random.key(seed), batch)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64) + scale * rng.normal(size=np.shape(x))), params)


def build(batch: Batch, scale: float = 0.1, **changes: Any) -> tuple[JointModel, Params, Callable[..., Prediction]]:
    """A small model, its weights, and the jitted prediction ``predict(params, batch)`` with the padding cleaned."""
    model = build_model(support.small_config(**changes))
    predict = jax.jit(lambda params, batch: model.apply(params, clean(batch)))
    return model, random_params(model, batch, scale=scale), predict

"""The training state, the optimizer and its schedule."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from shared.batch import Batch
from train.config import TrainConfig
from train.joint import JointModel, Params

Array = jax.Array

_FINAL_FRACTION = 0.01


class TrainState(NamedTuple):
    """All that a step reads and replaces; all that a checkpoint holds."""

    step: Array  # () int32, steps taken
    params: Params
    opt_state: Any
    ema_params: Params  # running average of the weights, for evaluation


def learning_rate_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Linear warm-up from 1 % of the peak, then a cosine down to 1 %, or constant."""
    peak = config.learning_rate
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if config.schedule == "constant":
        return optax.join_schedules(
            [optax.linear_schedule(_FINAL_FRACTION * peak, peak, warmup), optax.constant_schedule(peak)], [warmup]
        )
    return optax.warmup_cosine_decay_schedule(_FINAL_FRACTION * peak, peak, warmup, total, _FINAL_FRACTION * peak)


def build_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam on clipped gradients, over all parameters as one vector: one pass instead of one for each small array."""
    adam = optax.adam(learning_rate_schedule(config, steps_per_epoch))
    if config.grad_clip_norm == 0:
        return optax.flatten(adam)
    return optax.flatten(optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), adam))


def create_state(model: JointModel, optimizer: optax.GradientTransformation, example: Batch, seed: int) -> TrainState:
    """A new state, committed to its device: a state whose placement changed later would compile the step again."""

    @jax.jit
    def create(key: Array) -> TrainState:
        params = model.init(key, example)
        # A copy of its own: the step gives the parameters' memory back (donation), once for each array.
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    return jax.device_put(create(jax.random.key(seed)), state_sharding())


def state_sharding() -> jax.sharding.Sharding:
    """Where the state lives: whole, on the first device."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

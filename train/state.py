"""The training state, the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.config import TrainConfig
from train.devices import Devices
from train.joint import JointModel
from train.parameters import ParameterVector, initial_parameters

Array = jax.Array

_FINAL_FRACTION = 0.01


class TrainState(NamedTuple):
    """All that a step reads and replaces; all that a checkpoint holds. P parameters, as one vector."""

    step: Array  # () int32, steps taken
    params: Array  # (P,)
    opt_state: Any
    ema_params: Array  # (P,) running average of the weights, for evaluation


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
    """Adam on clipped gradients."""
    adam = optax.adam(learning_rate_schedule(config, steps_per_epoch))
    if config.grad_clip_norm == 0:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), adam)


def build_create(
    model: JointModel, parameters: ParameterVector, optimizer: optax.GradientTransformation
) -> Callable[[int, Devices], TrainState]:
    """``create(seed, devices)``: a new state, the same for any devices.

    It is drawn on the host's processor, compiled without optimization, which would take longer than running it; and
    placed where it stays, because a state that is placed later compiles the step a second time.
    """

    def draw(key: Array) -> TrainState:
        params = parameters.join(initial_parameters(model, key))
        # A copy of its own: the step gives the parameters' memory back (donation), once for each array.
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params.copy())

    compiled = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})

    def create(seed: int, devices: Devices) -> TrainState:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            state = jax.device_get(compiled(jax.random.key(seed)))
        return devices.place(state)

    return create

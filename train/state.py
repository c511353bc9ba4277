"""The training state, the optimizer and its schedule."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config import TrainConfig

Array = jax.Array

_FIRST_FRACTION = 0.01
_FINAL_FRACTION = 0.01


class TrainState(NamedTuple):
    """All that a step reads and replaces; all that a checkpoint holds. P parameters, as one vector."""

    step: Array  # () int32, steps taken
    params: Array  # (P,)
    opt_state: Any
    ema_params: Array  # (P,) running average of the weights, for evaluation


class Schedule(NamedTuple):
    """The learning rate over a run. Numbers that enter the compiled step, which so serves runs of any length."""

    peak: Any  # () float32
    final: Any  # () float32
    warmup: Any  # () float32, steps
    total: Any  # () float32, steps
    largest_loss: Any  # () float32, beyond which the run has diverged


def schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """Linear warm-up from 1 % of the peak, then a cosine down to 1 %, or constant."""
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    final = config.learning_rate * (_FINAL_FRACTION if config.schedule == "cosine" else 1.0)
    numbers = (config.learning_rate, final, warmup, total, config.largest_loss)
    return Schedule(*(np.asarray(value, np.float32) for value in numbers))


def learning_rate(schedule: Schedule, step: Array) -> Array:
    """Learning rate of a step, counted from 0 (as optax's schedules, which cannot take their lengths as arrays)."""
    rising = schedule.peak * (_FIRST_FRACTION + (1.0 - _FIRST_FRACTION) * step / jnp.maximum(schedule.warmup, 1.0))
    progress = (step - schedule.warmup) / jnp.maximum(schedule.total - schedule.warmup, 1.0)
    half_wave = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    falling = schedule.final + (schedule.peak - schedule.final) * half_wave
    return jnp.where(step < schedule.warmup, rising, falling)


def build_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AMSGrad's direction from clipped gradients, to be multiplied by the learning rate.

    AMSGrad (Reddi, Kale & Kumar, ICLR 2018), as in the PhysNet paper: Adam forgets the size of a gradient that comes
    once in thousands of steps, and answers the next one with thirty steps' length. Hidden units that few molecules
    reach so grow weights that no other molecule holds back, until one that reaches them too gets forces of 10³ eV/Å.
    """
    if config.grad_clip_norm == 0:
        return optax.scale_by_amsgrad()
    return optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), optax.scale_by_amsgrad())


def as_adam(opt_state: Any) -> Any:
    """The optimizer's state as earlier versions kept it, which took Adam."""

    def convert(part: Any) -> Any:
        amsgrad = isinstance(part, optax.ScaleByAmsgradState)
        return optax.ScaleByAdamState(part.count, part.mu, part.nu) if amsgrad else part

    return jax.tree.map(convert, opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByAmsgradState))


def from_adam(opt_state: Any) -> Any:
    """The other way. No largest second moment is known: the next step's will be the first."""

    def convert(part: Any) -> Any:
        if not isinstance(part, optax.ScaleByAdamState):
            return part
        return optax.ScaleByAmsgradState(part.count, part.mu, part.nu, jax.tree.map(jnp.zeros_like, part.nu))

    return jax.tree.map(convert, opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState))


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # The average has a copy of its own: a step gives the parameters' memory back (donation), once for each array.
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params.copy())

"""The training state, the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The arrays that a step replaces and a checkpoint holds; P parameters as one vector."""

    step: Array  # () int32, steps taken
    params: Array  # (P,)
    opt_state: Any
    ema_params: Array  # (P,) running average of the weights, for evaluation


class Schedule(NamedTuple):
    """The learning rate over a run, as arguments of the compiled step, which so serves runs of any length."""

    peak: Any  # () float32
    final: Any  # () float32
    warmup: Any  # () float32, steps
    total: Any  # () float32, steps
    largest_loss: Any  # () float32, beyond which the run has diverged


def schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """Return the schedule: linear warm-up from 1 % of the peak, then a cosine down to 1 %, or constant."""
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    final = config.learning_rate * (_FINAL_FRACTION if config.schedule == "cosine" else 1.0)
    numbers = (config.learning_rate, final, warmup, total, config.largest_loss)
    return Schedule(*(np.asarray(value, np.float32) for value in numbers))


def learning_rate(schedule: Schedule, step: Array) -> Array:
    """Return the learning rate of a step, counted from 0 (optax's schedules cannot take lengths as arrays)."""
    rising = schedule.peak * (_FIRST_FRACTION + (1.0 - _FIRST_FRACTION) * step / jnp.maximum(schedule.warmup, 1.0))
    progress = (step - schedule.warmup) / jnp.maximum(schedule.total - schedule.warmup, 1.0)
    half_wave = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    falling = schedule.final + (schedule.peak - schedule.final) * half_wave
    return jnp.where(step < schedule.warmup, rising, falling)


def build_optimizer(config: TrainConfig, networks: Mapping[str, slice]) -> optax.GradientTransformation:
    """Return the optimizer, whose updates are to be multiplied by the learning rate.

    Each network's gradient is clipped by its own norm: by that of both, the size of DCMNet's step would
    depend on the forces' errors.

    DCMNet takes Adam, all else AMSGrad (Reddi, Kale & Kumar, ICLR 2018), as in the PhysNet paper: Adam forgets the size
    of a gradient that comes once in thousands of steps, and answers the next one with thirty steps' length. Hidden
    units that few molecules reach so grow weights that no other molecule holds back, until one that reaches them too
    gets forces of 10³ eV/Å. DCMNet's gradients fall with its errors, and AMSGrad, which divides by the largest ever,
    would go on in ever shorter steps: six times shorter (median) after 80 epochs of mixed molecules.

    Args:
        config: of the training.
        networks: slice of each network's parameters in the vector.
    """
    amsgrad = optax.scale_by_amsgrad()

    def update(gradient: Array, state: Any, _params: Array | None = None) -> tuple[Array, Any]:
        # Without a largest second moment so far, AMSGrad's step is Adam's.
        return amsgrad.update(gradient, state._replace(nu_max=state.nu_max.at[networks["dcmnet"]].set(0.0)))

    direction = optax.GradientTransformation(amsgrad.init, update)
    if config.grad_clip_norm == 0:
        return direction
    clip = optax.clip_by_global_norm(config.grad_clip_norm)

    def clip_each(gradient: Array, _params: Array | None = None) -> Array:
        parts = [clip.update(gradient[place], optax.EmptyState())[0] for place in networks.values()]
        return jnp.concatenate(parts)

    return optax.chain(optax.stateless(clip_each), direction)


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    # The average has a copy of its own: a step gives the parameters' memory back (donation), once for each array.
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params.copy())

"""The training state, the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config import TrainConfig

Array = jax.Array

_FIRST_FRACTION = 0.01
_FINAL_FRACTION = 0.01

_FIRST_DECAY, _SECOND_DECAY, _SMALLEST_ROOT = 0.9, 0.999, 1e-8
"""β₁, β₂ and ε of Adam and AMSGrad, as published."""


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


def network_norms(gradient: Array, networks: Mapping[str, slice]) -> dict[str, Array]:
    """Return the Euclidean norm of each network's part of the gradient (P,)."""
    return {name: jnp.sqrt(jnp.vdot(gradient[place], gradient[place])) for name, place in networks.items()}


def build_optimizer(
    config: TrainConfig, networks: Mapping[str, slice], decaying: Callable[[], Array] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer, whose updates are to be multiplied by the learning rate.

    Each network's gradient is clipped by its own norm: by that of both, the size of DCMNet's step would
    depend on the forces' errors.

    DCMNet takes Adam, all else AMSGrad (Reddi, Kale & Kumar, ICLR 2018), as in the PhysNet paper: Adam forgets the size
    of a gradient that comes once in thousands of steps, and answers the next one with thirty steps' length. Hidden
    units that few molecules reach so grow weights that no other molecule holds back, until one that reaches them too
    gets forces of 10³ eV/Å. DCMNet's gradients fall with its errors, and AMSGrad, which divides by the largest ever,
    would go on in ever shorter steps: six times shorter (median) after 80 epochs of mixed molecules.

    Weights decay apart from the gradient (Loshchilov & Hutter, ICLR 2019), by whose size the rules above would divide
    the decay.

    The rules and the state are those of optax (``scale_by_amsgrad`` after ``clip_by_global_norm``). Here each array is
    written by one pass over what was already written, in place: the compiler would compute it again from the old state
    in every pass, and copy what it still needs. A step of 16 molecules is a quarter shorter so on a processor.

    Its ``update`` takes a further argument, ``sound``: a boolean without which the state stays what it is.

    Args:
        config: of the training.
        networks: slice of each network's parameters in the vector.
        decaying: returns 1 for the parameters that decay, else 0 (P,).
    """
    rules = optax.scale_by_amsgrad(_FIRST_DECAY, _SECOND_DECAY, _SMALLEST_ROOT)
    largest = config.grad_clip_norm
    init = optax.chain(optax.clip_by_global_norm(largest), rules).init if largest else rules.init

    def update(
        gradient: Array, state: Any, params: Array | None = None, *, sound: Array | bool = True
    ) -> tuple[Array, Any]:
        place = jax.lax.iota(jnp.int32, gradient.shape[0])
        if largest:
            share = jnp.ones(())
            for name, norm in network_norms(gradient, networks).items():
                share = jnp.where(_within(place, networks[name]), largest / jnp.maximum(norm, largest), share)
            # Not put together from parts, which would be a pass over memory by itself.
            gradient = gradient * share

        def written(new: Array, before: Array) -> Array:
            array: Array = jax.lax.optimization_barrier(jnp.where(sound, new, before))
            return array

        count, mu, nu, nu_max = (optax.tree.get(state, name) for name in ("count", "mu", "nu", "nu_max"))
        taken = optax.safe_increment(count)
        first = written(optax.tree.update_moment(gradient, mu, _FIRST_DECAY, 1), mu)
        second = written(optax.tree.update_moment_per_elem_norm(gradient, nu, _SECOND_DECAY, 2), nu)
        # Without a largest second moment so far, AMSGrad's step is Adam's.
        so_far = jnp.where(_within(place, networks["dcmnet"]), 0.0, nu_max)
        largest_second = jnp.maximum(so_far, optax.tree.bias_correction(second, _SECOND_DECAY, taken))
        largest_second = written(largest_second, nu_max)
        root = jnp.sqrt(largest_second) + _SMALLEST_ROOT
        direction = optax.tree.bias_correction(first, _FIRST_DECAY, taken) / root
        if config.weight_decay:
            assert decaying is not None
            assert params is not None
            direction = direction + config.weight_decay * decaying() * params
        count = jnp.where(sound, taken, count)
        return direction, optax.tree.set(state, count=count, mu=first, nu=second, nu_max=largest_second)

    return optax.GradientTransformationExtraArgs(init, update)


def _within(place: Array, of: slice) -> Array:
    return (place >= of.start) & (place < of.stop)


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    # The average has a copy of its own: a step gives the parameters' memory back (donation), once for each array.
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params.copy())

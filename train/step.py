"""The two jitted functions: one training step, and the evaluation of one batch. Both are pure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

from shared.batch import Batch
from train.joint import JointModel, Params, Prediction, clean
from train.losses import Losses, LossWeights, joint_loss
from train.metrics import MetricSums, add_sums, batch_sums
from train.state import TrainState

Array = jax.Array


def loss_and_prediction(
    params: Params, batch: Batch, model: JointModel, weights: LossWeights
) -> tuple[Array, tuple[Losses, Prediction]]:
    """Weighted loss of a cleaned batch; its gradient goes through both networks and the forces."""
    prediction = model.apply(params, batch)
    losses = joint_loss(prediction, batch, weights)
    return losses.total, (losses, prediction)


@dataclass(frozen=True)
class Steps:
    """The compiled functions of a run; each compiles once for each bucket shape.

    ``train(state, sums, batch) -> (state, sums, loss)`` takes one optimizer step and adds to the metric sums; it
    gives back the memory of the state and the sums that came in. ``evaluate(params, sums, batch) -> (sums,
    prediction)`` changes nothing.
    """

    train: Callable[[TrainState, MetricSums, Batch], tuple[TrainState, MetricSums, Array]]
    evaluate: Callable[[Params, MetricSums, Batch], tuple[MetricSums, Prediction]]

    def compilations(self) -> tuple[int, int]:
        """How often each function was compiled."""
        return self.train._cache_size(), self.evaluate._cache_size()  # type: ignore[attr-defined]


def build_steps(
    model: JointModel, weights: LossWeights, optimizer: optax.GradientTransformation, ema_decay: float
) -> Steps:
    """The jitted functions of a run."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(state: TrainState, sums: MetricSums, batch: Batch) -> tuple[TrainState, MetricSums, Array]:
        batch = clean(batch)
        gradient_of = jax.grad(loss_and_prediction, has_aux=True)
        gradient, (losses, prediction) = gradient_of(state.params, batch, model, weights)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        # Warmed up, so that the average forgets the initial weights within the first steps.
        decay = jax.numpy.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        ema = optax.incremental_update(params, state.ema_params, 1.0 - decay) if ema_decay else params
        sums = add_sums(sums, batch_sums(prediction, batch, losses, point_charges=False))
        return TrainState(step, params, opt_state, ema), sums, losses.total

    @functools.partial(jax.jit, donate_argnums=(1,))
    def evaluate(params: Params, sums: MetricSums, batch: Batch) -> tuple[MetricSums, Prediction]:
        batch = clean(batch)
        prediction = model.apply(params, batch)
        losses = joint_loss(prediction, batch, weights)
        return add_sums(sums, batch_sums(prediction, batch, losses, point_charges=True)), prediction

    return Steps(train, evaluate)

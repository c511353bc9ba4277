"""A training step put together from its parts, of a toy gradient: direction, learning rate, running average."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared.buckets import BucketShape, EdgeShape, FrameShape
from train.config import TrainConfig
from train.data.batch import Batch, empty_batch
from train.step import train_step as training
from train.step.metrics import MetricSums, zero_sums
from train.step.optimizer import build_optimizer, new_state, schedule

PEAK, STEPS_PER_EPOCH = 0.02, 5
TARGET = np.array([1.0, -2.0, 0.5], np.float32)


def slope(vector: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, MetricSums]:
    """Gradient, loss and sums of ½ |vector - TARGET|²."""
    loss = 0.5 * ((vector - TARGET) ** 2).sum()
    return vector - TARGET, loss, zero_sums()._replace(loss=loss, molecules=jnp.ones(()))


@pytest.mark.parametrize(("ema_decay", "weight_decay"), [(0.2, 0.0), (0.0, 0.3)])
def test_steps_are_those_of_optax(ema_decay: float, weight_decay: float) -> None:
    """The average is warmed up by (1 + n) / (10 + n) after n steps: 2/11, and beyond 0.2 from then on."""
    config = dataclasses.replace(TrainConfig(), learning_rate=PEAK, epochs=3, warmup_epochs=1.0)
    config = dataclasses.replace(config, weight_decay=weight_decay, grad_clip_norm=0.0)
    decaying = np.array([True, False, True])
    adam = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, lambda _: list(decaying)))
    batch = empty_batch(BucketShape(FrameShape(2, 1), EdgeShape(2, 2)), 1)
    networks = {"dcmnet": slice(0, 3)}
    optimizer = build_optimizer(config, networks, lambda: jnp.asarray(decaying, jnp.float32))
    state, sums = new_state(jnp.zeros(3), optimizer), zero_sums()
    params, average, moments = np.zeros(3), np.zeros(3), adam.init([jnp.zeros(())] * 3)
    rising = optax.linear_schedule(0.01 * PEAK, PEAK, STEPS_PER_EPOCH)
    for taken, decay in enumerate((2 / 11, 0.2, 0.2) if ema_decay else (0.0, 0.0, 0.0)):
        state, sums, loss = training._step(
            state,
            sums,
            batch,
            schedule(config, STEPS_PER_EPOCH),
            gradient=slope,  # type: ignore[arg-type]
            optimizer=optimizer,
            networks=networks,
            ema_decay=ema_decay,
        )
        assert float(loss) == pytest.approx(0.5 * ((params - TARGET) ** 2).sum(), rel=1e-6)
        # Each parameter is an array of its own, for optax to decay some of them.
        direction, moments = adam.update(list(np.float32(params - TARGET)), moments, list(np.float32(params)))
        params = params - float(rising(taken)) * np.asarray(direction)
        average = decay * average + (1.0 - decay) * params
        assert int(state.step) == taken + 1 == int(sums.molecules)
        np.testing.assert_allclose(state.params, params, rtol=1e-5, err_msg=f"step {taken}")
        np.testing.assert_allclose(state.ema_params, average, rtol=1e-5, err_msg=f"step {taken}")

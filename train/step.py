"""The jitted functions: training steps, on a batch or on data that lie on the device, and the evaluation of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from shared.batch import Batch
from train.config import TrainConfig
from train.devices import AXIS, Devices
from train.joint import JointModel, Params, Prediction, build_model, clean
from train.losses import Counts, Losses, LossWeights, count, joint_loss, loss_weights
from train.metrics import MetricSums, add_sums, batch_sums
from train.parameters import ParameterVector, parameter_vector
from train.state import TrainState, build_create, build_optimizer

Array = jax.Array

_MOLECULES_IN_CACHE = 64
"""Molecules whose intermediate arrays stay in a core's cache; measured with CO2."""


def loss_and_prediction(
    params: Params, batch: Batch, model: JointModel, weights: LossWeights, counts: Counts | None = None
) -> tuple[Array, tuple[Losses, Prediction]]:
    """Weighted loss of a cleaned batch; its gradient goes through both networks and the forces.

    ``counts`` are those of the whole batch, if this is a part of one.
    """
    prediction = model.apply(params, batch)
    losses = joint_loss(prediction, batch, weights, counts)
    return losses.total, (losses, prediction)


@dataclass(frozen=True)
class Steps:
    """The compiled functions of a run; each compiles once for each bucket shape, and runs on all devices together.

    ``train(state, sums, batch) -> (state, sums, loss)`` takes one optimizer step and adds to the metric sums; it
    gives back the memory of the state and the sums that came in. ``train_resident(state, sums, data, rows, first,
    last) -> (state, sums, loss)`` takes the steps ``first`` to ``last`` whose molecules are ``rows`` of ``data``
    (-1: none). ``evaluate(params, sums, batch) -> (sums, prediction)`` changes nothing.
    """

    parameters: ParameterVector
    devices: Devices
    create: Callable[[int, Devices], TrainState]
    train: Callable[[TrainState, MetricSums, Batch], tuple[TrainState, MetricSums, Array]]
    train_resident: Callable[[TrainState, MetricSums, Batch, Array, int, int], tuple[TrainState, MetricSums, Array]]
    evaluate: Callable[[Array, MetricSums, Batch], tuple[MetricSums, Prediction]]

    def compilations(self) -> tuple[int, int]:
        """How often training steps and the evaluation were compiled."""
        functions: tuple[Any, ...] = (self.train, self.train_resident, self.evaluate)
        train, resident, evaluate = (function._cache_size() for function in functions)
        return train + resident, evaluate

    def create_state(self, seed: int) -> TrainState:
        """A new state on this run's devices."""
        return self.create(seed, self.devices)


def build_steps(config: TrainConfig, steps_per_epoch: int, devices: Devices) -> Steps:
    """The functions of a run with these settings."""
    model, weights = build_model(config), loss_weights(config)
    parameters = parameter_vector(model)
    optimizer = build_optimizer(config, steps_per_epoch)
    step = functools.partial(
        _step,
        gradient=_Gradient(model, parameters, weights, _chunk_size(config, devices)),
        optimizer=optimizer,
        ema_decay=config.ema_decay,
    )
    whole, divided = PartitionSpec(), PartitionSpec(AXIS)
    on_devices = functools.partial(jax.shard_map, mesh=devices.mesh, check_vma=False)
    jit = functools.partial(jax.jit, compiler_options=_compiler_options(devices))

    def resident(
        state: TrainState, sums: MetricSums, data: Batch, rows: Array, first: Array, last: Array
    ) -> tuple[TrainState, MetricSums, Array]:
        def body(i: Array, carry: tuple[TrainState, MetricSums, Array]) -> tuple[TrainState, MetricSums, Array]:
            own = jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)
            return step(carry[0], carry[1], gather(data, own))

        return jax.lax.fori_loop(first, last, body, (state, sums, jnp.zeros(())))

    def evaluate(vector: Array, sums: MetricSums, batch: Batch) -> tuple[MetricSums, Prediction]:
        batch = clean(batch)
        counts = jax.lax.psum(count(batch), AXIS)
        prediction = model.apply(parameters.split(vector), batch)
        losses = joint_loss(prediction, batch, weights, counts)
        own = batch_sums(prediction, batch, losses, counts, point_charges=True)
        return add_sums(sums, jax.lax.psum(own, AXIS)), prediction

    return Steps(
        parameters,
        devices,
        build_create(model, parameters, optimizer),
        jit(on_devices(step, in_specs=(whole, whole, divided), out_specs=whole), donate_argnums=(0, 1)),
        jit(
            on_devices(
                resident,
                in_specs=(whole, whole, whole, PartitionSpec(None, AXIS), whole, whole),
                out_specs=whole,
            ),
            donate_argnums=(0, 1),
        ),
        jit(on_devices(evaluate, in_specs=(whole, whole, divided), out_specs=(whole, divided)), donate_argnums=(1,)),
    )


def gather(data: Batch, rows: Array) -> Batch:
    """The molecules ``rows`` (B,) of ``data``, -1 being an empty place."""
    batch: Batch = jax.tree.map(lambda array: array[jnp.maximum(rows, 0)], data)
    return batch._replace(molecule_mask=rows >= 0)


def _step(
    state: TrainState,
    sums: MetricSums,
    batch: Batch,
    gradient: _Gradient,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> tuple[TrainState, MetricSums, Array]:
    slope, loss, own_sums = gradient(state.params, batch)
    updates, opt_state = optimizer.update(slope, state.opt_state, state.params)
    params = state.params + updates
    step = state.step + 1
    # Warmed up, so that the average forgets the initial weights within the first steps.
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    ema = optax.incremental_update(params, state.ema_params, 1.0 - decay) if ema_decay else params
    return TrainState(step, params, opt_state, ema), add_sums(sums, own_sums), loss


@dataclass(frozen=True)
class _Gradient:
    """Gradient, loss and metric sums of a batch that is divided among the devices; runs on each of them."""

    model: JointModel
    parameters: ParameterVector
    weights: LossWeights
    chunk_size: int

    def __call__(self, vector: Array, batch: Batch) -> tuple[Array, Array, MetricSums]:
        batch = clean(batch)
        # Means are over the whole batch, so that its division changes nothing.
        counts = jax.lax.psum(count(batch), AXIS)
        molecules = batch.molecule_mask.shape[0]
        chunks = -(-molecules // self.chunk_size)
        if chunks == 1:
            total = self._of_chunk(vector, batch, counts)
        else:
            # One after another: the arrays of all molecules at once would leave the processor's cache.
            size = -(-molecules // chunks)
            divided = jax.tree.map(lambda array: _in_chunks(array, chunks, size), batch)

            def add(total: Array, chunk: Batch) -> tuple[Array, None]:
                return total + self._of_chunk(vector, chunk, counts), None

            zero = jnp.zeros(vector.shape[0] + 1 + len(MetricSums._fields))
            total, _ = jax.lax.scan(add, zero, divided)
        # One sum over the devices for everything.
        total = jax.lax.psum(total, AXIS)
        gradient, loss, sums = jnp.split(total, [vector.shape[0], vector.shape[0] + 1])
        return gradient, loss[0], MetricSums(*sums)

    def _of_chunk(self, vector: Array, batch: Batch, counts: Counts) -> Array:
        def loss(vector: Array) -> tuple[Array, tuple[Losses, Prediction]]:
            return loss_and_prediction(self.parameters.split(vector), batch, self.model, self.weights, counts)

        gradient, (losses, prediction) = jax.grad(loss, has_aux=True)(vector)
        sums = batch_sums(prediction, batch, losses, counts, point_charges=False)
        return jnp.concatenate([gradient, losses.total[None], jnp.stack(sums)])


def _in_chunks(array: Array, chunks: int, size: int) -> Array:
    missing = chunks * size - array.shape[0]
    padded = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
    return padded.reshape(chunks, size, *array.shape[1:])


def _chunk_size(config: TrainConfig, devices: Devices) -> int:
    if config.chunk_size:
        return config.chunk_size
    return _MOLECULES_IN_CACHE if devices.platform == "cpu" else config.batch_size


def _compiler_options(devices: Devices) -> dict[str, Any] | None:
    # Measured: a third less to compile, and steps of the same speed.
    return {"xla_backend_optimization_level": 1} if devices.platform == "cpu" else None

"""The functions that are compiled: training steps, on a batch or on data kept on the device, and the evaluation.

All are pure, and run on every device on its part of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from shared.buckets import BucketShape, EdgeShape, FrameShape
from train.config import TrainConfig
from train.data.batch import Batch, empty_batch
from train.model.graph import batch_edges
from train.model.joint import JointModel, build_model, clean
from train.model.members import over_members
from train.model.prediction import Deviations, EnsemblePrediction, Params, Prediction
from train.step.devices import AXIS, Devices
from train.step.losses import Counts, Losses, LossWeights, count, joint_loss, loss_weights
from train.step.metrics import MetricSums, add_sums, batch_sums
from train.step.optimizer import Schedule, TrainState, build_optimizer, learning_rate, network_norms, new_state
from train.step.parameter_vector import ParameterVector

Array = jax.Array
_Stepped = tuple[TrainState, MetricSums, Array]

_SMALLEST = BucketShape(FrameShape(2, 1), EdgeShape(2, 2))

_POTENTIALS_IN_CACHE = 290_000
_EDGES_IN_CACHE = 1_300
"""(Charge, grid point) pairs and edges whose arrays fit in a core's cache of 1 MiB. Measured with molecules of 3, 6
and 9 atoms: twice as many molecules at once take a fifth to a third longer each."""


def loss_and_prediction(
    params: Params, batch: Batch, model: JointModel, weights: LossWeights, counts: Counts | None = None
) -> tuple[Array, tuple[Losses, Prediction]]:
    """Return the weighted loss and the prediction of a cleaned batch; differentiable through networks and forces.

    ``counts`` are those of the whole batch, if this is a part of one.
    """
    prediction = model.apply(params, batch)
    losses = joint_loss(prediction, batch, weights, counts)
    return losses.total, (losses, prediction)


def parameter_vector(config: TrainConfig) -> ParameterVector:
    """Return the layout of the model's parameters without computing them."""
    model = build_model(config)
    return ParameterVector.of_tree(jax.eval_shape(lambda: _initial_parameters(model, jax.random.key(0))))


def build_functions(
    config: TrainConfig, devices: Devices, parameters: ParameterVector
) -> dict[str, Callable[..., Any]]:
    """Return the functions that :class:`.compiled_steps.Steps` compiles, by name; each runs on all devices."""
    model, weights = build_model(config), loss_weights(config)
    optimizer = build_optimizer(config, parameters.networks, functools.partial(parameters.matrices, but=config.freeze))
    chunks = functools.partial(chunk_size, config, devices)
    gradient = _Gradient(model, parameters, weights, chunks, config.freeze)
    step = functools.partial(
        _step,
        gradient=gradient,
        optimizer=optimizer,
        networks=parameters.networks,
        ema_decay=config.ema_decay,
    )
    of_all = functools.partial(over_members, members=config.members, platform=devices.platform)

    def create(key_data: Array) -> tuple[TrainState]:
        params = _initial_parameters(model, jax.random.wrap_key_data(key_data))
        return (new_state(parameters.join(params), optimizer),)

    def farthest_charges(vector: Array, batch: Batch, charges: Array) -> tuple[Array]:
        # Before they are bound: a bound length does not grow with the weights.
        dcmnet = model.dcmnet.clone(longest_arm=0.0)
        batch = clean(batch)
        edges = batch_edges(batch.positions, batch.dcmnet_dst, batch.dcmnet_src, batch.dcmnet_n_edges, dcmnet.cutoff)
        params = parameters.split(vector)["dcmnet"]
        made: Any = dcmnet.apply(params, batch.atomic_numbers, charges[batch.atomic_numbers], edges)
        return (jnp.sqrt((made.displacements**2).sum(axis=-1).max(axis=-1)),)

    def take_steps(
        batch_of: Callable[[Array], Batch],
        state: TrainState,
        sums: MetricSums,
        first: Array,
        last: Array,
        schedule: Schedule,
    ) -> _Stepped:
        def of_member(own: tuple[TrainState, MetricSums]) -> _Stepped:
            def body(i: Array, carry: _Stepped) -> _Stepped:
                return step(carry[0], carry[1], batch_of(i), schedule)

            return jax.lax.fori_loop(first, last, body, (*own, jnp.zeros(())))

        # All steps of a member, not each, before the next member's: a processor copies its arrays.
        stepped: _Stepped = of_all(of_member)((state, sums))
        return stepped

    def block(
        state: TrainState, sums: MetricSums, batches: Batch, first: Array, last: Array, schedule: Schedule
    ) -> _Stepped:
        def batch_of(i: Array) -> Batch:
            return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, i, keepdims=False), batches)

        return take_steps(batch_of, state, sums, first, last, schedule)

    def resident(
        state: TrainState, sums: MetricSums, data: Batch, rows: Array, first: Array, last: Array, schedule: Schedule
    ) -> _Stepped:
        def batch_of(i: Array) -> Batch:
            return take_molecules(data, jax.lax.dynamic_index_in_dim(rows, i, keepdims=False))

        return take_steps(batch_of, state, sums, first, last, schedule)

    def errors_of(prediction: Prediction, batch: Batch, counts: Counts) -> MetricSums:
        losses = joint_loss(prediction, batch, weights, counts)
        return batch_sums(prediction, batch, losses, counts, point_charges=True)

    def evaluate(vector: Array, sums: MetricSums, batch: Batch) -> tuple[MetricSums, Prediction]:
        batch = clean(batch)
        counts = _whole_counts(batch)
        prediction = model.apply(parameters.split(vector), batch)
        own = errors_of(prediction, batch, counts)
        return add_sums(sums, jax.lax.psum(own, AXIS)), prediction

    def evaluate_all(vectors: Array, sums: MetricSums, batch: Batch) -> tuple[MetricSums, EnsemblePrediction]:
        batch = clean(batch)
        counts = _whole_counts(batch)

        def of_member(vector: Array) -> tuple[Prediction, MetricSums]:
            prediction = model.apply(parameters.split(vector), batch)
            return prediction, errors_of(prediction, batch, counts)

        predictions, own = of_all(of_member)(vectors)
        combined = combine_members(predictions)
        of_mean = errors_of(combined.mean, batch, counts)
        every = jax.tree.map(lambda members, mean: jnp.append(members, mean), own, of_mean)
        return add_sums(sums, jax.lax.psum(every, AXIS)), combined

    whole, divided, divided_rows = PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS)
    # Replication is not checked: the optimizer's library does not say that equal inputs give equal results.
    on_devices = functools.partial(jax.shard_map, mesh=devices.mesh, check_vma=False)
    return {
        "create": create,
        "farthest_charges": farthest_charges,
        "train_block": on_devices(block, in_specs=(whole, whole, divided_rows, whole, whole, whole), out_specs=whole),
        "train_resident": on_devices(
            resident, in_specs=(whole, whole, whole, divided_rows, whole, whole, whole), out_specs=whole
        ),
        "gradient": on_devices(gradient, in_specs=(whole, divided), out_specs=whole),
        "evaluate": on_devices(
            evaluate_all if config.members > 1 else evaluate,
            in_specs=(whole, whole, divided),
            out_specs=(whole, divided),
        ),
    }


def _initial_parameters(model: JointModel, key: Array) -> Params:
    """Return new parameters; they do not depend on the data, so the smallest batch suffices."""
    return model.init(key, empty_batch(_SMALLEST, 1))


def combine_members(predictions: Prediction) -> EnsemblePrediction:
    """Return the mean and the standard deviations of predictions, arrays (N, B, ...), of N > 1 members.

    The mean has the distributed charges of all members, each divided by N: their moments and their potential are the
    means of the members'.
    """
    mean: Prediction = jax.tree.map(lambda array: array.mean(axis=0), predictions)
    charges, sites = predictions.dcm_charges, predictions.dcm_sites
    charges = jnp.concatenate(list(charges), axis=-1) / charges.shape[0]
    mean = mean._replace(dcm_charges=charges, dcm_sites=jnp.concatenate(list(sites), axis=-2))
    spread = {name: getattr(predictions, name).std(axis=0, ddof=1) for name in Deviations._fields}
    return EnsemblePrediction(mean, Deviations(**spread))


def take_molecules(data: Batch, rows: Array) -> Batch:
    """Return the molecules ``rows`` (B,) of ``data``; -1 is an empty place."""
    batch: Batch = jax.tree.map(lambda array: array[jnp.maximum(rows, 0)], data)
    return batch._replace(molecule_mask=rows >= 0)


def _step(
    state: TrainState,
    sums: MetricSums,
    batch: Batch,
    schedule: Schedule,
    *,
    gradient: _Gradient,
    optimizer: optax.GradientTransformationExtraArgs,
    networks: Mapping[str, slice],
    ema_decay: float,
) -> _Stepped:
    slope, loss, own_sums = gradient(state.params, batch)
    # The norms by which the optimizer clips: the compiler computes them once for both.
    norms = network_norms(slope, networks).values()
    finite = jnp.isfinite(jnp.stack([sums.loss, *norms])).all()
    # A step that diverges is not taken, and none after it: the state stays what it was before, and its step number
    # says where. The loss of the epoch so far is NaN from then on, which is how the steps that follow know.
    sound = (loss <= schedule.largest_loss) & finite
    direction, opt_state = optimizer.update(slope, state.opt_state, state.params, sound=sound)
    moved = jnp.where(sound, state.params - learning_rate(schedule, state.step) * direction, state.params)
    # Written once, see :func:`build_optimizer`.
    params = jax.lax.optimization_barrier(moved)
    step = state.step + 1
    # Warmed up, so that the average forgets the initial weights within the first steps. Written as a difference, it
    # leaves a parameter that does not change (a frozen one) as it is, to the last bit.
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    ema = params
    if ema_decay:
        ema = jnp.where(sound, state.ema_params + (1.0 - decay) * (params - state.ema_params), state.ema_params)
    sums = add_sums(sums, own_sums)
    return (
        TrainState(jnp.where(sound, step, state.step), params, opt_state, ema),
        sums._replace(loss=jnp.where(sound, sums.loss, jnp.nan)),
        jnp.where(sound, loss, jnp.nan),
    )


@dataclass(frozen=True)
class _Gradient:
    """Gradient, loss and metric sums of a batch that is divided among the devices; runs on each of them."""

    model: JointModel
    parameters: ParameterVector
    weights: LossWeights
    chunk_size: Callable[[Batch], int]
    frozen: str = "none"

    def __call__(self, vector: Array, batch: Batch) -> tuple[Array, Array, MetricSums]:
        batch = clean(batch)
        # Means are over the whole batch, so that its division changes nothing.
        counts = _whole_counts(batch)
        molecules = batch.molecule_mask.shape[0]
        chunks = -(-molecules // self.chunk_size(batch))
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
            params = self.parameters.split(vector)
            if self.frozen in params:
                # Not only are its gradients zero, which makes the optimizer's steps zero: they are not computed.
                params = {**params, self.frozen: jax.lax.stop_gradient(params[self.frozen])}
            return loss_and_prediction(params, batch, self.model, self.weights, counts)

        gradient, (losses, prediction) = jax.grad(loss, has_aux=True)(vector)
        sums = batch_sums(prediction, batch, losses, counts, point_charges=False)
        return jnp.concatenate([gradient, losses.total[None], jnp.stack(sums)])


def _whole_counts(batch: Batch) -> Counts:
    """Return the counts of a cleaned batch over all devices, in one exchange."""
    return Counts(*jax.lax.psum(jnp.stack(count(batch)), AXIS))


def _in_chunks(array: Array, chunks: int, size: int) -> Array:
    missing = chunks * size - array.shape[0]
    padded = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
    return padded.reshape(chunks, size, *array.shape[1:])


def chunk_size(config: TrainConfig, devices: Devices, batch: Batch) -> int:
    """Return how many molecules of a batch of this shape a device handles at once."""
    if config.chunk_size:
        return config.chunk_size
    if devices.platform != "cpu":
        return max(1, int(batch.molecule_mask.shape[0]))
    charges = config.n_dcm + (config.point_charge_esp_weight > 0)
    potentials = batch.esp.shape[1] * batch.positions.shape[1] * charges
    return max(1, min(_POTENTIALS_IN_CACHE // max(potentials, 1), _EDGES_IN_CACHE // max(batch.dcmnet_dst.shape[1], 1)))

"""What ``throughput`` compares, each in a process of its own: it prepares, then runs a round whenever it is asked to.

Speaks JSON, a line for each answer: first what the preparation took, then the figures of each round.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from tests.plain_dcmnet import PlainDCMNet
from train.config import TrainConfig
from train.data.batch import Batch, empty_batch
from train.data.dataset import open_cache
from train.data.loader import BatchPlan, Loader, in_blocks
from train.model.electrostatics import electrostatic_potential
from train.model.joint import JointModel, build_model, clean
from train.model.kept_programs import compiler_options
from train.run.blocks import open_blocks
from train.run.epoch import EpochRunner
from train.run.session import split_loader
from train.step.compiled_steps import Steps
from train.step.devices import AXIS, Devices, all_devices, start_devices
from train.step.losses import loss_weights
from train.step.metrics import named_metrics, zero_sums
from train.step.optimizer import build_optimizer
from train.step.train_step import chunk_size, loss_and_prediction, take_molecules

Round = Callable[[], dict[str, Any]]


def open_loader(config: TrainConfig, devices: Devices) -> Loader:
    """The training split."""
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    return split_loader(cache, "train", config, devices)


def cycled(loader: Loader, molecules: int) -> Iterator[list[BatchPlan]]:
    """Shuffled epochs without end, cut into pieces of about this many molecules, whole batches each."""
    piece: list[BatchPlan] = []
    epoch = 0
    while True:
        for plan in loader.plan(0, epoch):
            piece.append(plan)
            if sum(len(part.rows) for part in piece) >= molecules:
                yield piece
                piece = []
        epoch += 1


def count_atoms(loader: Loader, plans: list[BatchPlan]) -> int:
    """Real atoms of the planned molecules."""
    return sum(int((loader.buckets[plan.bucket].take("atomic_numbers", plan.rows) > 0).sum()) for plan in plans)


def training(config: TrainConfig, molecules: int) -> tuple[Steps, Loader, float, Round]:
    """This project's training, exactly as ``make train`` does it, and the seconds until all was compiled."""
    start = time.perf_counter()
    devices = all_devices()
    loader = open_loader(config, devices)
    steps = Steps(config, loader.batches_per_epoch, devices)
    epochs = EpochRunner(open_blocks(config, steps, loader))
    state = steps.create_state(0)
    pieces = cycled(loader, molecules)

    def run(plans: list[BatchPlan]) -> float:
        nonlocal state
        sums = devices.place(zero_sums())
        started = time.perf_counter()
        for done in epochs.run(state, sums, plans):
            state, sums = done.state, done.sums
        named_metrics(sums)  # waits for the device
        return time.perf_counter() - started

    # One batch of every bucket first, for everything to be compiled.
    firsts = {plan.bucket: plan for plan in loader.plan()}
    run(list(firsts.values()))
    prepared = time.perf_counter() - start

    def one_round() -> dict[str, Any]:
        plans = next(pieces)
        seconds = run(plans)
        number = sum(len(plan.rows) for plan in plans)
        waited = epochs.input_wait / seconds
        return {"seconds": seconds, "molecules": number, "atoms": count_atoms(loader, plans), "input_wait": waited}

    return steps, loader, prepared, one_round


def training_steps(steps: Steps) -> list[Any]:
    """The compiled training steps, one for each bucket in the order of the first plans."""
    return [made.result() for (name, *_), made in steps._executables.items() if name.startswith("train")]


def ours(config: TrainConfig, molecules: int) -> tuple[dict[str, Any], Round]:
    """The training, and the operations of a molecule by XLA's count."""
    steps, loader, prepared, one_round = training(config, molecules)
    devices = steps.devices
    flops = [
        compiled.cost_analysis()["flops"] * _turns(config, devices, loader, bucket) * devices.count / config.batch_size
        for bucket, compiled in zip({plan.bucket: plan for plan in loader.plan()}, training_steps(steps), strict=True)
    ]
    return {"compile_seconds": prepared, "flops": float(np.mean(flops)), "devices": devices.count}, one_round


def _turns(config: TrainConfig, devices: Devices, loader: Loader, bucket: int) -> int:
    """Chunks of a batch: a loop, of which the compiler counts one turn."""
    share = loader.places // devices.count
    return -(-share // chunk_size(config, devices, empty_batch(loader.buckets[bucket].shape, share)))


def python_edges(positions: list[list[float]], cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Edge list of one molecule in nested Python loops."""
    dst, src = [], []
    for i in range(len(positions)):
        for j in range(len(positions)):
            if i != j and math.dist(positions[i], positions[j]) < cutoff:
                dst.append(i)
                src.append(j)
    return np.asarray(dst, np.int32), np.asarray(src, np.int32)


def reference(config: TrainConfig, molecules: int, pad_edges: bool) -> tuple[dict[str, Any], Round]:
    """The script in common use: one molecule a step, edges in Python loops, e3x's own layers, each loss fetched."""
    start = time.perf_counter()
    devices = all_devices()
    loader = open_loader(config, devices)
    fast = build_model(config)
    network = {
        name: getattr(fast.dcmnet, name) for name in PlainDCMNet.__dataclass_fields__ if hasattr(fast.dcmnet, name)
    }
    network = {name: value for name, value in network.items() if name not in ("parent", "name")}
    plain: Any = PlainDCMNet(**network)
    # The networks as published: no angles, shared features or repulsion.
    model = JointModel(fast.physnet.clone(degree=0, zbl=False), plain)
    optimizer = optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), optax.adam(config.learning_rate))
    weights = loss_weights(config)

    @jax.jit
    def step(params: Any, state: Any, average: Any, batch: Batch) -> Any:
        gradient, (losses, _) = jax.grad(loss_and_prediction, has_aux=True)(params, clean(batch), model, weights)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, optax.incremental_update(params, average, 0.001), losses

    def batch_of(plan: BatchPlan) -> Batch:
        batch = loader.read(plan)
        real = batch.positions[0][batch.atomic_numbers[0] > 0].tolist()
        edges: dict[str, np.ndarray] = {}
        for kind, cutoff in (("physnet", config.physnet_cutoff), ("dcmnet", config.dcmnet_cutoff)):
            for name, values in zip(("dst", "src"), python_edges(real, cutoff), strict=True):
                missing = getattr(batch, f"{kind}_{name}").shape[1] - len(values) if pad_edges else 0
                edges[f"{kind}_{name}"] = np.pad(values, (0, missing))[None]
            edges[f"{kind}_n_edges"] = np.asarray([len(values)], np.int32)
        return batch._replace(**edges)

    params = jax.jit(model.init)(jax.random.key(0), batch_of(loader.plan()[0]))
    state, average = optimizer.init(params), params
    pieces = cycled(loader, molecules)

    def run(plans: list[BatchPlan]) -> float:
        nonlocal params, state, average
        started = time.perf_counter()
        for plan in plans:
            params, state, average, losses = step(params, state, average, batch_of(plan))
            for loss in losses:
                float(loss)
        return time.perf_counter() - started

    firsts = {plan.bucket: plan for plan in loader.plan()}
    run(list(firsts.values()))
    prepared = time.perf_counter() - start
    cost = step.lower(params, state, average, batch_of(loader.plan()[0])).compile().cost_analysis()

    def one_round() -> dict[str, Any]:
        plans = next(pieces)
        return {"seconds": run(plans), "molecules": len(plans), "atoms": count_atoms(loader, plans), "input_wait": 0.0}

    return {"compile_seconds": prepared, "flops": float(cost["flops"]), "devices": 1}, one_round


def matmul(size: int) -> tuple[dict[str, Any], Round]:
    """A square matrix product on all devices: what the machine can do."""
    devices = all_devices()
    operand = devices.place(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))
    product = jax.jit(
        jax.shard_map(
            lambda x: (x @ x)[None], mesh=devices.mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(AXIS)
        )
    )
    product(operand).block_until_ready()

    def one_round() -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(10):
            result = product(operand)
        result.block_until_ready()
        return {"gflops": devices.count * 10 * 2 * size**3 / (time.perf_counter() - start) / 1e9}

    return {}, one_round


def parts(config: TrainConfig) -> tuple[dict[str, Any], Round]:
    """A step's parts one by one, each divided among the devices as the whole is. Seconds per molecule."""
    devices = all_devices()
    loader = open_loader(config, devices)
    loader.buckets = [max(loader.buckets, key=len)]
    plan = loader.plan(0)[0]
    host = loader.read(plan)
    batch = devices.place_batch(host, loader.places)
    steps = Steps(config, loader.batches_per_epoch, devices)
    vector = steps.create_state(0).params
    model, weights, vectors = build_model(config), loss_weights(config), steps.parameters
    optimizer = build_optimizer(config, vectors.networks)
    moments = devices.place(jax.device_get(optimizer.init(vector)))
    data = devices.place(loader.read_rows(0, np.arange(len(loader)), len(loader)))
    rows = devices.place_rows(plan.rows[None].astype(np.int32))
    whole, divided = PartitionSpec(), PartitionSpec(AXIS)

    def energy(params: Any, batch: Batch, positions: Any) -> Any:
        pairs, _ = model._graphs(batch, positions)
        out: Any = model.physnet.apply(params, batch.atomic_numbers, positions, pairs, batch.total_charge)
        return out.energy.sum(), out

    def energy_and_forces(params: Any, batch: Batch) -> Any:
        return jax.grad(energy, argnums=2, has_aux=True)(params, batch, batch.positions)

    def physnet_loss(params: Any, batch: Batch) -> Any:
        forces, out = energy_and_forces(params, batch)
        return (out.energy**2).sum() + ((forces + batch.forces) ** 2).sum() + (out.charges**2).sum()

    def dcmnet_loss(params: Any, batch: Batch) -> Any:
        _, edges = model._graphs(batch, batch.positions)
        out: Any = model.dcmnet.apply(params, batch.atomic_numbers, batch.positions[..., 0], edges)
        return (out.charges**2).sum() + (out.displacements**2).sum()

    def esp_loss(charges: Any, batch: Batch) -> Any:
        count = charges.shape[1]
        sites = jnp.repeat(batch.positions, count // batch.positions.shape[1], axis=1) + 0.1
        return ((electrostatic_potential(charges, sites, batch.grid) - batch.esp) ** 2).sum()

    def all_networks(vector: Any, batch: Batch) -> Any:
        gradient, _ = jax.grad(
            lambda vector: loss_and_prediction(vectors.split(vector), clean(batch), model, weights), has_aux=True
        )(vector)
        return jax.lax.psum(gradient, AXIS)

    def update(vector: Any, moments: Any) -> Any:
        direction, moments = optimizer.update(vector, moments, vector)
        return vector - 1e-3 * direction, moments, optax.incremental_update(direction, vector, 0.001)

    def gradient_of(loss: Any) -> Any:
        # One vector, as in the step: a sum over devices for each small array would be most of the time.
        return lambda params, batch: jax.lax.psum(vectors.join(jax.grad(loss)(params, batch)), AXIS)

    params = vectors.split(vector)
    charges = devices.place_batch(batch, loader.places).positions.repeat(config.n_dcm, axis=1)[..., 0]
    functions: dict[str, tuple[Any, tuple[Any, ...], Any, Any]] = {
        "PhysNet: energy and forces": (
            lambda p, b: jax.lax.psum(energy_and_forces(p, b)[0].sum(), AXIS),
            (params["physnet"], batch),
            (whole, divided),
            whole,
        ),
        "PhysNet: gradient of the loss of both": (
            gradient_of(physnet_loss),
            (params["physnet"], batch),
            (whole, divided),
            whole,
        ),
        "DCMNet: gradient": (gradient_of(dcmnet_loss), (params["dcmnet"], batch), (whole, divided), whole),
        "ESP: gradient": (jax.grad(esp_loss), (charges, batch), (divided, divided), divided),
        "all of them, joined, summed over devices": (all_networks, (vector, batch), (whole, divided), whole),
        "optimizer and average": (update, (vector, moments), (whole, whole), whole),
        "input: gathering on the device": (
            lambda d, r: take_molecules(d, r[0]),
            (data, rows),
            (whole, PartitionSpec(None, AXIS)),
            divided,
        ),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, (function, arguments, inputs, outputs) in functions.items():
        mapped = jax.shard_map(function, mesh=devices.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        compiled = jax.jit(mapped, compiler_options=compiler_options(devices.platform))
        calls[name] = lambda compiled=compiled, arguments=arguments: compiled(*arguments)  # type: ignore[misc]
    block = in_blocks(loader.plan(0), loader.block_length)[0]
    streamed = "input: reading and transfer, if streamed"
    calls[streamed] = lambda: devices.place_block(loader.read_block(block, len(block.plans)), loader.places)
    molecules = {streamed: sum(len(plan.rows) for plan in block.plans)}
    for call in calls.values():
        jax.block_until_ready(call())

    def one_round() -> dict[str, Any]:
        times = {}
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(20):
                jax.block_until_ready(call())
            times[name] = (time.perf_counter() - start) / 20 / molecules.get(name, config.batch_size)
        return times

    return {}, one_round


def main() -> None:
    """Prepare the arm that the argument describes, then answer every line of input with a round."""
    wanted = json.loads(sys.argv[1])
    config = replace(TrainConfig(), **wanted["settings"])
    start_devices(config)
    arm = wanted["arm"]
    if arm == "reference":
        prepared, one_round = reference(config, wanted["molecules"], wanted["pad_edges"])
    elif arm == "matmul":
        prepared, one_round = matmul(wanted["size"])
    elif arm == "parts":
        prepared, one_round = parts(config)
    else:
        prepared, one_round = ours(config, wanted["molecules"])
    device = jax.devices()[0]
    print(json.dumps({**prepared, "platform": device.platform, "kind": device.device_kind}), flush=True)
    for _ in sys.stdin:
        figures = one_round()
        figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()

"""What a training step asks of a device, and what the device gives: operations, bytes, kernels, and its rates."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import TrainConfig
from train.data.loader import Loader
from train.step.compiled_steps import Steps
from train.step.devices import AXIS, Devices
from train.step.train_step import build_functions

Record = dict[str, Any]


def processor() -> Devices:
    """One device of the processor."""
    return Devices(jax.sharding.Mesh(np.array(jax.local_devices(backend="cpu")[:1]), (AXIS,)))


def rates_here() -> Record:
    """Rates of this device: matrix products, copies, and launches of operations that do nothing else."""
    size = 4096 if jax.default_backend() != "cpu" else 1024
    square = jax.random.normal(jax.random.key(0), (size, size))
    long = jnp.zeros(1 << (28 if jax.default_backend() != "cpu" else 24))
    # Each turn sorts a few numbers: nothing that the compiler could join with its neighbours.
    numbers = jnp.arange(8.0)
    turns = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, lambda _, x: jnp.sort(x) * 1.0001, x)).lower(numbers).compile()
    launches = 1000 * max(1, count_operations(turns.as_text()))
    seconds = {
        "product": median_seconds(jax.jit(lambda x: x @ x), square),
        "copy": median_seconds(jax.jit(lambda x: x + 1.0), long),
        "launch": median_seconds(turns, numbers) / launches,
    }
    return {
        "gflop_per_second": 2 * size**3 / seconds["product"] / 1e9,
        "gb_per_second": 2 * long.nbytes / seconds["copy"] / 1e9,
        "microseconds_per_launch": 1e6 * seconds["launch"],
    }


def median_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds of a call until its results are there, once it is compiled."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def profile(one_round: Callable[[], Any], steps: int) -> Record | None:
    """Return what the device did in a round of so many steps by JAX's profiler, or None: not on a processor.

    XLA does not launch its command buffers (CUDA graphs) as such while it is profiled, so that what counts is the time
    in which any kernel ran.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            one_round()
        found = [jax.profiler.ProfileData.from_file(str(path)) for path in Path(folder).rglob("*.xplane.pb")]
    lines = [
        line for data in found for plane in data.planes if plane.name.startswith("/device:") for line in plane.lines
    ]
    kernels = [event for line in lines if line.name.startswith("Stream") for event in line.events]
    if not kernels:
        return None
    spans = np.array(sorted((event.start_ns, event.start_ns + event.duration_ns) for event in kernels))
    before = np.maximum.accumulate(np.concatenate([spans[:1, 0], spans[:-1, 1]]))
    busy = np.maximum(0.0, spans[:, 1] - np.maximum(spans[:, 0], before)).sum()
    nanoseconds, number = Counter[str](), Counter(event.name for event in kernels)
    for event in kernels:
        nanoseconds[event.name] += event.duration_ns
    return {
        "kernels_per_step": len(kernels) / steps,
        "busy_milliseconds_per_step": busy / 1e6 / steps,
        "whole_milliseconds_per_step": (spans[:, 1].max() - spans[0, 0]) / 1e6 / steps,
        "longest": [
            {
                "kernel": name,
                "share": spent / busy,
                "microseconds": spent / number[name] / 1e3,
                "per_step": number[name] / steps,
            }
            for name, spent in nanoseconds.most_common(40)
        ],
    }


def count_flops(config: TrainConfig, steps: Steps, loader: Loader) -> float:
    """Return the operations of each device for the gradient of a batch, before the compiler puts it into libraries."""
    # Of its own molecules all at once: of chunks, a loop, XLA counts one turn.
    # For the processor: of a program that is only lowered, CUDA's backend counts nothing.
    devices = processor()
    functions = build_functions(replace(config, chunk_size=loader.places), devices, steps.parameters)
    vector = devices.place(np.zeros(steps.parameters.size, np.float32))
    flops = []
    for plan in {plan.bucket: plan for plan in loader.plan()}.values():
        batch = devices.place_batch(loader.read(plan), loader.places)
        flops.append(jax.jit(functions["gradient"]).lower(vector, batch).cost_analysis()["flops"])
    return float(np.mean(flops)) / steps.devices.count


def count_operations(compiled: str) -> int:
    """Return how many operations of a compiled program do work of their own: fusions, products, calls, sorts."""
    inside = set(re.findall(r"\b(?:calls|to_apply)=%?([\w.-]+)", compiled))
    kinds = "fusion|dot|custom-call|sort|scatter|reduce|all-reduce|copy|convolution|reduce-window"
    working = re.compile(rf"= (?:\([^=]*?\)|\S+) (?:{kinds})\(")
    number = 0
    for block in re.split(r"(?m)^(?=(?:ENTRY )?%?[\w.-]+ [^\n]*\{$)", compiled):
        name = re.match(r"(?:ENTRY )?%?([\w.-]+)", block)
        if name is None or name[1] not in inside:
            number += len(working.findall(block))
    return number


def count_bytes(executable: Any) -> float:
    """Return the bytes of a step by XLA's count, less its arguments: each gather counts as reading all of them."""
    counted: float = executable.cost_analysis().get("bytes accessed", 0.0)
    return max(0.0, counted - executable.memory_analysis().argument_size_in_bytes)


def say_profile(profiled: Record) -> str:
    """Lines on what :func:`profile` found."""
    first = (
        f"  profile: {profiled['kernels_per_step']:.0f} kernels a step, at work for "
        f"{profiled['busy_milliseconds_per_step']:.3g} ms of the {profiled['whole_milliseconds_per_step']:.3g} ms "
        "that a profiled step takes; the longest:"
    )
    rows = [
        f"  {100 * row['share']:5.1f} % {row['per_step']:6.1f} x {row['microseconds']:7.1f} µs  {row['kernel']}"
        for row in profiled["longest"][:12]
    ]
    return "\n".join([first, *rows])

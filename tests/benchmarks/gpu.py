"""``make bench-gpu``: what this project does on the accelerator here, in some minutes and without a network.

Right first: gradients against those of the processor, padding, a state that goes to the host and back, and what less
precise matrix products change. Then speed, with three floors beside each time: of the launches (operations of a step
times the time of an empty one), of the bytes (if none stays in a cache) and of the operations, by XLA's own counts over
rates measured here. Then seconds to an accuracy, and a trained model in use. When its minutes are over, it begins
nothing more, and writes what it has.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ase
import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from shared.drawing import save_picture
from shared.log import log
from tests import support
from tests.benchmarks.arms import Round, training, training_steps
from tests.benchmarks.device_costs import (
    Record,
    count_bytes,
    count_flops,
    count_operations,
    median_seconds,
    processor,
    profile,
    rates_here,
    say_profile,
)
from tests.benchmarks.runs import read_metrics, table
from tests.benchmarks.time_to_accuracy import first_reached
from train.config import TrainConfig
from train.data.batch import Batch, map_arrays
from train.data.dataset import open_cache
from train.data.loader import Loader
from train.inference.predictor import Predictor
from train.model.joint import build_model
from train.run import loop
from train.run.session import split_loader
from train.step.compiled_steps import Steps
from train.step.devices import Devices, all_devices, start_devices
from train.step.metrics import zero_sums
from train.step.start import start_jax


@dataclass(frozen=True)
class GpuConfig:
    """What to measure."""

    parts: tuple[Literal["numbers", "co2", "accuracy", "mixed"], ...] = ("numbers", "co2", "accuracy", "mixed")
    """What to do, in this order: right numbers, speed on a set, time to accuracy with the trained model in use."""

    batch_sizes: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """Batch sizes of both sets."""

    streamed: int = 256
    """Batch size of a further arm, whose data are streamed (0 = none)."""

    profiled: int = 256
    """Batch size of which the device's kernels are counted and timed, where JAX's profiler can (0 = none)."""

    molecules: int = 8000
    """Molecules of each set, repeated from the carried sample with displaced atoms; a round trains on all of them."""

    rounds: int = 3
    """Timed rounds of each arm; the median counts."""

    esp: float = 0.1
    """ESP RMSE on CO2 (kcal/mol/e) that is trained to."""

    epochs: int = 60
    """Most epochs of that training."""

    minutes: float = 6.0
    """After these no further part begins."""

    output: str = "bench-gpu"
    """Stem of a JSON file and a picture."""


Prepared = tuple[Steps, Loader, float, Round]


def write_set(folder: Path, kind: str, molecules: int) -> Path:
    """Preprocess so many molecules of the carried sample; of repeated ones the atoms are displaced. For speed alone."""
    rng, settings = np.random.default_rng(0), {}
    for split, count in (("train", molecules), ("valid", 64), ("test", 64)):
        size = 240 if kind == "co2" else 300
        efd, esp = support.read_sample(kind, "train", np.arange(count) % size)
        efd["R"] = esp["R"] = efd["R"] + rng.normal(scale=1e-3, size=efd["R"].shape)
        pair = support.write_pair(folder / kind, split, efd, esp)
        settings |= {f"{split}_{name}": (str(path),) for name, path in zip(("efd", "esp"), pair, strict=True)}
    support.run_preprocess(settings, folder / f"{kind}-cache", min_bucket_size=128)
    return folder / f"{kind}-cache"


def first_batch(config: TrainConfig, devices: Devices) -> Batch:
    """The first batch of the largest bucket of the training split, on the host."""
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    loader = split_loader(cache, "train", config, devices)
    loader.buckets = [max(loader.buckets, key=len)]
    return loader.read(loader.plan(0)[0])


def pool() -> ThreadPoolExecutor:
    """Return threads that compile beside each other; one, on a processor: steps and tracing may wait for each other."""
    return ThreadPoolExecutor(1 if jax.default_backend() == "cpu" else 8)


def check_numbers(config: TrainConfig) -> Record:
    """Compare with the processor, with padding, through the host, and in less precise products."""
    devices, one = all_devices(), processor()
    batch = first_batch(config, devices)
    steps = Steps(config, 10, devices)
    vector = np.asarray(steps.create_state(0).params)
    params, model = steps.parameters.to_host(vector), build_model(config)
    wider = map_arrays(lambda array: np.concatenate([array, np.zeros_like(array[:3])]), batch)

    def gradient(on: Devices) -> np.ndarray:
        given = on.place_batch(batch, on.padded(config.batch_size))
        return np.asarray(Steps(config, 10, on).gradient(on.place(vector), given)[0])

    def predict(on: Devices, precision: str, given: Batch) -> Any:
        device = on.mesh.devices.flat[0]
        with jax.default_matmul_precision(precision):
            return jax.device_get(jax.jit(model.apply)(*jax.device_put((params, given), device)))

    def two_steps(between: Callable[[Any], Any]) -> np.ndarray:
        state, sums = steps.create_state(0), devices.place(zero_sums())
        state, sums, _ = steps.train(state, sums, devices.place_batch(batch, config.batch_size))
        state, sums, _ = steps.train(between(state), sums, devices.place_batch(batch, config.batch_size))
        return np.asarray(state.params)

    def repeated() -> tuple[np.ndarray, ...]:
        # Some devices add in an order that changes: the same steps once more are the measure.
        through = two_steps(lambda state: devices.place(jax.device_get(state)))
        return through, two_steps(lambda state: state), two_steps(lambda state: state)

    with pool() as compilers:
        slopes = compilers.submit(gradient, devices), compilers.submit(gradient, one)
        expected = compilers.submit(predict, one, "float32", batch)
        predicted = {name: compilers.submit(predict, devices, name, batch) for name in ("float32", "tensorfloat32")}
        padded = compilers.submit(predict, devices, "float32", wider)
        trained = compilers.submit(repeated)

    found: Record = {"gradient beside the processor's, relative": _relative(slopes[0].result(), slopes[1].result())}
    atoms, points, right = batch.atomic_numbers > 0, batch.esp_mask, expected.result()
    for name, future in predicted.items():
        forces, esp = future.result().forces, future.result().esp
        found[f"forces in {name} beside the processor's, meV/Å"] = _mean(forces[atoms], right.forces[atoms], 1e3)
        found[f"ESP in {name}, kcal/mol/e"] = _mean(esp[points], right.esp[points], 627.509)
    plain = predicted["float32"].result().forces
    found["forces with padding, meV/Å"] = _mean(padded.result().forces[: len(atoms)][atoms], plain[atoms], 1e3)
    through, once, again = trained.result()
    found["parameters that differ after a way through the host"] = int((through != once).sum())
    found["parameters that differ if just repeated"] = int((again != once).sum())
    return found


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _mean(found: Any, expected: Any, factor: float) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(expected)).mean() * factor)


def measure_arm(label: str, config: TrainConfig, bench: GpuConfig, rates: Record, prepared: Prepared) -> Record:
    """Train some rounds at one batch size, and say what would bound it."""
    steps, loader, compiling, one_round = prepared
    one_round()
    times = [figures["seconds"] / figures["molecules"] for figures in (one_round() for _ in range(bench.rounds))]
    profiled = None
    if config.batch_size == bench.profiled:
        profiled = profile(one_round, -(-bench.molecules // config.batch_size))
    seconds, batches, compiled = statistics.median(times), 8000 / config.batch_size, training_steps(steps)
    operations = statistics.mean(count_operations(executable.as_text()) for executable in compiled)
    bytes_used = statistics.mean(map(count_bytes, compiled))
    return {
        "arm": label,
        "batch_size": config.batch_size,
        "seconds_per_8000": 8000 * seconds,
        "molecules_per_second": 1.0 / seconds,
        "seconds_to_compile": compiling,
        "operations_per_step": operations,
        "floor_launches_s": batches * operations * rates["microseconds_per_launch"] * 1e-6,
        "floor_bytes_s": batches * bytes_used / rates["gb_per_second"] / 1e9,
        "floor_flops_s": batches * count_flops(config, steps, loader) / rates["gflop_per_second"] / 1e9,
        "temporary_mib": statistics.mean(made.memory_analysis().temp_size_in_bytes for made in compiled) / 2**20,
        "profile": profiled,
    }


def train_to(config: GpuConfig, folder: Path) -> Record:
    """Train the carried CO2 until its ESP is good enough; ``folder/runs/joint`` is used afterwards."""
    settings: Record = {}
    for split in ("train", "valid", "test"):
        for name in ("efd", "esp"):
            settings[f"{split}_{name}"] = (str(support.SAMPLE / f"co2-{name}-{split}.npz"),)
    support.run_preprocess(settings, folder / "sample")
    training = TrainConfig(
        cache_dir=str(folder / "sample"),
        runs_dir=str(folder / "runs"),
        epochs=config.epochs,
        limits="off",
        plot_results=False,
    )
    start = time.perf_counter()
    run = loop.train(training)
    whole = time.perf_counter() - start
    records = read_metrics(run)
    reached = first_reached(records, config.esp, forces=float("inf"))
    until = records[: records.index(reached) + 1] if reached else []
    return {
        "epochs": config.epochs,
        "seconds_with_compiling": whole,
        "epoch_reached": reached["epoch"] if reached else None,
        "seconds_of_training_until_reached": sum(record["seconds"] for record in until) or None,
    }


def use(run: Path) -> Record:
    """Rates of the trained model: energies and forces in batches, and one by one."""
    predictor = Predictor(run)
    efd, _ = support.read_sample("co2", "test", np.arange(1))
    images = [ase.Atoms(efd["Z"][0][: efd["N"][0]], efd["R"][0][: efd["N"][0]]) for _ in range(4096)]
    rng = np.random.default_rng(0)
    for image in images:
        image.positions += 0.005 * rng.normal(size=image.positions.shape)
    together = median_seconds(lambda: predictor.predict(images))
    one_by_one = median_seconds(lambda: [predictor.predict([image]) for image in images[:32]])
    return {"in_batches_per_second": len(images) / together, "one_by_one_per_second": 32 / one_by_one}


def measure(config: GpuConfig, folder: Path, record: Record) -> Iterator[str]:
    """Measure one part after another, into ``record``, and yield what to print of each."""
    for part in config.parts:
        if part == "numbers":
            cache = write_set(folder / "numbers", "co2", 64)
            record["numbers"] = check_numbers(TrainConfig(cache_dir=str(cache), batch_size=16))
            yield "\n".join(f"  {name:<52}{value:>12.3g}" for name, value in record["numbers"].items())
        elif part == "accuracy":
            record["time_to_accuracy"] = train_to(config, folder)
            yield f"  {record['time_to_accuracy']}"
            record["use"] = use(folder / "runs" / "joint")
            yield f"  {record['use']}"
        else:
            yield from measure_set(part, config, folder, record)


_COLUMNS = {
    "arm": "arm",
    "seconds_per_8000": "s / 8,000",
    "molecules_per_second": "molecules/s",
    "seconds_to_compile": "compile beside the others, s",
    "operations_per_step": "operations",
    "floor_launches_s": "floor: launches, s",
    "floor_bytes_s": "bytes, s",
    "floor_flops_s": "flops, s",
}


def measure_set(kind: str, config: GpuConfig, folder: Path, record: Record) -> Iterator[str]:
    """Measure all batch sizes on one set."""
    if "rates" not in record:
        record["rates"] = rates_here()
        yield "  " + ", ".join(f"{name} {value:.3g}" for name, value in record["rates"].items())
        yield table(list(_COLUMNS.values()), [])
    cache = write_set(folder, kind, config.molecules)
    arms = [(size, "auto") for size in config.batch_sizes]
    arms += [(config.streamed, "stream")] if config.streamed and kind == "co2" else []
    labels = [f"{kind}, {size}" + (", streamed" if placement == "stream" else "") for size, placement in arms]
    settings = [TrainConfig(cache_dir=str(cache), batch_size=size, data_placement=where) for size, where in arms]  # type: ignore[arg-type]
    with pool() as compilers:
        prepared = [compilers.submit(training, arm, config.molecules) for arm in settings]
    for label, setting, ready in zip(labels, settings, prepared, strict=True):
        arm = measure_arm(label, setting, config, record["rates"], ready.result())
        record.setdefault("arms", []).append(arm)
        cells = [arm[name] for name in _COLUMNS]
        yield "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:,.3g}" for cell in cells) + " |"
        if arm["profile"]:
            yield say_profile(arm["profile"])


def draw(record: Record) -> Figure:
    """Draw molecules per second against the batch size, and what the floors would allow."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("co2", "mixed"), strict=True):
        arms = [arm for arm in record["arms"] if arm["arm"].startswith(kind) and "streamed" not in arm["arm"]]
        arms.sort(key=lambda arm: arm["batch_size"])
        sizes = [arm["batch_size"] for arm in arms]
        axes.plot(sizes, [arm["molecules_per_second"] for arm in arms], "o-", label="measured")
        for name, said in (("launches", "launches"), ("bytes", "bytes, none cached"), ("flops", "operations")):
            bound = [8000 / (arm[f"floor_{name}_s"] or np.nan) for arm in arms]
            axes.plot(sizes, bound, "--", label=f"bound by {said}")
        axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="molecules per second", title=kind)
        axes.grid(alpha=0.3, which="both")
    panels[0].legend()
    figure.suptitle(record["device"], fontsize=9)
    return figure


def main() -> None:
    """Measure, print, and write."""
    config = tyro.cli(GpuConfig, description=__doc__)
    log.setLevel(logging.WARNING)
    start_jax(find_devices=False)
    start_devices(TrainConfig())
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0) / 2**30
    memory = f", {limit:.0f} GiB" if limit else ""
    record: Record = {
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform}{memory}), jax {jax.__version__}"
    }
    print(record["device"], flush=True)
    end = time.monotonic() + 60.0 * config.minutes
    with tempfile.TemporaryDirectory() as folder:
        # For the seconds to compile to be those of a first start.
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "programs"))
        for said in measure(config, Path(folder), record):
            print(said, flush=True)
            if time.monotonic() > end:
                print(f"the {config.minutes:g} minutes are over; what is missing was not begun")
                break
    Path(config.output).with_suffix(".json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    if record.get("arms"):
        save_picture(Path(config.output).with_suffix(".png"), lambda: draw(record))


if __name__ == "__main__":
    main()

"""Where the time of a training step goes on a processor: its operations by network and kind, from XLA's own profile.

The operations of all devices are added, so that they take several times the seconds on the clock. Being looked at, they
take longer than else.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from tests.benchmarks.arms import training, training_steps
from tests.benchmarks.runs import table
from train.config import TrainConfig
from train.step.devices import start_devices


@dataclass(frozen=True)
class ProfileConfig:
    """What to look at."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    batch_size: int = 16
    """Molecules in a step."""

    molecules: int = 1000
    """Molecules that are profiled."""

    host_devices: int = 0
    """Devices that the processor is divided into (0 = as in a training)."""

    largest: int = 12
    """Rows of the second table, of single shapes."""


def kinds_of(program: str) -> dict[str, tuple[str, str, str]]:
    """Return network, kind and shape of the operations of a compiled program, by their names."""
    found = {}
    for line in program.splitlines():
        operation = re.match(r"\s*(?:ROOT )?%([\w.-]+) = ([^{ ]+)\S* [\w-]+\(", line)
        if operation is None:
            continue
        name, shape = operation.groups()
        origin = re.search(r'op_name="([^"]*)"', line)
        source = origin[1] if origin else ""
        network = next((network for network in ("PhysNet", "DCMNet") if network in source), "others")
        product = name.startswith("dot") or ("ynn_fusion" in name and "dot_general" in source)
        found[name] = (network, "matrix products" if product else "others", shape)
    return found


def durations(folder: Path) -> dict[str, tuple[float, int]]:
    """Return seconds and number of the events of a trace, by their names."""
    (path,) = folder.rglob("*.trace.json.gz")
    seconds: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        if event.get("ph") == "X":
            seconds[event["name"]] += 1e-6 * event["dur"]
            number[event["name"]] += 1
    return {name: (seconds[name], number[name]) for name in seconds}


def main() -> None:
    """Profile some steps and print two tables."""
    config = tyro.cli(ProfileConfig, description=__doc__)
    settings = TrainConfig(cache_dir=config.cache_dir, batch_size=config.batch_size, host_devices=config.host_devices)
    start_devices(settings)
    steps, _, _, one_round = training(settings, config.molecules)
    one_round()
    undisturbed = one_round()
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder, profiler_options=options)
        figures = one_round()
        jax.profiler.stop_trace()
        spent = durations(Path(folder))
    kinds: dict[str, tuple[str, str, str]] = {}
    for program in training_steps(steps):
        # Names of several programs may be the same: then the first one's kind is taken for both.
        kinds = kinds_of(program.as_text()) | kinds
    groups: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0])
    for name, (seconds, number) in spent.items():
        if name in kinds:
            for group in (kinds[name][:2], kinds[name]):
                groups[group] = [groups[group][0] + seconds, groups[group][1] + number]
    per_molecule = 1e6 / figures["molecules"]

    def rows(length: int) -> list[list[str]]:
        chosen = sorted((item for item in groups.items() if len(item[0]) == length), key=lambda item: -item[1][0])
        steps_taken = figures["molecules"] / config.batch_size
        return [
            [*group, f"{seconds * per_molecule:.0f}", f"{number / steps_taken:.0f}", f"{1e6 * seconds / number:.1f}"]
            for group, (seconds, number) in chosen
        ]

    wall = undisturbed["seconds"] / undisturbed["molecules"]
    print(f"{1e6 * wall:.0f} µs for a molecule by the clock, {figures['seconds'] * per_molecule:.0f} while looked at;")
    print(f"{steps.devices.count} devices; their operations, added:")
    titles = ["µs per molecule", "in a step", "µs each"]
    print(table(["network", "kind", *titles], rows(2)))
    print(table(["network", "kind", "shape", *titles], rows(3)[: config.largest]))


if __name__ == "__main__":
    main()

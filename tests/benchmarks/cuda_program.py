"""What the training step is for a CUDA GPU, compiled without one: kernels to launch, matrix products, memory.

XLA's CUDA plugin compiles for a card that it is only told about. It needs no driver, but the packages of the extra
``cuda``. Nothing is tuned for the card by trying, nothing runs, and so nothing here is a time.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shared.buckets import BucketShape, EdgeShape, FrameShape
from tests.benchmarks.device_costs import count_operations
from tests.benchmarks.runs import table
from train.config import TrainConfig
from train.data.batch import empty_batch
from train.step.devices import AXIS, Devices
from train.step.metrics import zero_sums
from train.step.optimizer import build_optimizer, new_state, schedule
from train.step.train_step import build_functions, parameter_vector

CARD = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 8 }
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""Public data of the card, as XLA asks for them (its GpuTargetConfigProto)."""

SHAPES = {
    "CO2": BucketShape(FrameShape(3, 464), EdgeShape(6, 6)),
    "12 atoms": BucketShape(FrameShape(12, 936), EdgeShape(132, 132)),
}


@dataclass(frozen=True)
class ProgramConfig:
    """What to compile."""

    batch_sizes: tuple[int, ...] = (16, 256)
    """Batch sizes."""

    molecules: int = 4700
    """Molecules of the training split, which lie on the device."""


def compile_step(devices: Devices, shape: BucketShape, batch_size: int, molecules: int) -> Any:
    """Return the compiled program of training steps on data that lie on the device."""
    config = TrainConfig(batch_size=batch_size)
    parameters = parameter_vector(config)
    optimizer = build_optimizer(config, parameters.networks)

    def placed(tree: Any, *axes: str | None) -> Any:
        sharding = NamedSharding(devices.mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = jax.eval_shape(lambda: new_state(jnp.zeros(parameters.size), optimizer))
    rows, bound = jax.ShapeDtypeStruct((64, batch_size), np.int32), jax.ShapeDtypeStruct((), np.int32)
    arguments = (
        *placed((state, jax.eval_shape(zero_sums), empty_batch(shape, molecules))),
        placed(rows, None, AXIS),
        *placed((bound, bound, schedule(config, 100))),
    )
    function = build_functions(config, devices, parameters)["train_resident"]
    lowered = jax.jit(function, donate_argnums=(0, 1)).lower(*arguments)
    # There is no card on which kernels could be tried.
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0})


def main() -> None:
    """Print a table."""
    config = tyro.cli(ProgramConfig, description=__doc__)
    # Else the driver is asked for its version.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    card = topologies.get_topology_desc("card", platform="cuda", topology="1x1x1", target_config=CARD)
    devices = Devices(Mesh(np.array(card.devices[:1]), (AXIS,)))
    rows = []
    for name, shape in SHAPES.items():
        for batch_size in config.batch_sizes:
            start = time.perf_counter()
            compiled = compile_step(devices, shape, batch_size, config.molecules)
            seconds, text = time.perf_counter() - start, compiled.as_text()
            kinds = Counter(re.findall(r" fusion\(.*?kind=k(\w+)", text))
            memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
            counts = (count_operations(text), kinds["Custom"], kinds["Loop"], kinds["Input"])
            rows.append([name, str(batch_size), *map(str, counts), f"{memory:.0f}", f"{seconds:.0f}"])
    print(f"jax {jax.__version__}, for {card.devices[0].device_kind}")
    titles = ["molecules", "batch size", "kernels in a step", "matrix products", "loops", "reductions and scatters"]
    print(table([*titles, "MiB beside the arguments", "s to compile"], rows))


if __name__ == "__main__":
    main()

"""Fixtures that several tests share: one small preprocessed cache, one small initialised model."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from threadpoolctl import threadpool_limits

from tests import support
from train.config import TrainConfig
from train.model.kept_programs import remove_oldest
from train.step.devices import start_devices

# Before JAX starts its devices. Compiling takes longer than running here: a quarter of the work with these.
FLAGS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # XLA ends a program for a flag that it does not know
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

# Looking for cycles among the many objects of traces takes longer than it is worth; after each file it is done once.
gc.disable()

# Each worker has a core: threads of the BLAS would wait for each other longer than small products take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of libraries that are loaded later, and of other processes
threadpool_limits(1, user_api="blas")


@pytest.fixture(scope="session", autouse=True)
def compilations(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs are compiled once for all tests and for the processes that they start, and kept for the next session."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        kept = getattr(pytestconfig, "cache", None)
        folder = str(kept.mkdir("programs") if kept else tmp_path_factory.mktemp("programs"))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        remove_oldest(Path(folder), 1 << 30)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    # As every program does: what is traced and compiled before one first runs here serves after it too.
    start_devices(TrainConfig(host_devices=1))


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """What a file's tests compiled goes with them: of all of them it would be 5 GiB a worker."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 20 training, 10 validation and 10 test molecules (CO2 and mixed) in two buckets. Read only."""
    folder = tmp_path_factory.mktemp("small")
    settings = support.write_splits(folder / "input")
    support.run_preprocess(settings, folder / "cache", max_buckets=2)
    return folder / "cache"

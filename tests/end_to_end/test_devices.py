"""The global batch decides the result, not the number of devices or processes that share it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import support
from tests.end_to_end.processes import Run

TERMS = {"quadrupole_weight": 1.0, "point_charge_esp_weight": 100.0, "charge_weight": 1.0, "dipole_source": "both"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bucket: each process compiles for itself. Some molecules lack some targets."""
    folder = tmp_path_factory.mktemp("data")
    support.run_preprocess(
        support.write_splits(folder / "input", train=8, valid=3, quadrupoles=True), folder / "cache", max_buckets=1
    )
    lacking = {"energy": range(3), "forces": range(2, 6), "dipole": range(5, 9), "quadrupole": range(7, 12)}
    support.remove_targets(folder / "cache", "train", **lacking, esp=range(8, 14))
    lacking = {"energy": [0], "forces": [3, 4], "dipole": [2], "quadrupole": [0, 2]}
    support.remove_targets(folder / "cache", "valid", **lacking, esp=[1, 5])
    return folder / "cache"


@pytest.fixture(scope="module")
def one_device(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(cache, tmp_path_factory.mktemp("one"), "one", epochs=3, host_devices=1, **TERMS)
    assert "1 cpu device(s)" in run.finish()
    return run


def same(found: list[dict[str, dict[str, float]]], expected: list[dict[str, dict[str, float]]]) -> None:
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        for split in ("train", "valid"):
            # Exact monopoles differ by nothing but rounding.
            assert a[split] == pytest.approx(b[split], rel=1e-5, abs=1e-7)


def test_two_devices_and_then_one(one_device: Run, cache: Path, tmp_path: Path) -> None:
    """Batches of 6 among 2 devices, in chunks of 2; the checkpoint of the second epoch is continued on one device."""
    two = Run(cache, tmp_path, "two", epochs=2, host_devices=2, chunk_size=2, **TERMS)
    assert "2 cpu device(s)" in two.finish()
    # By the program of the other run, which was kept.
    continued = Run(cache, tmp_path, "two", epochs=3, host_devices=1, **TERMS)
    assert "continuing after epoch 2" in continued.finish()
    same(continued.metrics(), one_device.metrics())


@pytest.mark.slow
def test_an_ensemble_on_two_devices(cache: Path, tmp_path: Path) -> None:
    """They exchange the gradients of one member after another."""
    runs = [
        Run(cache, tmp_path / str(devices), "both", epochs=3, host_devices=devices, members=2, optimized=True)
        for devices in (1, 2)
    ]
    for run in runs:
        run.finish()
    same(runs[1].metrics(), runs[0].metrics())
    assert sorted(path.name for path in (runs[1].folder / "best").iterdir()) == ["member-0", "member-1"]


def free_address() -> str:
    """HOST:PORT of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
def test_two_processes(one_device: Run, cache: Path, tmp_path: Path) -> None:
    shared = {"epochs": 3, "host_devices": 1, "coordinator": free_address(), "processes": 2, **TERMS}
    first, second = (Run(cache, tmp_path, "both", process_id=i, **shared) for i in (0, 1))
    assert "2 cpu device(s)" in first.finish()
    # Only the first process speaks.
    assert "epoch" not in second.finish()
    same(first.metrics(), one_device.metrics())
    assert (first.folder / "evaluation-valid.json").exists()


def test_all_processes_take_the_first_one_s_data() -> None:
    """Between two of them, another preprocessing may have ended."""
    program = """
import sys
from train.config import TrainConfig
from train.step.devices import digest_of_first, start_devices
address, process, digest = sys.argv[1:]
start_devices(TrainConfig(coordinator=address, processes=2, process_id=int(process), host_devices=1))
print(digest_of_first(digest))
"""
    address, digests = free_address(), ("0123456789abcdef" * 2, "f" * 16)
    commands = ([sys.executable, "-c", program, address, str(i), digest] for i, digest in enumerate(digests))
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [process.communicate(timeout=200)[0] for process in both]
    assert [lines.splitlines()[-1] for lines in printed] == ["0123456789abcdef"] * 2, printed


def test_contradicting_processes(cache: Path, tmp_path: Path) -> None:
    run = Run(cache, tmp_path, "run", coordinator="127.0.0.1:1", processes=2, process_id=2)
    printed, _ = run.process.communicate(timeout=100)
    assert run.process.returncode == 2
    assert "--process-id from 0 to" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_operations_beside_steps_do_not_keep_them_from_beginning() -> None:
    """Of two devices on two cores, they once did for ever: after about a hundred of these steps."""
    program = """
import threading, jax, numpy as np
from jax.sharding import PartitionSpec
from train.config import TrainConfig
from train.step.devices import AXIS, all_devices, start_devices
start_devices(TrainConfig(host_devices=2))
def body(w, x):
    return jax.lax.fori_loop(0, 20, lambda _, w: w + 1e-6 * jax.lax.psum(x.T @ jax.numpy.tanh(x @ w), AXIS), w)
devices, whole = all_devices(), PartitionSpec()
step = jax.jit(
    jax.shard_map(body, mesh=devices.mesh, in_specs=(whole, PartitionSpec(AXIS)), out_specs=whole, check_vma=False)
)
rng = np.random.default_rng(0)
w = devices.place(rng.random((300, 300), np.float32))
x = jax.device_put(rng.random((64, 300), np.float32), devices.divided)
def operations():
    v = jax.numpy.arange(64)
    while True:
        jax.scipy.special.betaln(64 - v, 1 + v)
step(w, x).block_until_ready()
threading.Thread(target=operations, daemon=True).start()
for i in range(200):
    w = step(w, x)
    if i % 3 == 0:
        w.block_until_ready()
print("ended", flush=True)
import os; os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "ended\n", done.stderr


@pytest.mark.slow
def test_a_device_may_keep_the_others_waiting() -> None:
    """For longer than the 40 seconds after which XLA would end the process: a busy machine compiles for longer."""
    program = """
import time, jax, numpy as np
from jax.sharding import PartitionSpec
from train.config import TrainConfig
from train.step.devices import AXIS, all_devices, start_devices
start_devices(TrainConfig(host_devices=2))
def late(index, x):
    time.sleep(50.0 * (int(index) == 0))
    return np.asarray(x)
def body(x):
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.lax.psum(jax.pure_callback(late, like, jax.lax.axis_index(AXIS), x), AXIS)
mesh = all_devices().mesh
spec = dict(mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(), check_vma=False)
print(jax.jit(jax.shard_map(body, **spec))(np.ones(2)))
"""
    # Which the tests' own devices have got.
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout == "[2.]\n", done.stderr

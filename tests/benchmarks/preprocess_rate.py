"""Preprocessing a synthetic set of any size, against the same bytes read from NPZ and written to HDF5 without more ado.

The set lies on the disk as users' files do; its molecules are chains of a few atoms with the given number of grid
points. Arms run as processes of their own, in turn, the input dropped from the page cache before each, everything
written synced to the disk. Reported: seconds, bytes of input per second, peak memory above an interpreter that has
imported the same modules, and the rate relative to the plain copy (uncompressed) or to inflating alone (compressed).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import tyro

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RateConfig:
    """Time preprocessing, a change of cutoff, and a plain copy of the same bytes."""

    gib: float = 1.0
    """Size of the grids, GiB."""

    atoms: int = 9
    """Largest molecule; sizes are drawn between 3 and this."""

    grid: int = 1000
    """Grid points of each molecule."""

    compressed: bool = False
    """Deflate the files, and compare with inflating alone."""

    rounds: int = 2
    """Rounds that each arm takes, in turn."""

    folder: str = ""
    """Where the files go, about three times the set's size (default: a temporary folder)."""

    workers: int = 0
    """Dask workers of preprocessing."""


def rows_of(config: RateConfig) -> int:
    """Training molecules of the set."""
    return max(1, int(config.gib * 2**30 / (16 * config.grid)))


def generate(folder: Path, config: RateConfig) -> None:
    """Write the set: a training and a small validation split."""
    make_pair(folder, "train", rows_of(config), config)
    make_pair(folder, "valid", max(1, rows_of(config) // 100), config)


def make_pair(folder: Path, name: str, rows: int, config: RateConfig) -> None:
    """Write an EFD and an ESP file of random molecules, block by block."""
    rng = np.random.default_rng(rows)
    kind = zipfile.ZIP_DEFLATED if config.compressed else zipfile.ZIP_STORED
    block = min(rows, _BLOCK_ROWS)
    n = rng.integers(3, config.atoms + 1, block).astype(np.int32)
    real = np.arange(config.atoms) < n[:, None]
    positions = np.cumsum(rng.uniform(0.6, 0.9, (block, config.atoms, 3)), axis=1) * real[..., None]
    geometry = {"R": positions, "Z": np.where(real, rng.choice([1, 6, 8], real.shape), 0).astype(np.int32), "N": n}
    directions = rng.normal(size=(block, config.grid, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    blocks = {
        "efd": {
            **geometry,
            "E": -1000.0 * n + rng.normal(size=block),
            "F": rng.normal(size=positions.shape),
            "Dxyz": rng.normal(size=(block, 3)),
        },
        "esp": {
            **geometry,
            "esp": (0.01 * rng.normal(size=(block, config.grid))).astype(np.float32),
            "vdw_surface": (positions[:, :1] + 9.0 * directions).astype(np.float32),
            "n_grid": np.full(block, config.grid, np.int32),
        },
    }
    for file, arrays in blocks.items():
        path = folder / f"{name}-{file}.npz"
        with zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
            for key, values in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                    header = {"descr": values.dtype.str, "fortran_order": False, "shape": (rows, *values.shape[1:])}
                    np.lib.format.write_array_header_2_0(stream, header)  # type: ignore[arg-type]
                    for start in range(0, rows, block):
                        stream.write(values[: min(block, rows - start)].tobytes())


def forget(folder: Path) -> None:
    """Drop the files from the page cache, so that the next arm reads the disk."""
    for path in folder.glob("*.npz"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def plain_copy(folder: Path, target: Path) -> None:
    """Every member of every file read and written to HDF5 in slices, nothing in between; synced."""
    with h5py.File(target, "w") as out:
        for path in sorted(folder.glob("*.npz")):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    with archive.open(info) as stream:
                        np.lib.format.read_magic(stream)
                        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
                        dataset = out.create_dataset(f"{path.stem}-{info.filename}", shape, dtype)
                        step = max(1, (32 << 20) // (int(np.prod(shape[1:], dtype=int)) * dtype.itemsize))
                        for start in range(0, shape[0], step):
                            count = min(step, shape[0] - start) * int(np.prod(shape[1:], dtype=int))
                            values = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
                            dataset[start : start + step] = values.reshape(-1, *shape[1:])
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def inflate(folder: Path) -> None:
    """Every member of every file inflated and dropped."""
    for path in sorted(folder.glob("*.npz")):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as stream:
                    while stream.read(32 << 20):
                        pass


def child(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def breakdown(data: Path, cache: Path) -> None:
    """One run in this process, its parts timed; several threads work at once, so that parts add up to more than it."""
    from preprocess.__main__ import main as run
    from preprocess.input import reader
    from preprocess.stages import frames
    from shared import shards
    from shared.input import npz_rows

    parts = (
        (npz_rows.NpzRows, "read", "read (and inflate) members, CRC-32"),
        (reader.PairReader, "molecules", "geometry and targets, converted"),
        (frames, "pad_grids", "scale, centre, check and pad grids"),
        (shards.ShardWriter, "write", "write shards"),
        (shards.ShardWriter, "__exit__", "wait for the disk (fsync)"),
        (frames, "describe_shard", "digest of shards"),
    )
    spent = {label: 0.0 for _, _, label in parts}
    for owner, name, label in parts:
        setattr(owner, name, _timed(getattr(owner, name), label, spent))
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        run([*(f"--{p.stem}={p}" for p in sorted(data.glob("*.npz"))), "--cache-dir", str(cache), "--checks", "off"])
    print(f"in one process {time.perf_counter() - start:.2f} s; seconds of its threads:")
    for label, seconds in spent.items():
        print(f"  {label:<42}{seconds:>7.2f}")


def _timed(whole: Callable[..., object], label: str, spent: dict[str, float]) -> Callable[..., object]:
    def timed(*args: object) -> object:
        start = time.perf_counter()
        try:
            return whole(*args)
        finally:
            spent[label] += time.perf_counter() - start

    return timed


def main() -> None:
    """Run every arm in turn and print the table."""
    if len(sys.argv) > 2 and sys.argv[1] in _ARMS:
        _ARMS[sys.argv[1]](*(Path(word) for word in sys.argv[2:]))
        return
    if len(sys.argv) > 2 and sys.argv[1] == "generate":
        generate(Path(sys.argv[2]), RateConfig(**json.loads(sys.argv[3])))
        return
    config = tyro.cli(RateConfig, description=__doc__)
    root = Path(tempfile.mkdtemp(dir=config.folder or None))
    try:
        _compare(config, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


_ARMS: dict[str, Callable[..., None]] = {"copy": plain_copy, "inflate": inflate, "breakdown": breakdown}


def _compare(config: RateConfig, root: Path) -> None:
    data, cache = root / "data", root / "cache"
    data.mkdir()
    me = [sys.executable, "-m", "tests.benchmarks.preprocess_rate"]
    # By a process of its own: a child's peak memory would start from this one's.
    child([*me, "generate", str(data), json.dumps(asdict(config))])
    flags = [f"--{p.stem}={p}" for p in sorted(data.glob("*.npz"))]
    rows = rows_of(config)
    size = sum(path.stat().st_size for path in data.iterdir())
    base = "inflate" if config.compressed else "copy"
    run = [sys.executable, "-m", "preprocess", *flags, "--cache-dir", str(cache), "--checks", "off"]
    run += ["--workers", str(config.workers), "--max-buckets", "3"]
    _, idle = child([sys.executable, "-c", "import preprocess.stages.build, preprocess.stages.resumable"])
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(config.rounds):
        forget(data)
        arguments = [str(data)] if config.compressed else [str(data), str(root / "copy.h5")]
        times.setdefault(base, []).append(child([*me, base, *arguments]))
        (root / "copy.h5").unlink(missing_ok=True)
        forget(data)
        times.setdefault("preprocess", []).append(child(run))
        times.setdefault("another cutoff", []).append(child([*run, "--physnet-cutoff", "5"]))
        times.setdefault("nothing changed", []).append(child(run))
        shutil.rmtree(cache)
    forget(data)
    subprocess.run([*me, "breakdown", str(data), str(cache)], check=True)
    medians = {name: statistics.median(seconds for seconds, _ in values) for name, values in times.items()}
    kind = "compressed" if config.compressed else "not compressed"
    print(f"{rows:,} molecules, {config.grid} grid points, {size / 2**30:.2f} GiB of input, {kind}")
    print(f"{'arm':<18}{'seconds':>9}{'MB/s':>9}{'ratio':>8}{'peak MiB above the interpreter':>34}")
    rows_out = []
    for name, seconds in medians.items():
        peak = max(memory for _, memory in times[name]) - idle
        ratio = medians[base] / seconds
        print(f"{name:<18}{seconds:>9.2f}{size / seconds / 1e6:>9.0f}{ratio:>8.2f}{peak:>34.0f}")
        rows_out.append({"arm": name, "seconds": seconds, "ratio": ratio, "peak_mib": peak})
    print(f"another cutoff takes {medians['another cutoff'] / medians['preprocess']:.1%} of a full run")
    print(json.dumps(rows_out))


if __name__ == "__main__":
    main()

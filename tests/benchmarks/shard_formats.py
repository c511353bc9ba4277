"""Why shards are contiguous and not compressed: size, writing rate and the loader's reading rate of the alternatives.

Grids and ESP of the largest training bucket of a preprocessed cache, repeated, are written in every format and read as
the training loader reads: shuffled batches of rows. Reading is from the page cache, formats take turns, medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import tyro

from shared.shards import map_shard, write_shard
from train.data.dataset import open_cache


@dataclass(frozen=True)
class FormatConfig:
    """Compare layouts and codecs."""

    cache_dir: str = "data_cache"
    physnet_cutoff: float = 6.0
    dcmnet_cutoff: float = 10.0
    molecules: int = 8000
    batch_size: int = 32
    rounds: int = 3


CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf, shuffle": {"compression": "lzf", "shuffle": True},
    "gzip 1, shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "blosc lz4, shuffle": dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)),
    "blosc2 zstd, bitshuffle": dict(hdf5plugin.Blosc2(cname="zstd", clevel=3, filters=hdf5plugin.Blosc2.BITSHUFFLE)),
    "bitshuffle lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "zstd 3": dict(hdf5plugin.Zstd(clevel=3)),
}


def write_chunked(path: Path, arrays: dict[str, np.ndarray], rows: int, codec: dict[str, Any]) -> None:
    """Chunks of whole rows."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), **codec)


def read_mapped(path: Path, batches: list[np.ndarray]) -> None:
    """As the loader does."""
    arrays = map_shard(path)
    for rows in batches:
        for values in arrays.values():
            values[rows]


def read_hdf5(path: Path, batches: list[np.ndarray]) -> None:
    """Through HDF5, row by row: its own fancy indexing is slower."""
    with h5py.File(path, "r") as file:
        for rows in batches:
            for dataset in file.values():
                out = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
                for i, row in enumerate(rows):
                    dataset.read_direct(out, np.s_[row], np.s_[i])


def main() -> None:
    """Write, read in turn, print the table."""
    config = tyro.cli(FormatConfig, description=__doc__)
    cache = open_cache(Path(config.cache_dir), config.physnet_cutoff, config.dcmnet_cutoff)
    largest = max(cache.load_split("train"), key=len)
    rows = np.resize(np.arange(len(largest)), config.molecules)
    arrays = {name: np.ascontiguousarray(largest.take(name, rows)) for name in ("grid", "esp")}
    size = sum(values.nbytes for values in arrays.values())
    order = np.random.default_rng(0).permutation(config.molecules)
    batches = [np.sort(order[i : i + config.batch_size]) for i in range(0, len(order), config.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        results = []
        readers: dict[str, Callable[[], None]] = {}
        contiguous = Path(folder) / "contiguous.h5"

        def add(
            name: str, path: Path, write: Callable[[], None], read: Callable[[Path, list[np.ndarray]], None]
        ) -> None:
            start = time.perf_counter()
            write()
            seconds = time.perf_counter() - start
            results.append((name, path.stat().st_size / size, size / seconds / 1e6))
            readers[name] = lambda: read(path, batches)

        add("contiguous, mapped", contiguous, lambda: write_shard(contiguous, arrays), read_mapped)
        readers["contiguous, HDF5"] = lambda: read_hdf5(contiguous, batches)
        results.append(("contiguous, HDF5", results[0][1], results[0][2]))
        for codec, options in CODECS.items():
            for per_chunk in (1, 32):
                name = f"{codec}, chunks of {per_chunk}"
                path = Path(folder) / f"{len(results)}.h5"
                add(name, path, lambda p=path, n=per_chunk, o=options: write_chunked(p, arrays, n, o), read_hdf5)  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(config.rounds):
            for name, read in readers.items():
                start = time.perf_counter()
                read()
                times[name].append(time.perf_counter() - start)
    print(f"{config.molecules:,} molecules, {size / 1e6:.0f} MB, batches of {config.batch_size} shuffled rows")
    print(f"{'format':<40}{'size':>7}{'write MB/s':>12}{'read MB/s':>11}")
    for name, share, rate in results:
        print(f"{name:<40}{share:>7.2f}{rate:>12.0f}{size / statistics.median(times[name]) / 1e6:>11.0f}")


if __name__ == "__main__":
    main()

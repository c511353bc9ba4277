"""The edges stage: edge lists of every frame at both cutoffs, in the order of the frames' shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
from tqdm import tqdm

from shared.buckets import EdgeShape
from shared.cache import build_stage, edges_digest, shard_entries, write_manifest
from shared.edges import EdgeList, build_edges, count_edges
from shared.schema import SCHEMA_VERSION
from shared.shards import ShardEntry, create_shard, describe_shard, map_shard


def build_edge_shards(
    folder: Path,
    frames_folder: Path,
    frames: dict[str, Any],
    physnet_cutoff: float,
    dcmnet_cutoff: float,
    workers: int = 0,
) -> None:
    """Count, then list the edges of every frame; ``folder`` appears when all of it is complete.

    Args:
        folder: where the stage goes.
        frames_folder: the frames' folder.
        frames: the frames' manifest.
        physnet_cutoff: Å.
        dcmnet_cutoff: Å.
        workers: threads (0 = all cores); the result does not depend on it.
    """
    if workers:
        numba.set_num_threads(min(workers, numba.get_num_threads()))
    cutoffs = {"physnet": physnet_cutoff, "dcmnet": dcmnet_cutoff}
    sources = shard_entries(frames)
    # Every list of a bucket gets the length of its longest, over all splits: one shape, one compilation.
    longest = [dict.fromkeys(cutoffs, 0) for _ in frames["buckets"]]
    totals: dict[str, dict[str, int]] = {}
    for entry in tqdm(sources, "count edges", unit="shard", disable=None):
        positions, n_atoms = _geometry(frames_folder / entry.file)
        for network, cutoff in cutoffs.items():
            counts = count_edges(positions, n_atoms, cutoff)
            longest[entry.bucket][network] = max(longest[entry.bucket][network], int(counts.max(initial=0)))
            split = totals.setdefault(entry.split, dict.fromkeys(cutoffs, 0))
            split[network] += int(counts.sum(dtype=np.int64))
    shapes = [EdgeShape(sizes["physnet"], sizes["dcmnet"]) for sizes in longest]
    with build_stage(folder) as temporary:
        written = [
            _write_shard(temporary, frames_folder, entry, cutoffs, shapes[entry.bucket])
            for entry in tqdm(sources, "list edges", unit="shard", disable=None)
        ]
        write_manifest(
            temporary,
            {
                "schema_version": SCHEMA_VERSION,
                "stage": "edges",
                "digest": edges_digest(frames["digest"], physnet_cutoff, dcmnet_cutoff),
                "frames": frames["digest"],
                "settings": {"physnet_cutoff": float(physnet_cutoff), "dcmnet_cutoff": float(dcmnet_cutoff)},
                "units": {"physnet_cutoff": "Å", "dcmnet_cutoff": "Å"},
                "buckets": [{"physnet_edges": s.physnet_edges, "dcmnet_edges": s.dcmnet_edges} for s in shapes],
                "splits": {
                    split: {f"{network}_edges": count for network, count in counts.items()}
                    for split, counts in totals.items()
                },
                "shards": [entry.as_json() for entry in written],
            },
        )


def _geometry(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays = map_shard(path)
    return np.asarray(arrays["positions"]), (arrays["atomic_numbers"] > 0).sum(axis=1)


def _write_shard(
    folder: Path, frames_folder: Path, entry: ShardEntry, cutoffs: dict[str, float], shape: EdgeShape
) -> ShardEntry:
    positions, n_atoms = _geometry(frames_folder / entry.file)
    capacities = {"physnet": shape.physnet_edges, "dcmnet": shape.dcmnet_edges}
    lists: dict[str, EdgeList] = {
        network: build_edges(positions, n_atoms, cutoff, capacities[network]) for network, cutoff in cutoffs.items()
    }
    arrays = {
        f"{network}_{name}": values for network, edges in lists.items() for name, values in edges._asdict().items()
    }
    path = folder / entry.file
    layout = {name: (values.shape, values.dtype.str) for name, values in arrays.items()}
    with create_shard(path, layout) as shard:
        for name, values in arrays.items():
            shard[name][...] = values
    return describe_shard(path, entry.split, entry.bucket, entry.samples)

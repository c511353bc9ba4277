"""The edges stage: edge lists of every frame at both cutoffs, in the order of the frames' shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.stages.resumable import Piece, StageBuild, finish_piece
from preprocess.stages.task_runner import TaskRunner
from shared.buckets import EdgeShape
from shared.digests import settings_digest
from shared.files import atomic_path
from shared.manifest import edges_digest, shard_entries
from shared.neighbor_list import build_edges, count_edges
from shared.schema import SCHEMA_VERSION
from shared.shards import ShardEntry, describe_shard, map_shard, write_shard

_SAMPLES_PER_SHARD = 1 << 15


@dataclass(frozen=True)
class Cutoffs:
    """The cutoffs of both networks, Å."""

    physnet: float
    dcmnet: float

    def items(self) -> Iterable[tuple[str, float]]:
        """Yield the name and the cutoff of each network."""
        return (("physnet", self.physnet), ("dcmnet", self.dcmnet))


@dataclass(frozen=True)
class ShardGroup:
    """Consecutive shards of frames, of one split and bucket, whose edges are written to one shard."""

    file: str
    entries: list[ShardEntry]

    @property
    def samples(self) -> int:
        """Return the number of molecules."""
        return sum(entry.samples for entry in self.entries)

    def geometry(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (n, atoms, 3) and numbers of atoms (n,) of all molecules."""
        arrays = [map_shard(folder / entry.file, ("positions", "atomic_numbers")) for entry in self.entries]
        positions = np.concatenate([shard["positions"] for shard in arrays])
        return positions, np.concatenate([(shard["atomic_numbers"] > 0).sum(axis=1) for shard in arrays])


@dataclass(frozen=True)
class CountTask:
    """A task that counts the edges of a group's molecules."""

    folder: Path
    group: ShardGroup
    cutoffs: Cutoffs

    def __call__(self) -> dict[str, tuple[int, int]]:
        """Return the longest list and the number of edges for each network."""
        positions, n_atoms = self.group.geometry(self.folder)
        counted = {network: count_edges(positions, n_atoms, cutoff) for network, cutoff in self.cutoffs.items()}
        return {name: (int(n.max(initial=0)), int(n.sum(dtype=np.int64))) for name, n in counted.items()}


@dataclass(frozen=True)
class EdgeTask:
    """A task that writes the edge lists of a group's molecules."""

    frames_folder: Path
    folder: Path
    group: ShardGroup
    recipe: str
    cutoffs: Cutoffs
    shape: EdgeShape

    def __call__(self) -> Piece:
        """Write the shard and note that it is finished."""
        positions, n_atoms = self.group.geometry(self.frames_folder)
        capacities = (self.shape.physnet_edges, self.shape.dcmnet_edges)
        arrays: dict[str, np.ndarray] = {}
        for (network, cutoff), capacity in zip(self.cutoffs.items(), capacities, strict=True):
            edges = build_edges(positions, n_atoms, cutoff, capacity)
            arrays |= {f"{network}_{name}": values for name, values in edges._asdict().items()}
        first = self.group.entries[0]
        with atomic_path(self.folder / self.group.file, durable=False) as temporary:
            write_shard(temporary, arrays)
            described = describe_shard(temporary, first.split, first.bucket, self.group.samples)
        piece = Piece(self.recipe, [replace(described, file=self.group.file)], {})
        finish_piece(self.folder, Path(self.group.file).stem, piece)
        return piece


def write_edges(
    build: StageBuild, runner: TaskRunner[Any], frames_folder: Path, frames: dict[str, Any], cutoffs: Cutoffs
) -> None:
    """Count and list the edges of every frame, and finish the stage.

    Args:
        build: the stage to fill.
        runner: where the tasks run; the result does not depend on it.
        frames_folder: the frames' folder.
        frames: the frames' manifest.
        cutoffs: of both networks.
    """
    groups = _grouped(shard_entries(frames))
    counting = [CountTask(frames_folder, group, cutoffs) for group in groups]
    counts = runner.run(counting, "count edges", [group.samples for group in groups])
    # Every list of a bucket has the length of its longest, over all splits: one shape, one compilation.
    longest = [{"physnet_edges": 0, "dcmnet_edges": 0} for _ in frames["buckets"]]
    in_bucket = [{"physnet_edges": 0, "dcmnet_edges": 0} for _ in frames["buckets"]]
    totals: dict[str, dict[str, int]] = {}
    for group, of_group in zip(groups, counts, strict=True):
        first = group.entries[0]
        split = totals.setdefault(first.split, {"physnet_edges": 0, "dcmnet_edges": 0})
        for network, (most, total) in of_group.items():
            key = f"{network}_edges"
            longest[first.bucket][key] = max(longest[first.bucket][key], most)
            split[key] += total
            in_bucket[first.bucket][key] += total
    shapes = [EdgeShape(**sizes) for sizes in longest]
    recipes = [_recipe(group, cutoffs, shapes[group.entries[0].bucket]) for group in groups]
    pieces = {i: piece for i, recipe in enumerate(recipes) if (piece := build.take_over(recipe)) is not None}
    missing = [i for i in range(len(groups)) if i not in pieces]
    tasks = [
        EdgeTask(frames_folder, build.partial, groups[i], recipes[i], cutoffs, shapes[groups[i].entries[0].bucket])
        for i in missing
    ]
    listed = runner.run(tasks, "list edges", [task.group.samples for task in tasks])
    pieces |= dict(zip(missing, listed, strict=True))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": "edges",
        "digest": edges_digest(frames["digest"], cutoffs.physnet, cutoffs.dcmnet),
        "frames": frames["digest"],
        "settings": {"physnet_cutoff": cutoffs.physnet, "dcmnet_cutoff": cutoffs.dcmnet},
        "units": {"physnet_cutoff": "Å", "dcmnet_cutoff": "Å"},
        "buckets": longest,
        "bucket_totals": in_bucket,
        "splits": totals,
    }
    build.finish(manifest, [pieces[i] for i in range(len(groups))])


def _grouped(entries: list[ShardEntry]) -> list[ShardGroup]:
    """Group consecutive shards of one split and bucket; the file of edges is named after the first.

    Edges are small: with a file for each of the frames' shards most time would go into syncing.
    """
    groups: list[ShardGroup] = []
    for key in sorted({(entry.split, entry.bucket) for entry in entries}):
        for entry in entries:
            if (entry.split, entry.bucket) != key:
                continue
            last = groups[-1] if groups and (groups[-1].entries[0].split, groups[-1].entries[0].bucket) == key else None
            if last is None or last.samples + entry.samples > _SAMPLES_PER_SHARD:
                groups.append(ShardGroup(entry.file, [entry]))
            else:
                last.entries.append(entry)
    return groups


def _recipe(group: ShardGroup, cutoffs: Cutoffs, shape: EdgeShape) -> str:
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "frames": [[entry.file, entry.digest] for entry in group.entries],
            "cutoffs": dict(cutoffs.items()),
            "edges": [shape.physnet_edges, shape.dcmnet_edges],
        }
    )

"""The edges stage: edge lists of every frame at both cutoffs, one shard beside each of the frames' shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.engine import Engine
from preprocess.stage import Piece, StageBuild, finish_piece, new_shard
from shared.buckets import EdgeShape
from shared.cache import edges_digest, shard_entries
from shared.digests import settings_digest
from shared.edges import build_edges, count_edges
from shared.schema import SCHEMA_VERSION
from shared.shards import ShardEntry, describe_shard, map_shard, write_shard

_SAMPLES_PER_TASK = 1 << 16


@dataclass(frozen=True)
class Cutoffs:
    """Both cutoffs, Å."""

    physnet: float
    dcmnet: float

    def items(self) -> Iterable[tuple[str, float]]:
        """Network and cutoff."""
        return (("physnet", self.physnet), ("dcmnet", self.dcmnet))


@dataclass(frozen=True)
class CountTask:
    """Edges of some shards' molecules, counted."""

    folder: Path
    entries: list[ShardEntry]
    cutoffs: Cutoffs

    def __call__(self) -> list[dict[str, tuple[int, int]]]:
        """Longest list and number of edges of every shard, for each network."""
        return [self._count(entry) for entry in self.entries]

    def _count(self, entry: ShardEntry) -> dict[str, tuple[int, int]]:
        positions, n_atoms = _geometry(self.folder / entry.file)
        counted = {network: count_edges(positions, n_atoms, cutoff) for network, cutoff in self.cutoffs.items()}
        return {name: (int(n.max(initial=0)), int(n.sum(dtype=np.int64))) for name, n in counted.items()}


@dataclass(frozen=True)
class EdgeTask:
    """Edge lists of some shards' molecules, written."""

    frames_folder: Path
    folder: Path
    entries: list[ShardEntry]
    recipes: list[str]
    cutoffs: Cutoffs
    shapes: list[EdgeShape]

    def __call__(self) -> list[Piece]:
        """Write every shard and note that it is finished."""
        return [self._write(entry, recipe) for entry, recipe in zip(self.entries, self.recipes, strict=True)]

    def _write(self, entry: ShardEntry, recipe: str) -> Piece:
        positions, n_atoms = _geometry(self.frames_folder / entry.file)
        shape = self.shapes[entry.bucket]
        arrays: dict[str, np.ndarray] = {}
        for (network, cutoff), capacity in zip(
            self.cutoffs.items(), (shape.physnet_edges, shape.dcmnet_edges), strict=True
        ):
            edges = build_edges(positions, n_atoms, cutoff, capacity)
            arrays |= {f"{network}_{name}": values for name, values in edges._asdict().items()}
        with new_shard(self.folder / entry.file) as temporary:
            write_shard(temporary, arrays)
            described = describe_shard(temporary, entry.split, entry.bucket, entry.samples)
        piece = Piece(recipe, [ShardEntry(**{**described.as_json(), "file": entry.file})], {})
        finish_piece(self.folder, Path(entry.file).stem, piece)
        return piece


def write_edges(
    build: StageBuild, engine: Engine[Any], frames_folder: Path, frames: dict[str, Any], cutoffs: Cutoffs
) -> None:
    """Count, then list the edges of every frame, and finish the stage.

    Args:
        build: the stage to fill.
        engine: where the tasks run; the result does not depend on it.
        frames_folder: the frames' folder.
        frames: the frames' manifest.
        cutoffs: of both networks.
    """
    sources = shard_entries(frames)
    groups = _grouped(sources)
    sizes = [sum(entry.samples for entry in group) for group in groups]
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for index, counted in engine.run([CountTask(frames_folder, g, cutoffs) for g in groups], "count edges", sizes):
        counts |= {entry.file: count for entry, count in zip(groups[index], counted, strict=True)}
    # Every list of a bucket gets the length of its longest, over all splits: one shape, one compilation.
    longest = [{"physnet_edges": 0, "dcmnet_edges": 0} for _ in frames["buckets"]]
    totals: dict[str, dict[str, int]] = {}
    for entry in sources:
        split = totals.setdefault(entry.split, {"physnet_edges": 0, "dcmnet_edges": 0})
        for network, (most, total) in counts[entry.file].items():
            key = f"{network}_edges"
            longest[entry.bucket][key] = max(longest[entry.bucket][key], most)
            split[key] += total
    shapes = [EdgeShape(**sizes) for sizes in longest]
    recipes = {entry.file: _recipe(entry, cutoffs, shapes[entry.bucket]) for entry in sources}
    pieces = {file: piece for file, recipe in recipes.items() if (piece := build.take_over(recipe)) is not None}
    groups = _grouped([entry for entry in sources if entry.file not in pieces])
    tasks = [
        EdgeTask(frames_folder, build.partial, group, [recipes[e.file] for e in group], cutoffs, shapes)
        for group in groups
    ]
    for index, written in engine.run(tasks, "list edges", [sum(e.samples for e in g) for g in groups]):
        pieces |= {entry.file: piece for entry, piece in zip(groups[index], written, strict=True)}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": "edges",
        "digest": edges_digest(frames["digest"], cutoffs.physnet, cutoffs.dcmnet),
        "frames": frames["digest"],
        "settings": {"physnet_cutoff": cutoffs.physnet, "dcmnet_cutoff": cutoffs.dcmnet},
        "units": {"physnet_cutoff": "Å", "dcmnet_cutoff": "Å"},
        "buckets": longest,
        "splits": totals,
    }
    build.finish(manifest, [pieces[entry.file] for entry in sources])


def _geometry(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays = map_shard(path)
    return np.asarray(arrays["positions"]), (arrays["atomic_numbers"] > 0).sum(axis=1)


def _grouped(entries: list[ShardEntry]) -> list[list[ShardEntry]]:
    """Shards that make a task's worth of work together."""
    groups: list[list[ShardEntry]] = []
    room = 0
    for entry in entries:
        if not groups or entry.samples > room:
            groups.append([])
            room = _SAMPLES_PER_TASK
        groups[-1].append(entry)
        room -= entry.samples
    return groups


def _recipe(entry: ShardEntry, cutoffs: Cutoffs, shape: EdgeShape) -> str:
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "frames": [entry.file, entry.digest],
            "cutoffs": dict(cutoffs.items()),
            "edges": [shape.physnet_edges, shape.dcmnet_edges],
        }
    )

"""The summary that preprocessing prints at the end: sizes, and the share of padding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.stages.buckets import Plan, sample_cost
from shared.elements import symbol
from shared.manifest import shard_entries


def bucket_totals(sizes: Mapping[tuple[int, int], int], plan: Plan) -> list[dict[str, float]]:
    """Return the real contents of every bucket: molecules, atoms, grid points, and their cost in a training step.

    Args:
        sizes: (atoms, grid points) -> molecules of all splits.
        plan: the buckets.
    """
    atoms, grid, count = np.array([[a, g, n] for (a, g), n in sizes.items()]).T
    bucket = plan.assign(atoms, grid)
    real = {"samples": count, "atoms": atoms * count, "grid_points": grid * count, "cost": _cost(atoms, grid) * count}
    return [
        {name: values[bucket == index].sum().item() for name, values in real.items()}
        for index in range(len(plan.shapes))
    ]


def describe(frames: dict[str, Any], edges: dict[str, Any], folders: tuple[Path, Path], seconds: float) -> str:
    """Return the lines of the summary, from the two manifests."""
    head = f"{'samples':>11} {'atoms':>11} {'grid points':>13} {'PhysNet edges':>14} {'DCMNet edges':>13}"
    lines = [f"{'split':<8}{head}"]
    for split, counts in frames["splits"].items():
        counts = {**counts, **edges["splits"][split]}
        lines.append(
            f"{split:<8}{counts['samples']:>11,} {counts['atoms']:>11,} {counts['grid_points']:>13,} "
            f"{counts['physnet_edges']:>14,} {counts['dcmnet_edges']:>13,}"
        )
    lines += ["", f"{'bucket':<8}{head}"]
    for index, (shape, real) in enumerate(zip(*_buckets(frames, edges), strict=True)):
        sizes = [f"{shape[name]:,} ({_waste(real[name], real['samples'] * shape[name]):.0%})" for name in _AXES]
        lines.append(f"{index:<8}{real['samples']:>11,} {sizes[0]:>11} {sizes[1]:>13} {sizes[2]:>14} {sizes[3]:>13}")
    lines.append("(size of a bucket, and in brackets the share of it that is padding)")
    waste = padding_waste(frames, edges)
    parts = ", ".join(f"{waste[name]:.1%} of {label}" for name, label in _AXES.items())
    lines.append(
        f"padding: {parts}; {waste['cost']:.1%} of a step's work, {waste['cost_of_one_bucket']:.1%} with one bucket"
    )
    references = ", ".join(f"{symbol(int(z))} {e:.4f}" for z, e in frames["reference_energies_ev"].items())
    lines.append(f"reference energies (eV): {references}")
    size = sum(entry.bytes for manifest in (frames, edges) for entry in shard_entries(manifest))
    names = " and ".join(str(folder) for folder in folders)
    lines.append(f"{size / 1e6:.1f} MB in {names}, {seconds:.1f} s")
    return "\n".join(lines)


def padding_waste(frames: dict[str, Any], edges: dict[str, Any]) -> dict[str, float]:
    """Return the share of padding in atoms, grid points, edges and work, and in the work with a single bucket."""
    shapes, totals = _buckets(frames, edges)
    waste = {}
    for name in _AXES:
        padded = sum(real["samples"] * shape[name] for shape, real in zip(shapes, totals, strict=True))
        waste[name] = _waste(sum(real[name] for real in totals), padded)
    cost = sum(real["cost"] for real in totals)
    each = [_cost(np.array(shape["atoms"]), np.array(shape["grid_points"])).item() for shape in shapes]
    samples = [real["samples"] for real in totals]
    waste["cost"] = _waste(cost, sum(n * one for n, one in zip(samples, each, strict=True)))
    waste["cost_of_one_bucket"] = _waste(cost, sum(samples) * each[-1])
    return waste


_AXES = {
    "atoms": "atoms",
    "grid_points": "grid points",
    "physnet_edges": "PhysNet edges",
    "dcmnet_edges": "DCMNet edges",
}


def _buckets(frames: dict[str, Any], edges: dict[str, Any]) -> tuple[list[dict[str, int]], list[dict[str, Any]]]:
    """Return padded sizes and real totals of every bucket, by the names of ``_AXES``."""
    shapes = [
        {"atoms": frame["atoms"], "grid_points": frame["grid"], **edge}
        for frame, edge in zip(frames["buckets"], edges["buckets"], strict=True)
    ]
    pairs = zip(frames["bucket_totals"], edges["bucket_totals"], strict=True)
    return shapes, [{**frame, **edge} for frame, edge in pairs]


def _cost(atoms: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return sample_cost(atoms.astype(float), grid.astype(float))


def _waste(real: float, padded: float) -> float:
    return 1.0 - real / padded if padded else 0.0

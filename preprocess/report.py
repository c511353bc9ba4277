"""What preprocessing prints at the end: what it made, and how much of it is padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.cache import shard_entries
from shared.elements import symbol


def describe(frames: dict[str, Any], edges: dict[str, Any], folders: tuple[Path, Path], seconds: float) -> str:
    """A few lines for people, from the two manifests."""
    lines = [
        f"{'split':<6} {'samples':>9} {'atoms':>10} {'grid points':>12} {'PhysNet edges':>14} {'DCMNet edges':>13}"
    ]
    for split, counts in frames["splits"].items():
        edge_counts = edges["splits"][split]
        lines.append(
            f"{split:<6} {counts['samples']:>9,} {counts['atoms']:>10,} {counts['grid_points']:>12,} "
            f"{edge_counts['physnet_edges']:>14,} {edge_counts['dcmnet_edges']:>13,}"
        )
    lines.append("")
    lines.append(
        f"{'bucket':<6} {'samples':>9} {'atoms':>10} {'grid points':>12} {'PhysNet edges':>14} {'DCMNet edges':>13}"
    )
    samples = _samples_per_bucket(frames)
    for index, (frame, edge) in enumerate(zip(frames["buckets"], edges["buckets"], strict=True)):
        lines.append(
            f"{index:<6} {samples[index]:>9,} {frame['atoms']:>10,} {frame['grid']:>12,} "
            f"{edge['physnet_edges']:>14,} {edge['dcmnet_edges']:>13,}"
        )
    waste = padding_waste(frames, edges)
    lines.append("padding: " + ", ".join(f"{value:.1%} of {name}" for name, value in waste.items()))
    references = ", ".join(f"{symbol(int(z))} {e:.4f}" for z, e in frames["reference_energies_ev"].items())
    lines.append(f"reference energies (eV): {references}")
    size = sum(entry.bytes for manifest in (frames, edges) for entry in shard_entries(manifest))
    names = " and ".join(str(folder) for folder in folders)
    lines.append(f"{size / 1e6:.1f} MB in {names}, {seconds:.1f} s")
    return "\n".join(lines)


def padding_waste(frames: dict[str, Any], edges: dict[str, Any]) -> dict[str, float]:
    """Share of the padded atoms, grid points and edges that holds no data."""
    samples = _samples_per_bucket(frames)
    waste = {}
    for name, manifest, axis, key in (
        ("atoms", frames, "atoms", "atoms"),
        ("grid points", frames, "grid", "grid_points"),
        ("PhysNet edges", edges, "physnet_edges", "physnet_edges"),
        ("DCMNet edges", edges, "dcmnet_edges", "dcmnet_edges"),
    ):
        padded = sum(count * bucket[axis] for count, bucket in zip(samples, manifest["buckets"], strict=True))
        real = sum(split[key] for split in manifest["splits"].values())
        waste[name] = 1.0 - real / padded if padded else 0.0
    return waste


def _samples_per_bucket(frames: dict[str, Any]) -> list[int]:
    samples = [0] * len(frames["buckets"])
    for entry in shard_entries(frames):
        samples[entry.bucket] += entry.samples
    return samples

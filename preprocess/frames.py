"""The frames stage: geometry, targets and padded grids, in buckets. Independent of the cutoffs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from preprocess.config import PreprocessConfig
from preprocess.load import Grids, Molecules, Pair, load_grids, load_molecules
from preprocess.plan import Plan, choose_buckets
from preprocess.statistics import centers_of_mass, fit_reference_energies, spread, sum_reference_energies
from preprocess.validate import atom_mask, check_elements_known, check_grids, check_molecules
from shared import units
from shared.buckets import FrameShape, array_shape
from shared.cache import build_stage, write_manifest
from shared.digests import DigestCache, array_digest, settings_digest
from shared.schema import FRAME_ARRAYS, NAME_ARRAY, SCHEMA_VERSION, SPLITS, Split
from shared.shards import ShardEntry, create_shard, describe_shard

_ROWS_AT_ONCE = 1024
"""Rows padded at a time: bounds the memory beside the input arrays."""


@dataclass(frozen=True)
class FramesRecipe:
    """All that determines the frames: input content and settings."""

    inputs: list[dict[str, str]]  # split and content digests of every pair, in order
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of all of it."""
        return settings_digest({"schema": SCHEMA_VERSION, **asdict(self)})


def frames_recipe(pairs: list[Pair], config: PreprocessConfig, digests: DigestCache) -> FramesRecipe:
    """What the frames of these files with these settings would be made from."""
    inputs = [{"split": pair.split, "efd": digests.digest(pair.efd), "esp": digests.digest(pair.esp)} for pair in pairs]
    names = ("grid_unit", "energy_unit", "force_unit", "dipole_unit", "max_buckets", "min_bucket_size")
    return FramesRecipe(inputs, {name: getattr(config, name) for name in names})


def build_frames(folder: Path, pairs: list[Pair], recipe: FramesRecipe, config: PreprocessConfig) -> None:
    """Load, check, shift, pad and write every split; ``folder`` appears when all of it is complete.

    Raises:
        UserError: bad input, naming file, key, row and value.
    """
    parts = [load_molecules(pair, config) for pair in tqdm(pairs, "read geometries", unit="pair", disable=None)]
    for part in parts:
        check_molecules(part)
    training = [part for part in parts if part.pair.split == "train"]
    reference = _fit_over_files(training)
    for part in parts:
        check_elements_known(part, set(reference))
    plan = choose_buckets(
        np.concatenate([part.n_atoms for part in parts]),
        np.concatenate([part.n_grid for part in parts]),
        config.max_buckets,
        config.min_bucket_size,
    )
    buckets = np.split(plan.bucket, np.cumsum([len(part) for part in parts])[:-1])
    with build_stage(folder) as temporary:
        entries = []
        for split in SPLITS:
            members = [(part, bucket) for part, bucket in zip(parts, buckets, strict=True) if part.pair.split == split]
            if members:
                entries.extend(_write_split(temporary, split, members, plan, reference, config))
        write_manifest(temporary, _manifest(parts, plan, reference, recipe, entries))


def _fit_over_files(parts: list[Molecules]) -> dict[int, float]:
    width = max(part.atomic_numbers.shape[1] for part in parts)
    numbers = np.concatenate(
        [np.pad(p.atomic_numbers, ((0, 0), (0, width - p.atomic_numbers.shape[1]))) for p in parts]
    )
    return fit_reference_energies(np.concatenate([part.energy for part in parts]), numbers)


def _write_split(
    folder: Path,
    split: Split,
    members: list[tuple[Molecules, np.ndarray]],
    plan: Plan,
    reference: dict[int, float],
    config: PreprocessConfig,
) -> list[ShardEntry]:
    counts = np.bincount(np.concatenate([bucket for _, bucket in members]), minlength=len(plan.shapes))
    name_width = max(part.name.dtype.itemsize for part, _ in members)
    with ExitStack() as stack:
        shards: dict[int, dict[str, Any]] = {}
        paths: dict[int, Path] = {}
        for index, shape in enumerate(plan.shapes):
            if counts[index]:
                paths[index] = folder / f"{split}-{index}.h5"
                layout = _layout(int(counts[index]), shape, name_width)
                shards[index] = stack.enter_context(create_shard(paths[index], layout))
        written = np.zeros(len(plan.shapes), dtype=np.int64)
        first_row = 0
        progress = stack.enter_context(tqdm(total=int(counts.sum()), desc=f"pad {split}", unit="mol", disable=None))
        for part, bucket in members:
            grids = load_grids(part)
            check_grids(part, grids)
            centers = centers_of_mass(part.positions, part.atomic_numbers)
            energy = part.energy - sum_reference_energies(reference, part.atomic_numbers)
            for index in shards:
                for rows in _chunks(np.flatnonzero(bucket == index)):
                    padded = _pad(part, grids, rows, plan.shapes[index], centers[rows], config)
                    padded["energy"] = energy[rows]
                    padded["row"] = first_row + rows
                    target = slice(written[index], written[index] + len(rows))
                    for name, values in padded.items():
                        shards[index][name][target] = values
                    written[index] += len(rows)
                    progress.update(len(rows))
            first_row += len(part)
    return [describe_shard(path, split, index, int(counts[index])) for index, path in paths.items()]


def _layout(samples: int, shape: FrameShape, name_width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    sizes = asdict(shape)
    layout = {name: ((samples, *array_shape(spec, sizes)), spec.dtype) for name, spec in FRAME_ARRAYS.items()}
    return {**layout, NAME_ARRAY: ((samples,), f"S{name_width}")}


def _chunks(rows: np.ndarray) -> Iterable[np.ndarray]:
    return (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))


def _pad(
    part: Molecules,
    grids: Grids,
    rows: np.ndarray,
    shape: FrameShape,
    centers: np.ndarray,
    config: PreprocessConfig,
) -> dict[str, np.ndarray]:
    """Arrays of some molecules at a bucket's shape, centred in float64 before they become float32."""
    atoms = atom_mask(part.n_atoms[rows], shape.atoms)
    points = atom_mask(part.n_grid[rows], shape.grid)
    to_angstrom = units.LENGTH_UNITS_IN_ANGSTROM[config.grid_unit]
    grid = _fit(grids.points[rows, : shape.grid], shape.grid).astype(np.float64) * to_angstrom - centers[:, None]
    return {
        "atomic_numbers": np.where(atoms, _fit(part.atomic_numbers[rows, : shape.atoms], shape.atoms), 0),
        "positions": np.where(
            atoms[..., None], _fit(part.positions[rows, : shape.atoms], shape.atoms) - centers[:, None], 0.0
        ),
        "total_charge": part.total_charge[rows],
        "forces": np.where(atoms[..., None], _fit(part.forces[rows, : shape.atoms], shape.atoms), 0.0),
        "dipole": part.dipole[rows],
        "n_grid": part.n_grid[rows],
        "grid": np.where(points[..., None], grid, 0.0),
        "esp": np.where(points, _fit(grids.esp[rows, : shape.grid], shape.grid), 0.0),
        NAME_ARRAY: part.name[rows],
    }


def _fit(values: np.ndarray, width: int) -> np.ndarray:
    """Widen axis 1 with zeros (what is cut off before was padding)."""
    missing = width - values.shape[1]
    return np.pad(values, [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2)) if missing else values


def _manifest(
    parts: list[Molecules],
    plan: Plan,
    reference: dict[int, float],
    recipe: FramesRecipe,
    entries: list[ShardEntry],
) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        members = [part for part in parts if part.pair.split == split]
        if not members:
            continue
        energy = np.concatenate([p.energy - sum_reference_energies(reference, p.atomic_numbers) for p in members])
        forces = np.concatenate([p.forces[atom_mask(p.n_atoms, p.forces.shape[1])] for p in members])
        splits[split] = {
            "samples": sum(len(part) for part in members),
            "atoms": int(sum(part.n_atoms.sum() for part in members)),
            "grid_points": int(sum(part.n_grid.sum() for part in members)),
            "geometry_digest": array_digest(*(a for p in members for a in (p.atomic_numbers, p.n_atoms, p.positions))),
            "energy_ev": spread(energy),
            "forces_ev_per_angstrom": spread(forces),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": "frames",
        "digest": recipe.digest,
        "inputs": [
            {**given, "efd_file": part.pair.efd.name, "esp_file": part.pair.esp.name, "samples": len(part)}
            for given, part in zip(recipe.inputs, parts, strict=True)
        ],
        "settings": recipe.settings,
        "units": {**{name: spec.unit for name, spec in FRAME_ARRAYS.items() if spec.unit != "-"}},
        "reference_energies_ev": {str(z): energy for z, energy in sorted(reference.items())},
        "buckets": [asdict(shape) for shape in plan.shapes],
        "splits": splits,
        "shards": [entry.as_json() for entry in entries],
    }

"""What several tests need: small NPZ pairs in the input format, small models, batches without padding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from preprocess.__main__ import preprocess
from preprocess.config import PreprocessConfig
from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.manifest import current_stages, read_manifest, shard_entries, stage_folder, write_manifest
from shared.multipoles import traceless
from shared.shards import describe_shard, map_shard, write_shard
from train.config import ModelConfig, TrainConfig
from train.data.batch import Batch, empty_batch
from train.data.dataset import Cache
from train.evaluation import charge_fit
from train.model.joint import build_model
from train.model.saved_model import TrainedModel, save_weights
from train.run_folder import prepare_run

SAMPLE = Path(__file__).parents[1] / "shared" / "sample"

SMALL_MODEL: dict[str, Any] = {
    "physnet_features": 8,
    "physnet_iterations": 1,
    "physnet_basis": 8,
    "physnet_degree": 1,
    "physnet_channels": 3,
    "dcmnet_features": 4,
    "dcmnet_iterations": 1,
    "dcmnet_max_degree": 1,
    "dcmnet_basis": 6,
    "n_dcm": 2,
}


def small_config(**changes: Any) -> TrainConfig:
    """Settings of a model that compiles in seconds."""
    return dataclasses.replace(TrainConfig(), **{**SMALL_MODEL, "batch_size": 4, "limits": "off", **changes})


def quick_fits() -> AbstractContextManager[Any]:
    """Fit charges to the ESP in a twelfth of the steps: for evaluations whose fits need not be the best."""
    return mock.patch.object(charge_fit, "_STEPS", charge_fit._STEPS_AT_ONCE)


def read_sample(kind: str, split: str, rows: slice | np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Some rows of the carried sample: the arrays of its EFD and ESP files."""
    return tuple(
        {
            key: values[rows]
            for key, values in np.load(SAMPLE / f"{kind}-{file}-{split}.npz", allow_pickle=False).items()
        }
        for file in ("efd", "esp")
    )  # type: ignore[return-value]


def write_pair(folder: Path, stem: str, efd: dict[str, np.ndarray], esp: dict[str, np.ndarray]) -> tuple[Path, Path]:
    """Write an NPZ pair and return its paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{stem}-efd.npz", folder / f"{stem}-esp.npz"
    np.savez(paths[0], **efd)
    np.savez(paths[1], **esp)
    return paths


def write_splits(
    folder: Path, train: int = 10, valid: int = 5, quadrupoles: bool = False
) -> dict[str, tuple[str, ...]]:
    """CO2 and mixed rows, perhaps with random quadrupoles, as files of every split; the settings that name them."""
    rng = np.random.default_rng(0)
    settings: dict[str, tuple[str, ...]] = {}
    for split, count in (("train", train), ("valid", valid), ("test", valid)):
        pairs = []
        for kind in ("co2", "mixed"):
            # The mixed rows are grouped by molecule: every second row keeps small and large ones.
            rows = np.arange(count) if kind == "co2" else np.arange(0, 2 * count, 2)
            efd, esp = read_sample(kind, split if kind == "co2" else "train", rows)
            if quadrupoles:
                efd["quadrupole"] = traceless(rng.normal(size=(count, 3, 3)))
            pairs.append(write_pair(folder, f"{kind}-{split}", efd, esp))
        settings[f"{split}_efd"] = tuple(str(efd) for efd, _ in pairs)
        settings[f"{split}_esp"] = tuple(str(esp) for _, esp in pairs)
    return settings


def run_preprocess(settings: dict[str, Any], cache_dir: Path, **changes: Any) -> PreprocessConfig:
    """Preprocess with small buckets, of data that need not be physical; returns the settings."""
    config = PreprocessConfig(
        **{"cache_dir": str(cache_dir), "min_bucket_size": 4, "checks": "off", **settings, **changes}
    )
    preprocess(config)
    return config


EVERY_ROW = range(10**9)


def remove_targets(cache_dir: Path, split: str, **rows: Container[int]) -> None:
    """Rewrite shards as if some rows of the input lacked targets. Without any ESP, the buckets' grids have no width.

    Args:
        cache_dir: a cache that no other test uses.
        split: its name, or "all".
        rows: those of its rows without ``energy``, ``forces``, ``dipole``, ``quadrupole`` or ``esp``.
    """
    folder = stage_folder(cache_dir, "frames", current_stages(cache_dir)["frames"])
    manifest = read_manifest(folder)
    assert manifest is not None
    shards = []
    for entry in shard_entries(manifest):
        path = folder / entry.file
        arrays = {name: np.array(values) for name, values in map_shard(path).items()}
        if split in (entry.split, "all"):
            for name, missing in rows.items():
                lacks = np.array([row in missing for row in arrays["row"]])
                real = arrays["atomic_numbers"] > 0
                if name == "esp":
                    arrays["n_grid"][lacks], arrays["grid"][lacks], arrays["esp"][lacks] = 0, 0.0, 0.0
                else:
                    arrays[name][(lacks[:, None] & real) if name == "forces" else lacks] = np.nan
            if split == "all" and rows.get("esp") is EVERY_ROW:
                arrays["grid"], arrays["esp"] = arrays["grid"][:, :0], arrays["esp"][:, :0]
                manifest["buckets"][entry.bucket]["grid"] = 0
        path.unlink()
        write_shard(path, arrays)
        shards.append(describe_shard(path, entry.split, entry.bucket, entry.samples).as_json())
    write_manifest(folder, {**manifest, "shards": shards})


def random_weights(config: ModelConfig, references: dict[int, float], seed: int = 0) -> TrainedModel:
    """A model with weights far from their initial values, as if trained."""
    params = initial_weights(config, seed)
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(lambda x: (np.asarray(x) + 0.1 * rng.normal(size=x.shape)).astype(np.float32), params)
    return TrainedModel(config, references, noisy)


def initial_weights(config: ModelConfig, seed: int = 0) -> Any:
    """New weights in float32, whatever a test's precision: drawing them takes long to compile, and longer in float64.

    They do not depend on the data.
    """
    with jax.enable_x64(False):
        names = ModelConfig.__annotations__
        return _draw(ModelConfig(**{name: getattr(config, name) for name in names}))(jax.random.key(seed))


@functools.cache
def _draw(config: ModelConfig) -> Any:
    batch = empty_batch(BucketShape(FrameShape(2, 1), EdgeShape(2, 2)), 1)
    return jax.jit(lambda key: build_model(config).init(key, batch))


def save_random_run(folder: Path, config: TrainConfig, cache: Cache) -> None:
    """A run's folder as training leaves it, with such weights."""
    config = dataclasses.replace(config, runs_dir=str(folder.parent), name=folder.name)
    save_weights(prepare_run(config, cache).best, random_weights(config, cache.reference_energies_ev))


def random_batch(
    rng: np.random.Generator,
    molecules: list[list[int]],
    atoms: int | None = None,
    grid: int = 20,
    padded_grid: int | None = None,
    extra_molecules: int = 0,
    cutoffs: tuple[float, float] = (6.0, 10.0),
    total_charge: list[float] | None = None,
    dtype: str = "float64",
    poison: float = 0.0,
    extra_edges: int = 0,
    quadrupoles: bool = False,
) -> Batch:
    """Molecules of these elements at random positions about 1.2 Å apart, padded as asked.

    Args:
        rng: source of positions, targets and grid points; the same generator state gives the same molecules whatever
            the padding.
        molecules: atomic numbers of each molecule.
        atoms: padded atoms (default: the largest molecule).
        grid: real grid points of each molecule.
        padded_grid: padded grid points (default: ``grid``).
        extra_molecules: empty molecules appended.
        cutoffs: PhysNet's and DCMNet's, Å.
        total_charge: of each molecule, e (default 0).
        dtype: of all floating-point arrays.
        poison: what stands in all padding.
        extra_edges: padded edges beyond the longest list.
        quadrupoles: whether there are any.
    """
    from shared.neighbor_list import build_edges

    size = len(molecules) + extra_molecules
    atoms = atoms or max(len(m) for m in molecules)
    padded_grid = padded_grid or grid
    values: dict[str, np.ndarray] = {
        "atomic_numbers": np.zeros((size, atoms), np.int32),
        "positions": np.full((size, atoms, 3), poison),
        "total_charge": np.full(size, poison),
        "energy": np.full(size, poison),
        "forces": np.full((size, atoms, 3), poison),
        "dipole": np.full((size, 3), poison),
        "grid": np.full((size, padded_grid, 3), poison),
        "esp": np.full((size, padded_grid), poison),
        "esp_mask": np.zeros((size, padded_grid), bool),
    }
    for i, numbers in enumerate(molecules):
        n = len(numbers)
        # A random walk with steps of 1.2 Å or a little more: close, but never on top of each other.
        steps = rng.normal(size=(n, 3))
        steps *= (1.2 + 0.2 * rng.random((n, 1))) / np.linalg.norm(steps, axis=1, keepdims=True)
        positions = np.cumsum(np.abs(steps) * [1.0, 1.0, -1.0], axis=0)
        directions = rng.normal(size=(grid, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        values["atomic_numbers"][i, :n] = numbers
        values["positions"][i, :n] = positions
        values["total_charge"][i] = total_charge[i] if total_charge else 0.0
        values["energy"][i] = rng.normal()
        values["forces"][i, :n] = rng.normal(size=(n, 3))
        values["dipole"][i] = rng.normal(size=3)
        values["grid"][i, :grid] = positions.mean(axis=0) + directions * (1.5 * n + 2.0 + rng.random((grid, 1)))
        values["esp"][i, :grid] = 0.01 * rng.normal(size=grid)
        values["esp_mask"][i, :grid] = True
    if quadrupoles:
        values["quadrupole"] = np.full((size, 3, 3), poison)
        values["quadrupole"][: len(molecules)] = traceless(rng.normal(size=(len(molecules), 3, 3)))
    n_atoms = np.array([len(m) for m in molecules] + [0] * extra_molecules)
    edges = {}
    for network, cutoff in zip(("physnet", "dcmnet"), cutoffs, strict=True):
        safe = np.where(np.isfinite(values["positions"]), values["positions"], 0.0)
        lists = build_edges(safe, n_atoms, cutoff)
        lists = build_edges(safe, n_atoms, cutoff, capacity=lists.dst.shape[1] + extra_edges)
        edges |= {f"{network}_{name}": array for name, array in lists._asdict().items()}
    floats = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in values.items()}
    return Batch(molecule_mask=np.arange(size) < len(molecules), **floats, **edges)

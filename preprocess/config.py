"""Settings of preprocessing: table [preprocess] of config.toml and the flags of ``python -m preprocess``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from shared.config_io import Positive, PositiveInt, SharedConfig


@dataclass(frozen=True)
class PreprocessConfig(SharedConfig):
    """Turn NPZ pairs into padded HDF5 shards with edge lists, for train to stream."""

    train_efd: tuple[str, ...] = ()
    """Training split: NPZ files with energies, forces, dipoles (several in order; globs are expanded)."""

    train_esp: tuple[str, ...] = ()
    """Training split: NPZ files with ESP grids, in the order of --train-efd."""

    valid_efd: tuple[str, ...] = ()
    """Validation split: NPZ files with energies, forces, dipoles."""

    valid_esp: tuple[str, ...] = ()
    """Validation split: NPZ files with ESP grids."""

    test_efd: tuple[str, ...] = ()
    """Test split (optional): NPZ files with energies, forces, dipoles."""

    test_esp: tuple[str, ...] = ()
    """Test split (optional): NPZ files with ESP grids."""

    grid_unit: Literal["angstrom", "bohr"] = "angstrom"
    """Unit of vdw_surface."""

    energy_unit: Literal["ev", "hartree", "kcal/mol"] = "ev"
    """Unit of E."""

    force_unit: Literal["ev/angstrom", "hartree/bohr", "kcal/mol/angstrom"] = "ev/angstrom"
    """Unit of F."""

    dipole_unit: Literal["debye", "e-angstrom", "au"] = "debye"
    """Unit of Dxyz (or D)."""

    max_buckets: PositiveInt = 4
    """Most shapes that molecules are padded to; each one is compiled once in training."""

    min_bucket_size: PositiveInt = 128
    """Fewest training molecules for a bucket of its own: at least a batch."""

    chunk_mib: Positive = 32.0
    """Input handled at a time, MiB: bounds memory, and the size of a shard."""

    checks: Literal["warn", "stop", "off"] = "warn"
    """Look for mistakes in a sample of the data: tell of them, stop where the data contradict themselves, or do not."""

    refit: bool = False
    """Choose buckets and reference energies anew, where files were only appended."""

    force: bool = False
    """Rebuild everything, even what is up to date."""

    dry_run: bool = False
    """Say what would be rebuilt and why, and do nothing."""

    then_train: bool = False
    """Then train on these data; the flags that follow are those of `python -m train`."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes of a local Dask cluster (0 = threads of this process)."""

    scheduler: str = ""
    """Address of a Dask scheduler that is already there, for work on several machines."""

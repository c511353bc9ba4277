"""Settings of preprocessing: table [preprocess] of config.toml and the flags of ``python -m preprocess``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from shared.input.foreign_config import ForeignConfig
from shared.input.unit_choice import check_unit_flag
from shared.settings import Positive, PositiveInt, Seed, SharedConfig


@dataclass(frozen=True)
class PreprocessConfig(ForeignConfig, SharedConfig):
    """Turn the users' files into padded HDF5 shards with edge lists, for train to stream."""

    train_efd: tuple[str, ...] = ()
    """Training split: files with energies, forces, dipoles: NPZ, extended XYZ, ASE databases (globs are expanded)."""

    train_esp: tuple[str, ...] = ()
    """Training split: NPZ files with ESP grids, in the order of --train-efd."""

    valid_efd: tuple[str, ...] = ()
    """Validation split: files with energies, forces, dipoles."""

    valid_esp: tuple[str, ...] = ()
    """Validation split: NPZ files with ESP grids."""

    test_efd: tuple[str, ...] = ()
    """Test split (optional): files with energies, forces, dipoles."""

    test_esp: tuple[str, ...] = ()
    """Test split (optional): NPZ files with ESP grids."""

    data: tuple[str, ...] = ()
    """Instead of files for each split: files whose frames are divided among the splits (globs are expanded)."""

    grids: tuple[str, ...] = ()
    """NPZ files with the ESP grids of --data, in its order (default: in the same files)."""

    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Shares of train, valid and test of --data."""

    split_seed: Seed = 0
    """Seed of the division of --data."""

    split_by: Literal["auto", "frame", "molecule", "formula"] = "auto"
    """What is not parted among splits; auto: molecules, or single frames where all are of one molecule."""

    split_file: str = ""
    """NPZ file with the rows of each split (train, valid, test), instead of a division at random."""

    grid_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="grid"))] = "auto"
    """Unit of the ESP's grid: angstrom or bohr (auto: the file's record, else angstrom)."""

    energy_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="energy"))] = "auto"
    """Unit of E: ev, hartree, kcal/mol or kj/mol (auto: the file's record, else ev)."""

    force_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="force"))] = "auto"
    """Unit of F: ev/angstrom, hartree/bohr, kcal/mol/angstrom, ... (auto: the file's record, else ev/angstrom)."""

    dipole_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="dipole"))] = "auto"
    """Unit of Dxyz: debye, e-angstrom or au (auto: the file's record, else debye)."""

    quadrupole_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="quadrupole"))] = "auto"
    """Unit of quadrupoles: e-angstrom2, debye-angstrom, au (auto: by record, else e-angstrom2, of Q debye-angstrom)."""

    quadrupole_origin: Literal["mass", "zero"] = "mass"
    """Origin that quadrupoles are about: each molecule's centre of mass, or the zero of R's coordinates."""

    position_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="position"))] = "auto"
    """Unit of R: angstrom or bohr (auto: the file's record, else angstrom)."""

    esp_unit: Annotated[str, AfterValidator(partial(check_unit_flag, kind="esp"))] = "auto"
    """Unit of esp: hartree/e, ev/e, kcal/mol/e or kj/mol/e (auto: the file's record, else hartree/e)."""

    grid_frame: Literal["given", "centroid", "cube", "fit"] = "given"
    """Frame of the grid: R's; moved so that its mean is the atoms'; by the file's grid_origin; as ESP and R ask for."""

    max_buckets: PositiveInt = 4
    """Most shapes that molecules are padded to; each one is compiled once in training."""

    min_bucket_size: PositiveInt = 128
    """Fewest training molecules for a bucket of its own: at least a batch."""

    chunk_mib: Positive = 32.0
    """Input handled at a time, MiB: bounds memory, and the size of a shard."""

    checks: Literal["stop", "warn", "off"] = "stop"
    """Look for mistakes in a sample of the data: stop where it contradicts itself, only report it, or do not look."""

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


Config = TypeVar("Config", bound=PreprocessConfig)


def for_all_machines(config: Config) -> Config:
    """Return the settings with absolute paths where Dask workers, in folders of their own, take part."""
    if not (config.workers or config.scheduler):
        return config
    lists = [one.name for one in fields(config) if str(one.type).startswith("tuple[str")]  # all are of files
    files: dict[str, Any] = {
        name: tuple(str(Path(path).absolute()) for path in getattr(config, name)) for name in lists
    }
    return replace(config, cache_dir=str(Path(config.cache_dir).absolute()), **files)

"""The users' NPZ pairs as typed arrays: everything but the grids at once, the grids one file at a time."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.npz import NpzFile
from shared import units
from shared.errors import UserError
from shared.schema import SPLITS, Split


@dataclass(frozen=True)
class Pair:
    """The two files of some molecules of a split."""

    split: Split
    efd: Path
    esp: Path


@dataclass(frozen=True)
class Molecules:
    """n molecules of one pair: all but the grids. Units are the project's (Å, eV, e), arrays padded to A atoms."""

    pair: Pair
    atomic_numbers: np.ndarray  # (n, A) int32, 0 = padding
    n_atoms: np.ndarray  # (n,) int64
    positions: np.ndarray  # (n, A, 3) float64, Å, as given (not centred)
    energy: np.ndarray  # (n,) float64, eV, total
    forces: np.ndarray  # (n, A, 3) float64, eV/Å
    dipole: np.ndarray  # (n, 3) float64, e·Å
    total_charge: np.ndarray  # (n,) float64, e
    name: np.ndarray  # (n,) UTF-8 bytes
    n_grid: np.ndarray  # (n,) int64
    esp_atomic_numbers: np.ndarray  # the ESP file's own Z, N and R, for the pairing
    esp_n_atoms: np.ndarray
    esp_positions: np.ndarray
    grid_width: int  # G, the ESP file's padded number of grid points

    def __len__(self) -> int:
        return len(self.n_atoms)


@dataclass(frozen=True)
class Grids:
    """The grids of one pair, as stored: (n, G, 3) in the user's unit, and (n, G) in Hartree/e."""

    points: np.ndarray
    esp: np.ndarray


def find_pairs(config: PreprocessConfig) -> list[Pair]:
    """The pairs of files of every split, in order.

    Raises:
        UserError: no training or validation files, unequal numbers of files, a glob that matches nothing.
    """
    pairs: list[Pair] = []
    for split in SPLITS:
        efd, esp = (_expand(split, kind, getattr(config, f"{split}_{kind}")) for kind in ("efd", "esp"))
        if len(efd) != len(esp):
            raise UserError(
                f"--{split}-efd names {len(efd)} files and --{split}-esp {len(esp)}; they are paired in order"
            )
        if not efd and split != "test":
            raise UserError(f"no {split} files: give --{split}-efd and --{split}-esp (or set them in {config.config})")
        pairs.extend(Pair(split, Path(a), Path(b)) for a, b in zip(efd, esp, strict=True))
    for pair in pairs:
        for path in (pair.efd, pair.esp):
            if not path.is_file():
                what = "is a directory, not an NPZ file" if path.is_dir() else "no such file"
                raise UserError(f"{path}: {what} (split {pair.split})")
    return pairs


def _expand(split: Split, kind: str, names: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for name in names:
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not matches:
            raise UserError(f"--{split}-{kind}: {name!r} matches no file")
        found.extend(matches)
    return found


def load_molecules(pair: Pair, config: PreprocessConfig) -> Molecules:
    """Read one pair, but for the grids, and convert the units.

    Raises:
        UserError: a file or key is missing, damaged, or of the wrong shape or kind.
    """
    efd, esp = NpzFile(pair.efd), NpzFile(pair.esp)
    for file, keys in ((efd, ("R", "Z", "N", "E", "F")), (esp, ("R", "Z", "N", "esp", "vdw_surface"))):
        for key in keys:
            file.require(key)
    geometry = _read_geometry(efd)
    rows, width = geometry["Z"].shape
    esp_geometry = _read_geometry(esp)
    grid_rows, grid_width = _grid_shape(esp)
    if len(esp_geometry["Z"]) != rows or grid_rows != rows:
        raise UserError(
            f"{pair.esp}: {grid_rows} molecules, but {pair.efd} has {rows}; rows are paired by index, "
            "so both files need the same molecules in the same order"
        )
    if rows == 0:
        raise UserError(f"{pair.efd}: the file holds no molecule")
    energy_unit = units.ENERGY_UNITS_IN_EV[config.energy_unit]
    force_unit = units.FORCE_UNITS_IN_EV_PER_ANGSTROM[config.force_unit]
    dipole_unit = units.DIPOLE_UNITS_IN_E_ANGSTROM[config.dipole_unit]
    return Molecules(
        pair=pair,
        atomic_numbers=geometry["Z"],
        n_atoms=geometry["N"],
        positions=geometry["R"],
        energy=efd.read("E", (rows,), "float").astype(np.float64) * energy_unit,
        forces=efd.read("F", (rows, width, 3), "float").astype(np.float64) * force_unit,
        dipole=efd.read(efd.require("Dxyz", "D"), (rows, 3), "float").astype(np.float64) * dipole_unit,
        total_charge=(efd.read("Q", (rows,), "float") if "Q" in efd else np.zeros(rows)).astype(np.float64),
        name=_encode(efd.read("name", (rows,), "text")) if "name" in efd else np.zeros(rows, "S1"),
        n_grid=esp.read("n_grid", (rows,), "int").astype(np.int64)
        if "n_grid" in esp
        else np.full(rows, grid_width, np.int64),
        esp_atomic_numbers=esp_geometry["Z"],
        esp_n_atoms=esp_geometry["N"],
        esp_positions=esp_geometry["R"],
        grid_width=grid_width,
    )


def load_grids(molecules: Molecules) -> Grids:
    """Read the grids of one pair.

    Raises:
        UserError: the file is damaged.
    """
    file = NpzFile(molecules.pair.esp)
    rows, width = len(molecules), molecules.grid_width
    return Grids(
        points=file.read("vdw_surface", (rows, width, 3), "float"), esp=file.read("esp", (rows, width), "float")
    )


def _read_geometry(file: NpzFile) -> dict[str, Any]:
    numbers = file.read("Z", (None, None), "int")
    rows, width = numbers.shape
    if width == 0:
        raise UserError(f"{file.path}: 'Z' has shape {numbers.shape}: no room for atoms")
    return {
        # Not narrowed yet: a value that does not fit must reach the check that names it.
        "Z": numbers.astype(np.int64),
        "N": file.read("N", (rows,), "int").astype(np.int64),
        "R": file.read("R", (rows, width, 3), "float").astype(np.float64),
    }


def _grid_shape(file: NpzFile) -> tuple[int, int]:
    shape, points = file.shape("esp"), file.shape("vdw_surface")
    if len(shape) != 2 or points != (*shape, 3):
        raise UserError(
            f"{file.path}: 'esp' has shape {shape} and 'vdw_surface' {points}, expected (n, G) and (n, G, 3)"
        )
    return shape[0], shape[1]


def _encode(names: np.ndarray) -> np.ndarray:
    encoded = np.char.encode(names, "utf-8") if names.dtype.kind == "U" else names
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")

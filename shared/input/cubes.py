"""ESP of molecules from Gaussian cube files, thinned to the points that a model is fitted to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.cube import read_cube
from ase.io.formats import open_with_compression

from shared.elements import MAX_ATOMIC_NUMBER, VAN_DER_WAALS_RADII
from shared.errors import UserError
from shared.files import require_readable
from shared.input.foreign_config import GridShell
from shared.input.labelled import expand_files
from shared.units import BOHR_IN_ANGSTROM

_UNREADABLE = (ValueError, IndexError, TypeError, EOFError, OSError)
_SUFFIXES = (".cube", ".cub")
_NEGATIVE = -1e-6
"""Lower bound of densities; an ESP has smaller values (or sums to far more than the electrons: ions, noble gases)."""
_ELECTRONS = (0.5, 1.25)
"""Range of the sum of a density on a coarse grid over the number of electrons. An ESP without negative values sums to
more: (2π/3) Σ r² is 1.9 times the electrons of neon, 2.3 times those of krypton."""


@dataclass(frozen=True)
class CubeGrid:
    """A molecule and its ESP on G points of a cube."""

    path: Path
    numbers: np.ndarray  # (N,) int64
    positions: np.ndarray  # (N, 3) Å
    points: np.ndarray  # (G, 3) Å
    esp: np.ndarray  # (G,) Hartree/e
    cut_off: float  # Å by which the cube's box is smaller than the shell, on its worst side; <= 0: not at all


def find_cubes(names: Sequence[str]) -> list[Path]:
    """Return the cube files of folders, globs and names, in natural order (esp-2 before esp-10).

    Raises:
        UserError: no such file, a folder without cubes, or a glob that matches nothing.
    """
    found: list[Path] = []
    for path in map(Path, expand_files(names, "--cubes")):
        if path.is_dir():
            inside = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
            if not inside:
                raise UserError(f"--cubes {path}: no {' or '.join(_SUFFIXES)} files in this folder")
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"--cubes {path}: no such file")
    return sorted(found, key=_natural)


def read_grid(path: Path, shell: GridShell, digest: str) -> CubeGrid:
    """Read the molecule of a cube file and a part of its points.

    Args:
        path: of the file; lengths in it are in Bohr, values in Hartree/e.
        shell: range and number of the points.
        digest: of the file's content (hex), on which alone the draw depends.

    Raises:
        UserError: a damaged or truncated file, several values per point, orbitals, lengths in Å, an electron density,
            or no points between the two multiples.
    """
    try:
        with open_with_compression(str(path), "r") as stream:
            _check_header(path, [stream.readline() for _ in range(6)])
            stream.seek(0)
            cube = read_cube(stream)
    except _UNREADABLE as error:
        require_readable(path)
        raise UserError(f"{path}: not a complete Gaussian cube file ({error}); write or copy it again") from error
    atoms, values = cube["atoms"], np.asarray(cube["data"], np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {np.count_nonzero(~np.isfinite(values))} values are not finite")
    _check_potential(path, atoms.numbers, values, cube["spacing"])
    points = cube["origin"] + np.indices(values.shape, np.float64).reshape(3, -1).T @ cube["spacing"]
    inside = _in_shell(points, atoms, shell)
    if not len(inside):
        raise UserError(
            f"{path}: no point is between {shell.inner:g} and {shell.outer:g} van der Waals radii of the atoms "
            "(--grid-shell); the cube's box is too small, or its atoms are not where its values are"
        )
    if len(inside) > shell.points:
        chosen = np.random.default_rng(int(digest, 16)).choice(len(inside), shell.points, replace=False)
        inside = inside[np.sort(chosen)]
    reach = shell.outer * VAN_DER_WAALS_RADII[atoms.numbers][:, None]
    low, high = (atoms.positions - reach).min(axis=0), (atoms.positions + reach).max(axis=0)
    missing = max((points.min(axis=0) - low).max(), (high - points.max(axis=0)).max())
    return CubeGrid(
        path=path,
        numbers=np.asarray(atoms.numbers, np.int64),
        positions=np.asarray(atoms.positions, np.float64),
        points=points[inside],
        esp=values.ravel()[inside],
        cut_off=float(missing),
    )


def _check_header(path: Path, lines: list[str]) -> None:
    counts = lines[2].split()
    if int(counts[0]) < 0:
        raise UserError(
            f"{path}: its number of atoms is negative ({counts[0]}), which marks orbitals or several data sets; "
            "the ESP alone is needed, as cubegen's `potential` writes it"
        )
    if len(counts) > 4 and int(counts[4]) != 1:
        raise UserError(f"{path}: {counts[4]} values at each point; the ESP alone is needed")
    if any(int(line.split()[0]) <= 0 for line in lines[3:6]):
        raise UserError(f"{path}: a negative number of points, which marks lengths in Å; write the cube in Bohr")


def _check_potential(path: Path, numbers: np.ndarray, values: np.ndarray, steps: np.ndarray) -> None:
    if len(numbers) == 0:
        raise UserError(f"{path}: no atoms")
    if not ((numbers > 0) & (numbers <= MAX_ATOMIC_NUMBER)).all():
        atom = int(np.argmin((numbers > 0) & (numbers <= MAX_ATOMIC_NUMBER)))
        raise UserError(f"{path}: atom {atom} has atomic number {numbers[atom]}")
    total = float(values.sum() * abs(np.linalg.det(steps)) / BOHR_IN_ANGSTROM**3)
    low, high = _ELECTRONS[0] * numbers.sum(), _ELECTRONS[1] * numbers.sum()
    if values.min() > _NEGATIVE and low < total < high:
        raise UserError(
            f"{path}: this is an electron density, not an ESP: nowhere negative, and {total:.1f} electrons in all (the "
            f"nuclei have {numbers.sum()}); write the electrostatic potential"
        )


def _in_shell(points: np.ndarray, atoms: Any, shell: GridShell) -> np.ndarray:
    """Return indices (K,) of points farther than ``inner`` radii from every atom and within ``outer`` radii of one."""
    near, too_near = np.zeros(len(points), bool), np.zeros(len(points), bool)
    for position, radius in zip(atoms.positions, VAN_DER_WAALS_RADII[atoms.numbers], strict=True):
        distances = np.linalg.norm(points - position, axis=1)
        near |= distances <= shell.outer * radius
        too_near |= distances <= shell.inner * radius
    return np.flatnonzero(near & ~too_near)


def _natural(path: Path) -> tuple[Any, ...]:
    """Return a sort key with digits (every second part) as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))

"""Geometries of one molecule from a user's file, with the ESP around them where it is an NPZ file that holds it."""

from __future__ import annotations

from typing import NamedTuple

import ase
import numpy as np

from shared.errors import UserError
from shared.input.ase_files import split_index
from shared.input.file_names import is_npz, on_disk
from shared.input.layout import Layout, understand_efd, understand_esp
from shared.input.npz import NpzFile
from shared.input.npz_rows import NpzRows
from shared.input.rows import Read, read_atoms, read_numbers, read_values
from shared.input.total_charge import total_charge_of
from shared.input.unit_choice import choose_units
from shared.input.unit_names import SCALES
from shared.shells import RADII
from shared.units import HARTREE_IN_KCAL_PER_MOL
from train.inference.molecule_input import read_molecules

FEWEST = 5
"""Geometries of which one is held out."""

_FARTHEST = 50.0
"""Å from the molecule: points beyond fill rows of files."""


class Frames(NamedTuple):
    """Geometries of one molecule of N atoms, in random order."""

    atoms: ase.Atoms
    geometries: np.ndarray  # (S, N, 3) Å
    points: list[np.ndarray] | None  # (G, 3) Å of each, outside the van der Waals radii
    esp: list[np.ndarray] | None  # (G,) kcal/mol/e of each


def read_geometries(name: str, most: int, seed: int) -> Frames:
    """Read ``FILE`` or ``FILE@0:100``, of which at most ``most`` frames are drawn.

    Raises:
        UserError: the file cannot be read, or its frames are not of one molecule in one order of atoms, or too few.
    """
    try:
        path, chosen = split_index(name)
    except UserError as error:
        raise UserError(f"--frames {error}") from error
    if is_npz(path):
        molecules, around = _read_npz(NpzFile(on_disk(path), name), chosen)
    else:
        molecules, around = read_molecules("", name, "--frames"), None
    for index, one in enumerate(molecules):
        first = molecules[0]
        if one.numbers.tolist() != first.numbers.tolist():
            raise UserError(
                f"--frames {name}, frame {index}: {one.get_chemical_formula(mode='reduce')}, but frame 0 is "
                f"{first.get_chemical_formula(mode='reduce')}; all frames have to be of one molecule, in one atom order"
            )
        if total_charge_of(one) != total_charge_of(first):
            raise UserError(
                f"--frames {name}, frame {index}: total charge {total_charge_of(one):g} e, but that of frame 0 is "
                f"{total_charge_of(first):g} e"
            )
    if len(molecules) < FEWEST:
        raise UserError(f"--frames {name}: {len(molecules)} frames; {FEWEST} are needed, of which one is held out")
    # A trajectory's last frames would be of one place.
    order = np.random.default_rng(seed).permutation(len(molecules))[:most]
    geometries = np.stack([molecules[index].positions for index in order])
    if around is None:
        return Frames(molecules[0], geometries, None, None)
    points, esp = ([around[index][which] for index in order] for which in (0, 1))
    if not min(map(len, points)):
        raise UserError(f"--frames {name}: a frame has no points of the ESP outside the van der Waals radii")
    return Frames(molecules[0], geometries, points, esp)


def _read_npz(file: NpzFile, chosen: slice) -> tuple[list[ase.Atoms], list[tuple[np.ndarray, np.ndarray]]]:
    """Return the molecules of an NPZ file, and the points (G, 3) in Å and ESP (G,) in kcal/mol/e of each."""
    layout = understand_esp(file)
    if "positions" not in layout:
        raise UserError(f"--frames {file.shown}: no geometries (R, Z) beside the ESP")
    units = choose_units(layout, layout, {}).units
    rows = NpzRows(file)

    def read(key: str, start: int, stop: int) -> np.ndarray:
        return rows.read(key, start, stop)[0]

    try:
        found = _rows(read, layout)
        charges = read_values(read, understand_efd(file, needs_energy=False), "total_charge", 0, layout.rows)
    finally:
        rows.close()
    numbers, n_atoms, positions, grid, esp, mask = found
    positions, grid = positions * SCALES["position"][units.position_unit], grid * SCALES["grid"][units.grid_unit]
    esp = esp * (SCALES["esp"][units.esp_unit] * HARTREE_IN_KCAL_PER_MOL)
    molecules, around = [], []
    for row in range(layout.rows)[chosen]:
        molecule = ase.Atoms(numbers[row, : n_atoms[row]], positions[row, : n_atoms[row]])
        molecule.info["charge"] = float(np.nan_to_num(charges[row]))
        distances = np.linalg.norm(grid[row, :, None] - molecule.positions, axis=-1)
        ratios = (distances / RADII[molecule.numbers]).min(axis=1)
        kept = mask[row] & (ratios >= 1.0) & (distances.min(axis=1) < _FARTHEST)
        molecules.append(molecule)
        around.append((grid[row, kept], esp[row, kept]))
    return molecules, around


def _rows(read: Read, layout: Layout) -> tuple[np.ndarray, ...]:
    """Return all rows: numbers, numbers of atoms, positions, grids, ESP, and which points are real."""
    n = layout.rows
    numbers, n_atoms = read_numbers(read, layout, 0, n)
    positions = read_atoms(read, layout, "positions", 0, n, n_atoms)
    grid = read(layout.key("grid"), 0, n).astype(np.float64)
    esp = read(layout.key("esp"), 0, n).reshape(grid.shape[:2]).astype(np.float64)
    real = np.isfinite(esp) & np.isfinite(grid).all(axis=-1)
    if "n_grid" in layout:
        count = layout.constants.get("n_grid")
        counts = read(layout.key("n_grid"), 0, n).reshape(n) if count is None else np.broadcast_to(count, n)
        real &= np.arange(grid.shape[1]) < counts[:, None]
    if "esp_mask" in layout:
        real &= read(layout.key("esp_mask"), 0, n).reshape(real.shape) != 0
    return numbers, n_atoms, positions, np.nan_to_num(grid), np.nan_to_num(esp), real

"""Files of distributed charges for other programs: extended XYZ, CSV, and their ESP as a Gaussian cube."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import ase
import ase.io
import numpy as np

from shared.errors import UserError
from shared.input.total_charge import total_charge_of
from shared.units import BOHR_IN_ANGSTROM
from train.inference.molecule_prediction import MoleculePrediction
from train.inference.predictor import Predictor

UNITS = (
    "positions Angstrom, charges e, energy eV, forces eV/Angstrom, dipoles e*Angstrom and traceless quadrupoles "
    "e*Angstrom^2 about the centre of mass"
)

CSV_COLUMNS = ("frame", "atom", "element", "charge_index", "x_angstrom", "y_angstrom", "z_angstrom", "charge_e")

_COLUMNS = ["symbols", "positions", "physnet_charge", "dcm_charge", "atom", "forces"]

_LARGEST_CUBE = 20_000_000
"""Most points of a cube; as text they take 270 MB."""


def extended_xyz(molecules: Sequence[ase.Atoms], predictions: Sequence[MoleculePrediction]) -> str:
    """Return one frame for each molecule: its atoms with PhysNet's charges and forces, then the distributed charges.

    These are particles of symbol X without forces. The column ``atom`` is the atom that a particle belongs to, from 0.
    ``physnet_charge`` is 0 for particles and ``dcm_charge`` for atoms, so that the sum of either is the total charge.
    """
    frames = [_with_charges(*pair) for pair in zip(molecules, predictions, strict=True)]
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz", columns=_COLUMNS)
    return text.getvalue()


def charges_csv(molecules: Sequence[ase.Atoms], predictions: Sequence[MoleculePrediction]) -> str:
    """Return one row for each distributed charge; frames, atoms and charges are counted from 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for frame, (atoms, prediction) in enumerate(zip(molecules, predictions, strict=True)):
        for atom, element in enumerate(atoms.symbols):
            pairs = zip(prediction.dcm_sites[atom].tolist(), prediction.dcm_charges[atom].tolist(), strict=True)
            for index, (site, charge) in enumerate(pairs):
                writer.writerow((frame, atom, element, index, *(f"{value:.10f}" for value in (*site, charge))))
    return text.getvalue()


class CubeGrid(NamedTuple):
    """A grid along x, y, z that a cube file can state exactly: lengths of six decimals in Bohr."""

    origin: np.ndarray  # (3,) Bohr
    step: float  # Bohr
    shape: tuple[int, int, int]

    def points(self) -> np.ndarray:
        """Return the points (X Y Z, 3) in Å, z varying fastest."""
        axes = [self.origin[i] + self.step * np.arange(self.shape[i]) for i in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * BOHR_IN_ANGSTROM


def cube_grid(atoms: ase.Atoms, spacing: float, margin: float) -> CubeGrid:
    """Return the grid around a molecule.

    Args:
        atoms: the molecule.
        spacing: between grid points, Å.
        margin: from the outermost atoms to the sides of the box, Å.

    Raises:
        UserError: it would be too large.
    """
    low, high = atoms.positions.min(axis=0) - margin, atoms.positions.max(axis=0) + margin
    steps = np.ceil((high - low) / spacing)
    if np.prod(steps + 1.0) > _LARGEST_CUBE:
        raise UserError(
            f"--cube-spacing {spacing:g} and --cube-margin {margin:g}: {np.prod(steps + 1.0):.3g} grid points, "
            f"more than {_LARGEST_CUBE:,}; choose a coarser grid or a smaller box"
        )
    origin = 0.5 * (low + high - steps * spacing) / BOHR_IN_ANGSTROM
    x, y, z = (int(number) + 1 for number in steps)
    return CubeGrid(np.round(origin, 6), round(spacing / BOHR_IN_ANGSTROM, 6), (x, y, z))


def potential_cube(predictor: Predictor, atoms: ase.Atoms, prediction: MoleculePrediction, grid: CubeGrid) -> str:
    """Return the ESP of the distributed charges as a Gaussian cube file, in Bohr and Hartree/e.

    The values are those of point charges: near them, inside the atoms, they are large and not those of a molecule.
    """
    values = predictor.potential(prediction, grid.points()).reshape(grid.shape)
    return _cube_header(atoms, grid) + _cube_values(values)


def _with_charges(atoms: ase.Atoms, prediction: MoleculePrediction) -> ase.Atoms:
    n, n_dcm = prediction.dcm_charges.shape
    numbers = np.concatenate([atoms.numbers, np.zeros(n * n_dcm, int)])
    particles = ase.Atoms(numbers, np.vstack([atoms.positions, prediction.dcm_sites.reshape(-1, 3)]))
    particles.arrays["physnet_charge"] = np.concatenate([prediction.charges, np.zeros(n * n_dcm)])
    particles.arrays["dcm_charge"] = np.concatenate([np.zeros(n), prediction.dcm_charges.ravel()])
    particles.arrays["atom"] = np.concatenate([np.arange(n), np.repeat(np.arange(n), n_dcm)])
    particles.arrays["forces"] = np.vstack([prediction.forces, np.zeros((n * n_dcm, 3))])
    particles.info = {
        "energy": prediction.energy,
        "dipole": prediction.dipole,
        "dipole_dcm": prediction.dipole_dcm,
        "quadrupole": prediction.quadrupole,
        "quadrupole_dcm": prediction.quadrupole_dcm,
        "charge": total_charge_of(atoms),
        "units": UNITS,
    }
    return particles


def _cube_header(atoms: ase.Atoms, grid: CubeGrid) -> str:
    lines = [
        f"ESP of the distributed charges of {atoms.get_chemical_formula()}, Hartree/e; lengths in Bohr",
        "OUTER LOOP: X, MIDDLE LOOP: Y, INNER LOOP: Z",
        _cube_line(len(atoms), grid.origin),
        *(_cube_line(grid.shape[i], grid.step * np.eye(3)[i]) for i in range(3)),
    ]
    for number, position in zip(atoms.numbers, atoms.positions / BOHR_IN_ANGSTROM, strict=True):
        lines.append(_cube_line(number, (number, *position)))
    return "\n".join(lines) + "\n"


def _cube_line(count: int, values: Sequence[float] | np.ndarray) -> str:
    # A blank before each number, however far from the origin: readers divide lines at blanks.
    return f"{count:5d}" + "".join(f" {value:11.6f}" for value in values)


def _cube_values(values: np.ndarray) -> str:
    """Format values, six in a line; every run along z begins a new line."""
    text = io.StringIO()
    for run in values.reshape(-1, values.shape[2]):
        words = [f" {value:12.5E}" for value in run.tolist()]
        text.writelines("".join(words[start : start + 6]) + "\n" for start in range(0, len(words), 6))
    return text.getvalue()

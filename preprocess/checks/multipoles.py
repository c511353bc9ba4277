"""Multipoles at the atoms fitted to an ESP by least squares: how well the grid, the ESP and the positions agree.

Charges and dipoles at all atoms and quadrupoles at all but hydrogen describe the ESP outside a molecule to about 2 %,
so that a grid in another unit or another frame shows in every single molecule; charges alone (10 to 60 %) do not
suffice, since lone pairs let some wrong grids fit better than the right one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from preprocess.checks.evidence import TOO_FEW_POINTS
from shared.elements import VAN_DER_WAALS_RADII
from shared.multipoles import HARMONICS, multipole_potentials, traceless
from shared.units import BOHR_IN_ANGSTROM

_RIDGE = 1e-6
"""Ridge over the mean diagonal of the normal equations: bounds the charges of atoms behind others (or coinciding)."""

USUAL = 90
"""Most unknowns of a fit that is cheap enough for every molecule."""
LARGEST = 260

_SMALLEST_SHARE = 0.3


@dataclass(frozen=True)
class Sites:
    """The atoms of n molecules with equal numbers of atoms and of heavy atoms, heavy atoms first."""

    positions: np.ndarray  # (n, atoms, 3) Å
    radii: np.ndarray  # (n, atoms) van der Waals radii, Å
    center: np.ndarray  # (n, 3) Å, the origin of dipole and quadrupole
    n_dipoles: int  # the first so many atoms have a dipole
    n_quadrupoles: int

    @property
    def size(self) -> int:
        """Return the number of unknowns."""
        return self.positions.shape[1] + 3 * self.n_dipoles + 5 * self.n_quadrupoles

    def times(self, count: int) -> Sites:
        """Return the molecules so many times, one after another."""
        positions, radii, center = (
            np.tile(array, (count, *[1] * (array.ndim - 1))) for array in (self.positions, self.radii, self.center)
        )
        return Sites(positions, radii, center, self.n_dipoles, self.n_quadrupoles)

    def outside(self, grid: np.ndarray) -> np.ndarray:
        """Return which points (n, points) of ``grid`` (n, points, 3) are outside the atoms' van der Waals radii."""
        return _outside(self.offsets(grid), self.radii)

    def offsets(self, grid: np.ndarray) -> np.ndarray:
        """Return the way (3, n, atoms, points) in Å from each atom to each point of ``grid`` (n, points, 3)."""
        return np.stack([grid[:, None, :, axis] - self.positions[:, :, None, axis] for axis in range(3)])


@dataclass(frozen=True)
class Fit:
    """Least-squares fits of n molecules; NaN where a molecule has too few grid points."""

    residual: np.ndarray  # (n,) root mean square of the misfit over that of the ESP, or TOO_FEW_POINTS
    charges: np.ndarray  # (n, atoms) e
    total_charge: np.ndarray  # (n,) e, sum of the charges
    dipole: np.ndarray  # (n, 3) e·Å about Sites.center
    quadrupole: np.ndarray  # (n, 3, 3) e·Å² about Sites.center, traceless
    charge_error: np.ndarray  # (n,) e, standard error
    dipole_error: np.ndarray  # (n,) e·Å
    quadrupole_error: np.ndarray  # (n,) e·Å²

    def rows(self, of: slice) -> Fit:
        """Return the fits of some of the molecules."""
        return Fit(*(getattr(self, field.name)[of] for field in fields(self)))


def choose_sites(numbers: np.ndarray, positions: np.ndarray, center: np.ndarray, n_heavy: int, n_points: int) -> Sites:
    """Choose the most detailed multipoles for molecules of this size and number of grid points.

    Args:
        numbers: (n, atoms), heavy atoms first.
        positions: (n, atoms, 3) in Å.
        center: (n, 3) in Å.
        n_heavy: atoms that are not hydrogen.
        n_points: least number of grid points.
    """
    n_dipoles, n_quadrupoles = _detail(numbers.shape[1], n_heavy, n_points)
    return Sites(positions, VAN_DER_WAALS_RADII[numbers], center, n_dipoles, n_quadrupoles)


def number_of_unknowns(numbers: np.ndarray, n_grid: np.ndarray) -> np.ndarray:
    """Return the unknowns (n,) of each molecule's fit; ``numbers`` (n, atoms), 0 = padding, ``n_grid`` (n,)."""
    counts = np.stack([(numbers > 0).sum(axis=1), (numbers > 1).sum(axis=1), np.minimum(n_grid, LARGEST * 2)], axis=1)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    details = [(atoms, *_detail(atoms, heavy, points)) for atoms, heavy, points in kinds.tolist()]
    sizes = [atoms + 3 * dipoles + 5 * quadrupoles for atoms, dipoles, quadrupoles in details]
    return np.array(sizes, dtype=np.int64)[kind.reshape(-1)]


def _detail(atoms: int, heavy: int, points: int) -> tuple[int, int]:
    """Return the numbers of dipoles and of quadrupoles."""
    for dipoles, quadrupoles, most in ((atoms, heavy, USUAL), (heavy, heavy, LARGEST), (heavy, 0, LARGEST)):
        size = atoms + 3 * dipoles + 5 * quadrupoles
        if size <= most and _points_needed(size) <= points:
            return dipoles, quadrupoles
    return 0, 0


def _points_needed(size: int) -> float:
    return 1.3 * size + 12


def charges_only(sites: Sites) -> Sites:
    """Return the same atoms without dipoles and quadrupoles."""
    return Sites(sites.positions, sites.radii, sites.center, 0, 0)


def _outside(offsets: np.ndarray, radii: np.ndarray) -> np.ndarray:
    x, y, z = offsets
    return np.asarray((x * x + y * y + z * z > radii[..., None] ** 2).all(axis=1))


def fit(sites: Sites, grid: np.ndarray, esp: np.ndarray, real: np.ndarray, also: np.ndarray | bool = True) -> Fit:
    """Fit the multipoles to the grid points outside the atoms.

    Args:
        sites: n molecules.
        grid: (n, points, 3) in Å.
        esp: (n, points) in Hartree/e.
        real: (n, points), which are not padding: if too few of them are fitted, there is no fit.
        also: (n, points), which of them may be fitted.
    """
    offsets = sites.offsets(grid)
    used, n_real = real & also & _outside(offsets, sites.radii), real.sum(axis=1)
    offsets /= BOHR_IN_ANGSTROM
    columns = multipole_potentials(offsets, sites.n_dipoles, sites.n_quadrupoles) * used[..., None]
    target = np.where(used, esp, 0.0)
    size = sites.size
    sums = _moments(sites)
    solution, variance = _solve(columns, target, sums)
    misfit = (columns @ solution[..., None])[..., 0] - target
    count, squares = used.sum(axis=1), np.einsum("np,np->n", misfit, misfit)
    enough = (count >= _points_needed(size)) & (count >= _SMALLEST_SHARE * n_real)
    power = np.einsum("np,np->n", target, target)
    residual = np.sqrt(squares / np.where(power > 0, power, np.nan))
    moments = np.where(enough[:, None], (solution[:, None] @ sums)[:, 0], np.nan)
    error = np.sqrt((squares / np.maximum(count - size, 1))[:, None] * variance)
    return Fit(
        residual=np.where(enough, residual, np.where(n_real >= _points_needed(size), TOO_FEW_POINTS, np.nan)),
        charges=np.where(enough[:, None], solution[:, : sites.positions.shape[1]], np.nan),
        total_charge=moments[:, 0],
        dipole=moments[:, 1:4],
        quadrupole=moments[:, 4:].reshape(-1, 3, 3),
        charge_error=error[:, 0],
        dipole_error=np.linalg.norm(error[:, 1:4], axis=1),
        quadrupole_error=np.linalg.norm(error[:, 4:], axis=1),
    )


def _moments(sites: Sites) -> np.ndarray:
    """Return what each unknown adds to charge, dipole and quadrupole about the center (e, e·Å, e·Å²), (n, size, 13)."""
    n, atoms = sites.positions.shape[:2]
    arms = sites.positions - sites.center[:, None]
    sums, tensors = np.zeros((n, sites.size, 4)), np.zeros((n, sites.size, 3, 3))
    sums[:, :atoms, 0] = 1.0
    sums[:, :atoms, 1:] = arms
    tensors[:, :atoms] = 0.5 * arms[..., :, None] * arms[..., None, :]
    for axis in range(3):
        own = slice(atoms + axis * sites.n_dipoles, atoms + (axis + 1) * sites.n_dipoles)
        sums[:, own, 1 + axis] = BOHR_IN_ANGSTROM
        tensors[:, own, axis] = BOHR_IN_ANGSTROM * arms[:, : sites.n_dipoles]
    for index, tensor in enumerate(HARMONICS):
        start = atoms + 3 * sites.n_dipoles + index * sites.n_quadrupoles
        tensors[:, start : start + sites.n_quadrupoles] = BOHR_IN_ANGSTROM**2 / 3.0 * tensor
    return np.concatenate([sums, 3.0 * traceless(tensors).reshape(n, sites.size, 9)], axis=2)


def _solve(columns: np.ndarray, target: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve by least squares (n, size), with the variances (n, m) of the ``sums`` (n, size, m) for unit variance."""
    size = columns.shape[2]
    diagonal = np.arange(size)
    normal = columns.transpose(0, 2, 1) @ columns
    normal[:, diagonal, diagonal] += _RIDGE * np.einsum("nii->n", normal)[:, None] / size + 1e-12
    moment = (columns.transpose(0, 2, 1) @ target[..., None])[..., 0]
    solution = np.linalg.solve(normal, np.concatenate([moment[:, :, None], sums], axis=2))
    return solution[:, :, 0], np.einsum("nsm,nsm->nm", solution[:, :, 1:], sums)

"""Multipoles on the atoms fitted to the ESP of single molecules: what more detail at each atom would reach."""

from __future__ import annotations

import numpy as np

from shared.multipoles import multipole_potentials
from shared.units import BOHR_IN_ANGSTROM
from train.data.batch import Batch

DIPOLES, QUADRUPOLES = 1, 2
"""Highest order of the multipoles."""

_POINTS_FOR_EACH = 2
"""Least number of grid points for each unknown: a fit to fewer says nothing of the ESP between them."""


def fit_multipoles(batch: Batch, order: int) -> np.ndarray:
    """Fit charges, dipoles and perhaps quadrupoles on all atoms to each molecule by itself, by least squares.

    Args:
        batch: molecules with grid points.
        order: DIPOLES, or QUADRUPOLES for these too.

    Returns:
        the error (B, G) of their ESP in Hartree/e, 0 in the padding; NaN for a molecule with too few points.
    """
    errors = np.zeros(batch.esp.shape)
    for i, points in enumerate(np.asarray(batch.esp_mask)):
        atoms = np.asarray(batch.atomic_numbers[i]) > 0
        n = int(atoms.sum())
        unknowns = n * (9 if order == QUADRUPOLES else 4)
        if points.sum() < _POINTS_FOR_EACH * unknowns:
            errors[i] = np.nan
            continue
        grid, positions = (
            np.asarray(array[i][own], np.float64) for array, own in ((batch.grid, points), (batch.positions, atoms))
        )
        offset = (grid.T[:, None] - positions.T[..., None]) / BOHR_IN_ANGSTROM
        columns = multipole_potentials(offset[:, None], n, n if order == QUADRUPOLES else 0)[0]
        # The last charge is what the others leave of the total charge.
        target = batch.esp[i][points] - float(batch.total_charge[i]) * columns[:, n - 1]
        free = np.delete(columns, n - 1, axis=1)
        free[:, : n - 1] -= columns[:, n - 1 : n]
        # Where all points lie in a plane through the atoms, dipoles across it have no potential.
        size = np.linalg.norm(free, axis=0)
        free /= np.where(size > 0, size, 1.0)
        solution, *_ = np.linalg.lstsq(free, target)
        errors[i, points] = free @ solution - target
    return errors

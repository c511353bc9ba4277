"""Initial charges of a new network: one for each element, fitted to the dipoles, or else ESPs, of the data.

A Coulomb energy is the same for charges of the other sign, so the forces drive new charges as readily the wrong way as
the right one, and the dipoles then take most of a training to turn them round: of four seeds on CO2, two ended their
twelfth epoch with dipoles ten times as wrong. On CO2 without dipoles, the ESP error of seventeen seeds after twelve
epochs was 0.34 kcal/mol/e (geometric mean) from charges fitted to the ESP, and 0.56 from none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shared.elements import MAX_ATOMIC_NUMBER
from shared.units import BOHR_IN_ANGSTROM
from train.data.loader import Loader

_MOST_EQUATIONS = 3 * 4096
_POINTS_OF_MOLECULE = 24
_RCOND = 1e-3
"""Combinations of charges that the dipoles do not determine get the smallest charges."""

_LARGEST = 1.0
"""Largest initial charge, e: the fit should not be far off where a set has few polar molecules."""


def element_charges(loader: Loader) -> np.ndarray:
    """Fit the charge c_Z of each element by least squares to p = Σ_i q_i·r_i with q_i = c_{Z_i} + (Q - Σ_j c_{Z_j})/N.

    Where no molecule has a dipole, of the ESP V(r) = Σ_i q_i/|r - r_i|, which determines the charges' sign as well.

    Args:
        loader: of the training split; of a large one, molecules at equal distances are taken.

    Returns:
        (MAX_ATOMIC_NUMBER + 1,) in e; 0 for elements of which there is neither a dipole nor an ESP.
    """
    with_dipole = [~np.isnan(bucket.column("dipole")).any(axis=1) for bucket in loader.buckets]
    if any(map(np.any, with_dipole)):
        equations = [_of_dipoles(loader, *part) for part in _sample(with_dipole, _MOST_EQUATIONS // 3)]
    else:
        with_esp = [bucket.column("n_grid") > 0 for bucket in loader.buckets]
        parts = _sample(with_esp, _MOST_EQUATIONS // _POINTS_OF_MOLECULE)
        equations = [_of_potentials(loader, *part) for part in parts]
    charges = np.zeros(MAX_ATOMIC_NUMBER + 1)
    matrix = np.concatenate([np.zeros((0, len(charges))), *(design for design, _ in equations)])
    values = np.concatenate([np.zeros(0), *(values for _, values in equations)])
    occurring = np.flatnonzero(np.abs(matrix).any(axis=0))
    if len(occurring):
        charges[occurring] = np.linalg.lstsq(matrix[:, occurring], values, rcond=_RCOND)[0]
    return np.clip(charges, -_LARGEST, _LARGEST)


def _sample(known: Sequence[np.ndarray], most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield buckets and some of their rows, at equal distances among the ``known`` ones (a mask for each bucket)."""
    total = sum(int(mask.sum()) for mask in known)
    for index, mask in enumerate(known):
        rows = np.flatnonzero(mask)
        if len(rows):
            share = max(1, most * len(rows) // total)
            yield index, rows[np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int))]


def _of_dipoles(loader: Loader, index: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bucket = loader.buckets[index]
    numbers, positions, charge, dipole = (
        bucket.take(name, rows) for name in ("atomic_numbers", "positions", "total_charge", "dipole")
    )
    return _equations(np.swapaxes(positions, 1, 2).astype(np.float64), numbers, charge, dipole)


def _of_potentials(loader: Loader, index: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the equations of some of each molecule's points that count; places beyond them give 0 = 0."""
    batch = loader.read_rows(index, rows, len(rows))
    points = np.argsort(~batch.esp_mask, axis=1, kind="stable")
    count = batch.esp_mask.sum(axis=1, keepdims=True)
    places = np.arange(_POINTS_OF_MOLECULE)
    points = np.take_along_axis(points, places * count // _POINTS_OF_MOLECULE, axis=1)
    counts = np.take_along_axis(batch.esp_mask, points, axis=1)
    grid = np.take_along_axis(batch.grid, points[..., None], axis=1).astype(np.float64)
    distances = np.linalg.norm(grid[:, :, None] - batch.positions[:, None].astype(np.float64), axis=-1)
    real = counts[..., None] & (batch.atomic_numbers > 0)[:, None]
    kernel = np.where(real, BOHR_IN_ANGSTROM / np.where(real, distances, 1.0), 0.0)
    esp = np.where(counts, np.take_along_axis(batch.esp, points, axis=1), 0.0)
    return _equations(kernel, batch.atomic_numbers, batch.total_charge, esp)


def _equations(
    kernel: np.ndarray, numbers: np.ndarray, charge: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the design (n·m, elements) and right side (n·m,) of ``values`` = Σ_i K_i q_i at the total charge.

    Args:
        kernel: (n, m, A) K.
        numbers: (n, A) atomic numbers.
        charge: (n,) total charges.
        values: (n, m).
    """
    real = (numbers > 0)[:, None]
    mean = np.where(real, kernel, 0.0).sum(axis=2) / real.sum(axis=2)
    centered = np.where(real, kernel - mean[..., None], 0.0)
    design = np.zeros((*kernel.shape[:2], MAX_ATOMIC_NUMBER + 1))
    molecules, equations = np.ogrid[: kernel.shape[0], : kernel.shape[1]]
    np.add.at(design, (molecules[..., None], equations[..., None], numbers[:, None]), centered)
    return design.reshape(-1, design.shape[2]), (values - charge[:, None] * mean).ravel()

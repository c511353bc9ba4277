"""Charges that a new network begins with: one for each element, fitted to the dipoles of the training split.

A Coulomb energy is the same for charges of the other sign, so the forces drive new charges as readily the wrong way as
the right one, and the dipoles then take most of a training to turn them round: of four seeds on CO2, two ended their
twelfth epoch with dipoles ten times as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.cache import BucketArrays
from shared.elements import MAX_ATOMIC_NUMBER

_MOST_MOLECULES = 4096
_RCOND = 1e-3
"""Combinations of elements whose charges the dipoles do not tell apart get the least charges."""

_LARGEST = 1.0
"""e: what is fitted is a beginning, and should not be far off where a set has few polar molecules."""


def element_charges(buckets: Sequence[BucketArrays]) -> np.ndarray:
    """Charge c_Z of each element, least squares of p = Σ_i (c_{Z_i} + (Q - Σ_j c_{Z_j})/N)·r_i.

    Args:
        buckets: of the training split; of a large one, molecules at equal distances are taken.

    Returns:
        (MAX_ATOMIC_NUMBER + 1,) in e; 0 for elements that do not occur.
    """
    total = sum(len(bucket) for bucket in buckets)
    rows, dipoles = [], []
    for bucket in buckets:
        share = max(1, _MOST_MOLECULES * len(bucket) // total)
        chosen = np.unique(np.linspace(0, len(bucket) - 1, min(share, len(bucket))).astype(int))
        numbers = bucket.take("atomic_numbers", chosen)
        positions = bucket.take("positions", chosen).astype(np.float64)
        real = (numbers > 0)[..., None]
        center = (positions * real).sum(axis=1) / real.sum(axis=1)
        centered = np.where(real, positions - center[:, None], 0.0)
        design = np.zeros((len(chosen), MAX_ATOMIC_NUMBER + 1, 3))
        np.add.at(design, (np.arange(len(chosen))[:, None], numbers), centered)
        rows.append(np.moveaxis(design, 1, 2).reshape(-1, MAX_ATOMIC_NUMBER + 1))
        # The share of the total charge that every atom has, about the origin that the dipole is about.
        charge = bucket.take("total_charge", chosen)[:, None]
        dipoles.append((bucket.take("dipole", chosen) - charge * center).ravel())
    matrix, dipole = np.concatenate(rows), np.concatenate(dipoles)
    occurring = np.flatnonzero(np.abs(matrix).any(axis=0))
    charges = np.zeros(MAX_ATOMIC_NUMBER + 1)
    if len(occurring):
        charges[occurring] = np.linalg.lstsq(matrix[:, occurring], dipole, rcond=_RCOND)[0]
    return np.clip(charges, -_LARGEST, _LARGEST)

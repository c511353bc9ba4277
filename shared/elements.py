"""Per-element tables, indexed by atomic number: masses, radii, symbols."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.data.vdw_alvarez import vdw_radii

MAX_ATOMIC_NUMBER = len(chemical_symbols) - 1
"""The heaviest element that the tables know (118)."""

MASSES = np.asarray(atomic_masses, dtype=np.float64)
"""Standard atomic masses in u (IUPAC 2016, through ASE); entry 0, padding, is set to 0."""
MASSES = np.where(np.arange(MASSES.size) == 0, 0.0, MASSES)

_FALLBACK_RADIUS = 2.0


def _radii() -> np.ndarray:
    table = np.full(MAX_ATOMIC_NUMBER + 1, _FALLBACK_RADIUS)
    known = np.asarray(vdw_radii, dtype=np.float64)[: table.size]
    table[: known.size] = np.where(np.isfinite(known), known, _FALLBACK_RADIUS)
    table[0] = 0.0
    return table


VAN_DER_WAALS_RADII = _radii()
"""Radii in Å from S. Alvarez, Dalton Trans. 2013, 42, 8617 (through ASE); 2 Å where that table is blank."""


def symbol(atomic_number: int) -> str:
    """Chemical symbol of an atomic number in 0 … 118 (``X`` for 0)."""
    return chemical_symbols[atomic_number]


def centers_of_mass(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Centre of mass of every molecule, padding excluded.

    Args:
        positions: (n, atoms, 3) in Å; rows of padding may hold anything.
        atomic_numbers: (n, atoms), 0 = padding.

    Returns:
        (n, 3) in Å, float64.
    """
    mass = MASSES[atomic_numbers]
    real = np.where((atomic_numbers > 0)[..., None], positions, 0.0)
    return (mass[..., None] * real).sum(axis=1) / mass.sum(axis=1)[:, None]

"""Per-element tables, indexed by atomic number: masses, radii, symbols."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import data
from ase.data.vdw_alvarez import vdw_radii
from ase.formula import Formula

MAX_ATOMIC_NUMBER = len(data.chemical_symbols) - 1
"""The heaviest element that the tables know (118)."""


def element_table(values: Mapping[int, float], others: float | np.ndarray = 0.0) -> np.ndarray:
    """Return a table (119,), float64, of one value for every atomic number.

    Args:
        values: value by atomic number.
        others: value of all other elements and of padding (entry 0), or a table (119,) of them.
    """
    table = np.full(MAX_ATOMIC_NUMBER + 1, others, np.float64)
    for atomic_number, value in values.items():
        table[atomic_number] = value
    return table


MASSES = element_table({0: 0.0}, data.atomic_masses)
"""Standard atomic masses in u (IUPAC 2016, through ASE); 0 for padding."""

COVALENT_RADII = element_table({}, data.covalent_radii)
"""Radii in Å from B. Cordero et al., Dalton Trans. 2008, 2832 (through ASE); 2 Å beyond curium, 0.2 Å for padding."""

VAN_DER_WAALS_RADII = element_table({z: r for z, r in enumerate(vdw_radii) if z and np.isfinite(r)} | {0: 0.0}, 2.0)
"""Radii in Å from S. Alvarez, Dalton Trans. 2013, 42, 8617 (through ASE); 2 Å where that table is blank."""


def symbol(atomic_number: int) -> str:
    """Return the chemical symbol of an atomic number in 0 … 118 (``X`` for 0)."""
    return data.chemical_symbols[atomic_number]


def formula(atomic_numbers: np.ndarray) -> str:
    """Return the formula of atomic numbers (N,), in Hill's order."""
    return str(Formula.from_list([symbol(int(z)) for z in atomic_numbers]).format("hill"))


def centers_of_mass(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Return the centre of mass of every molecule, padding excluded.

    Args:
        positions: (n, atoms, 3) in Å; rows of padding may hold anything.
        atomic_numbers: (n, atoms), 0 = padding.

    Returns:
        (n, 3) in Å, float64.
    """
    mass = MASSES[atomic_numbers]
    real = np.where((atomic_numbers > 0)[..., None], positions, 0.0)
    return (mass[..., None] * real).sum(axis=1) / mass.sum(axis=1)[:, None]

"""Tables that the checks compare the data with: atomic energies, electronegativities, and units of users' data."""

from __future__ import annotations

import numpy as np

from shared import units
from shared.elements import VAN_DER_WAALS_RADII, element_table

NOBLE_GASES = (2, 10, 18, 36, 54, 86)

INSIDE_RADII = 0.55 * VAN_DER_WAALS_RADII
"""Distances in Å within which a grid point is inside an atom: ESP grids start at about 1.2 van der Waals radii."""

# Hartree, hydrogen to krypton: numerical Hartree-Fock, C. F. Bunge, J. A. Barrientos, A. V. Bunge,
# At. Data Nucl. Data Tables 1993, 53, 113. Density functionals differ from them by less than 1 % (hydrogen: 2 %).
_HARTREE_FOCK = (
    *(-0.5, -2.86168, -7.43273, -14.57302, -24.52906, -37.68862, -54.40093, -74.80940, -99.40935, -128.54710),
    *(-161.85891, -199.61464, -241.87671, -288.85436, -340.71878, -397.50490, -459.48207, -526.81751, -599.16479),
    *(-676.75818, -759.73572, -848.40600, -942.88434, -1043.35638, -1149.86625, -1262.44367, -1381.41455),
    *(-1506.87091, -1638.96374, -1777.84812, -1923.26101, -2075.35973, -2234.23865, -2399.86761, -2572.44133),
    -2752.05498,
)
ATOMIC_ENERGIES = element_table(dict(enumerate(np.array(_HARTREE_FOCK) * units.HARTREE_IN_EV, 1)), np.nan)
"""Total energies in eV of free atoms with all electrons, by atomic number; NaN beyond krypton."""

ELECTRONEGATIVITY = element_table(
    {
        **{1: 2.20, 3: 0.98, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 11: 0.93, 12: 1.31, 13: 1.61},
        **{14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16, 35: 2.96, 53: 2.66},
    },
    np.nan,
)
"""Pauling's scale (CRC Handbook of Chemistry and Physics) of the elements whose charges an ESP determines; else NaN."""

_RYDBERG = units.HARTREE_IN_EV / 2

ENERGY_UNITS = {**units.ENERGY_UNITS_IN_EV, "rydberg": _RYDBERG}
"""Energy units in eV: those that a flag names, and others that occur in users' data."""

FORCE_UNITS = {
    **units.FORCE_UNITS_IN_EV_PER_ANGSTROM,
    "kcal/mol/bohr": units.KCAL_PER_MOL_IN_EV / units.BOHR_IN_ANGSTROM,
    "kj/mol/nm": units.KJ_PER_MOL_IN_EV / 10,
    "rydberg/bohr": _RYDBERG / units.BOHR_IN_ANGSTROM,
}
"""Force units in eV/Å."""

DIPOLE_UNITS = units.DIPOLE_UNITS_IN_E_ANGSTROM
QUADRUPOLE_UNITS = units.QUADRUPOLE_UNITS_IN_E_ANGSTROM2

ESP_UNITS = {**units.ESP_UNITS_IN_HARTREE_PER_E, "mHartree/e": 1e-3, "e/angstrom": units.BOHR_IN_ANGSTROM}
"""Units of the ESP in Hartree/e."""


def atomic_energy_sum(composition: bytes) -> float:
    """Return the sum of ATOMIC_ENERGIES over the atoms, eV; NaN if one is not in the table."""
    return float(ATOMIC_ENERGIES[np.frombuffer(composition, dtype=np.uint8)].sum())

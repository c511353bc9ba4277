"""The potential of charges, dipoles and quadrupoles, for fits by least squares."""

from __future__ import annotations

import numpy as np

_SHORTEST_BOHR = 0.5
"""Points at a nucleus, where nothing of this holds, leave the other points their weight in a fit."""


def multipole_potentials(offset: np.ndarray, n_dipoles: int, n_quadrupoles: int) -> np.ndarray:
    """Return the potential (n, points, sites + 3 n_dipoles + 5 n_quadrupoles) of each unit multipole, atomic units.

    Within half a Bohr of a site it is the potential at this distance.

    Args:
        offset: (n, points, sites, 3) from the sites to the points, in Bohr.
        n_dipoles: the first so many sites have a dipole.
        n_quadrupoles: the first so many sites have a quadrupole.
    """
    n, points = offset.shape[:2]
    inverse = 1 / np.maximum(np.sqrt(np.einsum("npak,npak->npa", offset, offset)), _SHORTEST_BOHR)
    dipoles = offset[:, :, :n_dipoles] * inverse[:, :, :n_dipoles, None] ** 3
    x, y, z = np.moveaxis(offset[:, :, :n_quadrupoles] * inverse[:, :, :n_quadrupoles, None], 3, 0)
    # The five real d harmonics over r³, scaled alike; their quadrupoles are in preprocess.checks.multipoles.
    harmonics = (x * y, x * z, y * z, (x * x - y * y) / 2, (3 * z * z - 1) / np.sqrt(12.0))
    cubed = inverse[:, :, :n_quadrupoles] ** 3
    return np.concatenate(
        [inverse, np.moveaxis(dipoles, 3, 2).reshape(n, points, -1), *(one * cubed for one in harmonics)], axis=2
    )

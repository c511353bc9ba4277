"""Multipoles: quadrupoles ½ Σ q (3 x xᵀ - |x|² 1) without trace or about another origin, and potentials for fits.

Convention: A. D. Buckingham, Quarterly Reviews 1959, 13, 183.
"""

from __future__ import annotations

import numpy as np

HARMONICS = np.array(
    [
        [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]],
        [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]],
        [[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]],
        [[0.5, 0, 0], [0, -0.5, 0], [0, 0, 0]],
        np.diag([-1, -1, 2]) / np.sqrt(12.0),
    ]
)
"""Unit quadrupoles Θ (5, 3, 3), of potential nᵀ Θ n/r³: nᵀ Θ n is xy, xz, yz, (x² - y²)/2 and (3 z² - 1)/√12 of n."""

_SHORTEST_BOHR = 0.5
"""Points at a nucleus, where nothing of this holds, leave the other points their weight in a fit."""


def traceless(tensors: np.ndarray) -> np.ndarray:
    """Return the symmetric traceless part of tensors (..., 3, 3)."""
    symmetric = 0.5 * (tensors + np.swapaxes(tensors, -1, -2))
    return np.asarray(symmetric - np.trace(symmetric, axis1=-2, axis2=-1)[..., None, None] / 3.0 * np.eye(3))


def moved_quadrupoles(
    quadrupoles: np.ndarray, dipoles: np.ndarray, charges: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return quadrupoles (n, 3, 3) in e·Å² about an origin that lies ``shift`` from that of the given moments.

    Args:
        quadrupoles: (n, 3, 3) in e·Å².
        dipoles: (n, 3) in e·Å, about the same origin.
        charges: (n,) in e, total.
        shift: (n, 3) in Å.
    """
    # x xᵀ of x - s: the dipole enters twice, the charge once.
    outer = charges[:, None, None] * shift[:, :, None] * shift[:, None, :] - 2.0 * dipoles[:, :, None] * shift[:, None]
    return quadrupoles + 1.5 * traceless(outer)


def multipole_potentials(offset: np.ndarray, n_dipoles: int, n_quadrupoles: int) -> np.ndarray:
    """Return the potential (n, points, sites + 3 n_dipoles + 5 n_quadrupoles) of each unit multipole, atomic units.

    Within half a Bohr of a site it is the potential at this distance.

    Args:
        offset: (3, n, sites, points) from the sites to the points, in Bohr.
        n_dipoles: the first so many sites have a dipole.
        n_quadrupoles: the first so many sites have a quadrupole.
    """
    x, y, z = offset
    n, sites, points = x.shape
    # Points last, here and in memory: every product reads and writes numbers that are next to each other.
    columns = np.empty((n, sites + 3 * n_dipoles + 5 * n_quadrupoles, points))
    inverse = columns[:, :sites]
    np.divide(1.0, np.maximum(np.sqrt(x * x + y * y + z * z), _SHORTEST_BOHR), out=inverse)
    cubed = inverse * inverse * inverse
    free = sites
    for component in (x, y, z):
        np.multiply(component[:, :n_dipoles], cubed[:, :n_dipoles], out=columns[:, free : free + n_dipoles])
        free += n_dipoles
    if n_quadrupoles:
        x, y, z = (component[:, :n_quadrupoles] * inverse[:, :n_quadrupoles] for component in (x, y, z))
        cubed = cubed[:, :n_quadrupoles]
        # nᵀ Θ n of each of HARMONICS.
        for harmonic in (x * y, x * z, y * z, (x * x - y * y) / 2, (3 * z * z - 1) / np.sqrt(12.0)):
            np.multiply(harmonic, cubed, out=columns[:, free : free + n_quadrupoles])
            free += n_quadrupoles
    return columns.swapaxes(1, 2)

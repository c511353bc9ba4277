"""Quadrupoles of molecules, ½ Σ q (3 x xᵀ - |x|² 1) : without trace, about another origin.

Convention: A. D. Buckingham, Quarterly Reviews 1959, 13, 183.
"""

from __future__ import annotations

import numpy as np


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

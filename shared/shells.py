"""Points of the electrostatic potential: Merz–Kollman shells around the atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII, element_table

RADII = element_table({1: 1.2, 6: 1.5, 7: 1.5, 8: 1.4, 9: 1.35, 16: 1.75, 17: 1.7}, VAN_DER_WAALS_RADII)
"""Radii of the elements in Å: of H, C, N, O, F, S, Cl those in common use for Merz–Kollman charges (U. C. Singh, P. A.
Kollman, J. Comput. Chem. 1984, 5, 129, and its later extensions), which the carried sample has; of all others those of
S. Alvarez (:mod:`shared.elements`)."""

_INSIDE = 1e-9
"""Å by which rounding may put a point of a sphere inside it."""


@dataclass(frozen=True)
class Shells:
    """The shells of the points."""

    factors: tuple[float, ...] = (1.4, 1.6, 1.8, 2.0)
    """Radii of the shells, as multiples of the elements' radii."""

    density: float = 1.0
    """Density of points on each sphere, 1/Å²."""

    def points(self, atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the points of all shells, inner shells first, atom by atom within a shell.

        A point inside of another atom's sphere of the same shell is left out.

        Args:
            atomic_numbers: (atoms,)
            positions: (atoms, 3) in Å.

        Returns:
            (points, 3) in Å.
        """
        found = []
        for factor in self.factors:
            radii = factor * RADII[atomic_numbers]
            for atom, radius in enumerate(radii):
                count = max(1, round(4.0 * np.pi * radius**2 * self.density))
                points = positions[atom] + radius * sphere(count)
                distances = np.linalg.norm(points[:, None] - positions, axis=-1)
                distances[:, atom] = np.inf
                found.append(points[(distances >= radii - _INSIDE).all(axis=1)])
        return np.concatenate(found)


def sphere(count: int) -> np.ndarray:
    """Return evenly spread directions (count, 3): a Fibonacci lattice, its points in the middles of equal zones."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + 5.0**0.5) * index
    planar = np.sqrt(1.0 - z**2)
    return np.stack([planar * np.cos(angle), planar * np.sin(angle), z], axis=1)

"""The grid points that count in the ESP loss, as a mask over the bucket's fixed shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII
from shared.jit import jit


@dataclass(frozen=True)
class EspSelection:
    """Conditions on the grid points that are kept; 0 switches one off."""

    radius_factor: float = 0.0  # outside this multiple of every atom's van der Waals radius
    min_distance: float = 0.0  # Å, at least this far from every atom
    max_value: float = 0.0  # Hartree/e, at most this absolute ESP


def esp_mask(
    selection: EspSelection,
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    grid: np.ndarray,
    esp: np.ndarray,
    n_grid: np.ndarray,
) -> np.ndarray:
    """Return the mask of points that are real and selected: inside an atom the potential would dominate the loss.

    Args:
        selection: the conditions.
        positions: (n, A, 3) in Å.
        atomic_numbers: (n, A), 0 = padding.
        grid: (n, G, 3) in Å.
        esp: (n, G) in Hartree/e.
        n_grid: (n,) real points.

    Returns:
        (n, G) bool.
    """
    mask = np.arange(grid.shape[1]) < n_grid[:, None]
    if selection.max_value:
        mask &= np.abs(esp) <= selection.max_value
    if selection.radius_factor or selection.min_distance:
        reach = np.maximum(selection.radius_factor * VAN_DER_WAALS_RADII, selection.min_distance)
        reach[0] = 0.0
        _drop_near(mask, positions, reach[atomic_numbers] ** 2, grid)
    return mask


@jit()
def _drop_near(mask: np.ndarray, positions: np.ndarray, squared_reach: np.ndarray, grid: np.ndarray) -> None:
    for molecule in range(mask.shape[0]):
        for point in range(mask.shape[1]):
            if not mask[molecule, point]:
                continue
            for atom in range(positions.shape[1]):
                dx = grid[molecule, point, 0] - positions[molecule, atom, 0]
                dy = grid[molecule, point, 1] - positions[molecule, atom, 1]
                dz = grid[molecule, point, 2] - positions[molecule, atom, 2]
                if dx * dx + dy * dy + dz * dz < squared_reach[molecule, atom]:
                    mask[molecule, point] = False
                    break

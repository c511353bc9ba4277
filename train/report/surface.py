"""A closed surface around a molecule near its innermost grid points, and the interpolation of values to it.

The surface is that of van der Waals spheres (Alvarez 2013) scaled by one factor and smoothly joined, found with surface
nets (S. F. F. Gibson, MICCAI 1998): a vertex in every cell of a lattice that the surface passes through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from shared.elements import VAN_DER_WAALS_RADII

REACH_ANGSTROM = 1.0
"""Distance from the grid points beyond which the surface is left open: the ESP there is unknown."""

_INNERMOST = 0.1  # share of the grid points inside the surface
_SHARPNESS = 14.0
_CELLS = 34  # along the longest side
_FINEST_ANGSTROM = 0.22
_NEIGHBOURS = 40
_FEWEST_POINTS = 30


@dataclass(frozen=True)
class Surface:
    """Triangles around a molecule."""

    vertices: np.ndarray  # (V, 3) Å
    faces: np.ndarray  # (F, 3) of vertices, counter-clockwise seen from outside
    normals: np.ndarray  # (V, 3) outwards, of length 1


def molecular_surface(atomic_numbers: np.ndarray, positions: np.ndarray, grid: np.ndarray) -> Surface | None:
    """Return the surface; None where there are too few grid points, or they are in a plane.

    Args:
        atomic_numbers: (N,).
        positions: (N, 3) Å.
        grid: (G, 3) Å.
    """
    if len(grid) < _FEWEST_POINTS or np.linalg.matrix_rank(grid - grid.mean(axis=0), tol=1e-3) < 3:
        return None
    radii = VAN_DER_WAALS_RADII[atomic_numbers]
    level = np.quantile(_multiples(grid, positions, radii)[0], _INNERMOST)
    vertices, faces = _surface_net(positions, radii, level)
    for _ in range(4):  # Newton, along the gradient
        multiples, gradient = _multiples(vertices, positions, radii)
        vertices = vertices - ((multiples - level) / (gradient**2).sum(axis=1))[:, None] * gradient
    known = cKDTree(grid).query(vertices)[0] < REACH_ANGSTROM
    faces = faces[known[faces].all(axis=1)]
    if not len(faces):
        return None
    used, faces = np.unique(faces, return_inverse=True)
    gradient = _multiples(vertices[used], positions, radii)[1]
    return Surface(vertices[used], faces.reshape(-1, 3), gradient / np.linalg.norm(gradient, axis=1, keepdims=True))


def interpolate(grid: np.ndarray, values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return values at other points (P,), by cubic radial basis functions of the nearest grid points.

    Args:
        grid: (G, 3) Å.
        values: (G,) finite.
        points: (P, 3) Å.
    """
    # A point that is there twice, or nearly, would make the equations singular.
    _, first = np.unique(np.round(grid.astype(np.float64), 3), axis=0, return_index=True)
    places, known = grid[first].astype(np.float64), values[first].astype(np.float64)
    try:
        return RBFInterpolator(places, known, neighbors=_NEIGHBOURS, kernel="cubic", degree=1)(points)
    except np.linalg.LinAlgError:  # neighbours in a plane; this kernel does not mind
        return RBFInterpolator(places, known, neighbors=_NEIGHBOURS, kernel="linear", degree=0)(points)


def _multiples(points: np.ndarray, positions: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smoothed distance (P,) from the nearest atom in units of its radius, and its gradient (P, 3)."""
    difference = points[:, None] - positions[None]
    distances = np.linalg.norm(difference, axis=-1) + 1e-12
    multiples = distances / radii
    nearest = multiples.min(axis=1, keepdims=True)
    weights = np.exp(-_SHARPNESS * (multiples - nearest))
    total = weights.sum(axis=1)
    slopes = difference / (distances * radii)[..., None]
    joined = nearest[:, 0] - np.log(total) / _SHARPNESS
    return joined, np.einsum("pn,pnx->px", weights / total[:, None], slopes)


def _surface_net(positions: np.ndarray, radii: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (V, 3) in Å and triangles (F, 3) of the surface where the scaled distance is ``level``."""
    margin = level * radii.max() * 1.15
    low, high = positions.min(axis=0) - margin, positions.max(axis=0) + margin
    spacing = max(_FINEST_ANGSTROM, float((high - low).max()) / _CELLS)
    counts = np.ceil((high - low) / spacing).astype(int) + 3
    lattice = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
    points = low - spacing + spacing * lattice.reshape(-1, 3)
    field = _multiples(points, positions, radii)[0].reshape(counts) - level
    corners = np.zeros((*(counts - 1), 3))
    hits = np.zeros(counts - 1)
    quads = []
    for axis in range(3):
        before, after = _shifted(field, axis, 0), _shifted(field, axis, 1)
        crossed = np.argwhere((before < 0) != (after < 0))
        at = tuple(crossed.T)
        place = crossed.astype(float)
        place[:, axis] += before[at] / (before[at] - after[at])
        # The four cells around a lattice edge, in the order of a turn about its axis.
        second, third = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        cells = [crossed - a * second - b * third for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
        for cell in cells:
            np.add.at(corners, tuple(cell.T), place)
            np.add.at(hits, tuple(cell.T), 1)
        turn = np.stack([np.ravel_multi_index(tuple(cell.T), tuple(counts - 1)) for cell in cells], axis=1)
        quads.append(np.where((before[at] < 0)[:, None], turn, turn[:, ::-1]))
    numbers = np.cumsum(hits.ravel() > 0) - 1
    met = hits > 0
    vertices = low - spacing + spacing * corners[met] / hits[met][:, None]
    square = numbers[np.concatenate(quads)]
    return vertices, np.concatenate([square[:, [0, 1, 2]], square[:, [0, 2, 3]]])


def _shifted(field: np.ndarray, axis: int, start: int) -> np.ndarray:
    """Return all but the last (``start`` 0) or the first (1) layer of a lattice along an axis."""
    return np.take(field, np.arange(start, field.shape[axis] - 1 + start), axis=axis)

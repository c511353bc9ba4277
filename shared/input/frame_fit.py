"""Fit of the shift between grid points and the atoms of their ESP, where the grid has a frame of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.input import frame_lattice, frame_multipoles, frame_shells
from shared.units import BOHR_IN_ANGSTROM

SHARP = 0.03
"""Largest standard error, Å, of a shift that is trusted: its effect on the ESP is less than charge models' errors."""

_Molecule = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Numbers (N,), positions (N, 3), points (G, 3), ESP (G,)."""

_UNKNOWN = frame_multipoles.PRIOR_SPREAD * 3.0**0.5
"""Standard error, Å, of a shift known from the points' mean alone."""
_FEWEST_POINTS = 12
_LARGEST_RESIDUAL = 0.2
"""Largest relative residual of an ESP that belongs to these atoms and points."""
_CLEARLY_WORSE = 3.0
"""Least ratio of the residuals of two shifts at which one is wrong."""
_AROUND = 0.05 * np.stack(np.meshgrid(*[np.arange(-1.0, 2.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
"""Offsets, Å, from the ESP's shift, at which spheres are sought once more where there are few points."""


class FrameFit(NamedTuple):
    """A shift of a molecule's grid points."""

    shift: np.ndarray  # (3,) Å, to be added to the points
    uncertainty: float  # Å, standard error of the shift's length
    method: str  # "shells" | "cube" | "multipoles"
    sharp: bool  # whether it is trusted
    residual: float  # root-mean-square misfit of the ESP over that of the ESP

    @property
    def in_frame(self) -> bool:
        """Return whether the points are in the atoms' frame already, within the accuracy of the fit."""
        return bool(np.linalg.norm(self.shift) <= max(3.0 * self.uncertainty, 1e-4))


def fit_shift(numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, esp: np.ndarray) -> FrameFit:
    """Find the shift of a molecule's grid points from the atoms' positions and the ESP.

    Spheres round the atoms, of any radii, are found from the points alone. The points of a cube leave holes round the
    atoms, which are weighed together with the ESP; other points are placed by the ESP alone.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Å.
        points: (G, 3) in Å, without padding.
        esp: (G,) in Hartree/e. Points that are not finite, or whose ESP is not, are left out.

    Raises:
        ValueError: a shape is wrong, there is no atom, or an atom's number or position is invalid.
    """
    molecule = numbers, positions, points, esp = _checked(numbers, positions, points, esp)
    if len(points) < _FEWEST_POINTS:
        guess = centroid_shift(positions, points) if len(points) else np.zeros(3)
        return FrameFit(guess, _UNKNOWN, "multipoles", False, 1.0)
    guess = centroid_shift(positions, points)
    lattice = frame_lattice.is_lattice(points)
    on_spheres = None if lattice else _choose(molecule, frame_shells.vote_and_refine(*molecule[:3], guess))
    if on_spheres is not None:
        return on_spheres
    moments = frame_multipoles.fit_multipoles(*molecule, guess)
    known = moments.converged and moments.residual <= _LARGEST_RESIDUAL
    if not lattice:
        on_spheres = _choose(molecule, frame_shells.refine(*molecule[:3], moments.shift + _AROUND))
        return on_spheres or _rated(moments.shift, moments.covariance, "multipoles", known, moments.residual)
    if known:
        holes = frame_lattice.fit_holes(*molecule[:3], moments.shift, moments.covariance)
    else:
        holes = frame_lattice.fit_holes(*molecule[:3], guess, frame_multipoles.PRIOR_SPREAD**2 * np.eye(3))
    if holes.clear:
        residual = frame_multipoles.residual_at(*molecule, holes.shift)
        if not known or residual < _CLEARLY_WORSE * moments.residual:
            return _rated(holes.shift, holes.covariance, "cube", True, residual)
        known = False
    return _rated(moments.shift, moments.covariance, "multipoles", known, moments.residual)


def _choose(molecule: _Molecule, fits: list[frame_shells.ShellFit]) -> FrameFit | None:
    """Choose the best shift onto spheres; between two equally good ones, the one that the ESP agrees with."""
    if not fits:
        return None
    residuals = [frame_multipoles.residual_at(*molecule, fits[0].shift)]
    if len(fits) > 1 and fits[0].score - fits[1].score < frame_shells.SURE:
        residuals.append(frame_multipoles.residual_at(*molecule, fits[1].shift))
        if max(residuals) < _CLEARLY_WORSE * min(residuals):
            return None
    shift, uncertainty, _ = fits[int(np.argmin(residuals))]
    return FrameFit(shift, uncertainty, "shells", uncertainty <= SHARP, min(residuals))


def centroid_shift(positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the shift (3,) in Å of the points' mean (G, 3) onto the atoms' mean (N, 3), as the predecessor's."""
    return np.asarray(positions, np.float64).mean(axis=0) - np.asarray(points, np.float64).mean(axis=0)


def origin_shift(grid_origin: np.ndarray) -> np.ndarray:
    """Return the shift in Å of points counted from a cube's first one; ``grid_origin`` (..., 3) in Bohr."""
    return np.asarray(grid_origin, dtype=np.float64) * BOHR_IN_ANGSTROM


def _rated(shift: np.ndarray, covariance: np.ndarray, method: str, known: bool, residual: float) -> FrameFit:
    uncertainty = min(float(np.sqrt(np.trace(covariance))), _UNKNOWN) if known else _UNKNOWN
    return FrameFit(shift, uncertainty, method, known and uncertainty <= SHARP, residual)


def _checked(numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, esp: np.ndarray) -> _Molecule:
    """Return the arguments in float64, without points that are not finite."""
    if numbers.ndim != 1 or not len(numbers) or positions.shape != (len(numbers), 3):
        raise ValueError(
            f"numbers must have shape (N,) and positions (N, 3), received {numbers.shape} and {positions.shape}"
        )
    if esp.ndim != 1 or points.shape != (len(esp), 3):
        raise ValueError(f"esp must have shape (G,) and points (G, 3), received {esp.shape} and {points.shape}")
    if numbers.min() < 1 or not np.isfinite(positions).all():
        raise ValueError(f"every atom must have a number and a finite position, received {numbers} at {positions}")
    finite = np.isfinite(points).all(axis=1) & np.isfinite(esp)
    return (
        np.asarray(numbers, dtype=np.int64),
        np.ascontiguousarray(positions, dtype=np.float64),
        np.ascontiguousarray(points[finite], dtype=np.float64),
        np.ascontiguousarray(esp[finite], dtype=np.float64),
    )

"""Geometries of a molecule at a temperature, and the points around them."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from shared.errors import UserError
from shared.geometry import overlap
from shared.normal_modes import normal_modes, thermal_spread
from train.fixed_charges.orbit_fit import Target

_DRAWS = 100

_FITTED_VALUES = 8_000
"""Values of the ESP that charges are fitted to, of all geometries together."""


def thermal_geometries(
    relaxed: ase.Atoms, hessian: np.ndarray, samples: int, temperature: float, statistics: str, seed: int
) -> np.ndarray:
    """Draw geometries (samples, N, 3) in Å of harmonic oscillators; modes below 50/cm stay at rest.

    Args:
        relaxed: molecule of N atoms at a minimum.
        hessian: (3 N, 3 N) eV/Å² there.
        samples: number of geometries.
        temperature: K.
        statistics: ``quantum`` or ``classical``.
        seed: of the random numbers.

    Raises:
        UserError: a geometry has overlapping atoms in every draw.
    """
    modes = normal_modes(relaxed.positions, relaxed.get_masses(), hessian)
    spread = thermal_spread(modes.quanta, temperature, statistics)
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for _ in range(_DRAWS * samples):
        amplitudes = spread * random.normal(size=len(spread))
        drawn = relaxed.positions + np.einsum("m,mac->ac", amplitudes, modes.displacements)
        if not overlap(relaxed.numbers, drawn):
            found.append(drawn)
        if len(found) == samples:
            return np.stack(found)
    raise UserError(f"--temperature {temperature:g}: atoms overlap in nearly all geometries; lower it")


def equal_points(
    geometries: np.ndarray, points: Sequence[np.ndarray], esp: Sequence[np.ndarray], at_once: int, seed: int
) -> Target:
    """Return equally many points of each geometry, drawn at random, for a fit that takes ``at_once`` geometries."""
    fewest = min(map(len, points))
    size = min(fewest, max(_FITTED_VALUES // at_once, 60))
    random = np.random.default_rng(seed)
    chosen = [np.sort(random.choice(len(one), size, replace=False)) for one in points]
    return Target(
        geometries,
        np.stack([one[rows] for one, rows in zip(points, chosen, strict=True)]),
        np.stack([one[rows] for one, rows in zip(esp, chosen, strict=True)]),
    )

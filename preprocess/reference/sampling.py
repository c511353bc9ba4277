"""Conformers: geometries drawn at random, each from its own generator, so that none depends on the others."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from preprocess.reference.config import ReferenceConfig
from preprocess.reference.modes import Modes, mean_squares
from preprocess.reference.molecules import Molecule
from shared.elements import COVALENT_RADII

_CLOSEST = 0.6
"""Least distance of two atoms over the sum of their covalent radii; closer geometries are drawn again."""

_DRAWS = 100

_FREE_BELOW = 50.0
"""1/cm: slower modes are nearly free rotations, which no straight displacement describes."""


class Sampler(Protocol):
    """A function that draws displaced positions (atoms, 3) in Å."""

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Draw positions."""


def displacement_sampler(molecule: Molecule, deviation: float) -> Sampler:
    """Return a sampler that displaces every coordinate by normal(0, ``deviation``) Å."""
    return lambda rng: molecule.positions + rng.normal(0.0, deviation, molecule.positions.shape)


def mode_sampler(modes: Modes, temperature: float, statistics: str) -> Sampler:
    """Return a sampler that displaces every mode by its thermal spread; those below 50/cm stay at rest."""
    spread = np.sqrt(mean_squares(modes.quanta, temperature, statistics))
    spread = np.where(modes.wavenumbers < _FREE_BELOW, 0.0, spread)
    return lambda rng: modes.positions + np.einsum("m,mac->ac", spread * rng.normal(size=len(spread)), modes.vectors)


def draw(molecule: Molecule, sampler: Sampler, config: ReferenceConfig, index: int) -> Molecule | None:
    """Draw conformer ``index`` of a molecule; None if two atoms are too close in every draw."""
    rng = np.random.default_rng([config.seed, int(molecule.digest[:16], 16), index])
    closest = _CLOSEST * (COVALENT_RADII[molecule.atomic_numbers][:, None] + COVALENT_RADII[molecule.atomic_numbers])
    np.fill_diagonal(closest, 0.0)
    for _ in range(_DRAWS):
        positions = sampler(rng)
        if (np.linalg.norm(positions[:, None] - positions, axis=-1) >= closest).all():
            return molecule.at(_turned(positions, rng) if config.rotate else positions)
    return None


def _turned(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate positions about their mean by a uniformly random rotation: that of a random unit quaternion."""
    w, *xyz = (q := rng.normal(size=4)) / np.linalg.norm(q)
    x, y, z = xyz
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    center = positions.mean(axis=0)
    return (positions - center) @ rotation.T + center

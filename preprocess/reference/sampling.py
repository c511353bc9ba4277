"""Conformers: geometries drawn at random, each from its own generator, so that none depends on the others."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from preprocess.reference.config import ReferenceConfig
from preprocess.reference.modes import Modes
from preprocess.reference.molecules import Molecule
from shared.geometry import overlap
from shared.normal_modes import thermal_spread

_DRAWS = 100


class Sampler(Protocol):
    """A function that draws displaced positions (atoms, 3) in Å."""

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """Draw positions."""


def displacement_sampler(molecule: Molecule, deviation: float) -> Sampler:
    """Return a sampler that displaces every coordinate by normal(0, ``deviation``) Å."""
    return lambda rng: molecule.positions + rng.normal(0.0, deviation, molecule.positions.shape)


def mode_sampler(modes: Modes, temperature: float, statistics: str) -> Sampler:
    """Return a sampler that displaces every mode by its thermal spread; those below 50/cm stay at rest."""
    spread = thermal_spread(modes.quanta, temperature, statistics)
    return lambda rng: modes.positions + np.einsum("m,mac->ac", spread * rng.normal(size=len(spread)), modes.vectors)


def draw(molecule: Molecule, sampler: Sampler, config: ReferenceConfig, index: int) -> Molecule | None:
    """Draw conformer ``index`` of a molecule; None if two atoms are too close in every draw."""
    rng = np.random.default_rng([config.seed, int(molecule.digest[:16], 16), index])
    for _ in range(_DRAWS):
        positions = sampler(rng)
        if not overlap(molecule.atomic_numbers, positions):
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

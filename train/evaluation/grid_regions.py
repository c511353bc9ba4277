"""Where the ESP's grid points lie, and mean squares of what is given on them: by element and by distance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII, symbol
from shared.units import HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch

SHELLS = (0.0, 1.2, 1.4, 1.6, 1.8, 2.0, np.inf)
"""Bounds of the distance shells, in van der Waals radii (Alvarez 2013) of the atom that is nearest so measured."""


class Points(NamedTuple):
    """The grid points of one molecule that count."""

    molecule: int
    """Its place in the batch."""

    kept: np.ndarray  # (G,) which they are
    elements: np.ndarray  # (K,) atomic number of the nearest atom, in its radii
    shells: np.ndarray  # (K,) index of the shell


def locate_points(batch: Batch) -> Iterator[Points]:
    """Those of every molecule of the host's batch that has any, cleaned or not."""
    for i in np.flatnonzero(batch.molecule_mask):
        kept = np.asarray(batch.esp_mask[i])
        if not kept.any():
            continue
        real = np.asarray(batch.atomic_numbers[i]) > 0
        own = np.asarray(batch.atomic_numbers[i])[real]
        distances = np.linalg.norm(batch.grid[i][kept][:, None] - batch.positions[i][real][None], axis=-1)
        multiples = distances / VAN_DER_WAALS_RADII[own]
        shells = np.digitize(multiples.min(axis=1), SHELLS) - 1
        yield Points(int(i), kept, own[multiples.argmin(axis=1)], shells)


@dataclass
class PointSquares:
    """Sums over grid points, added molecule by molecule: how many, and squares in (kcal/mol/e)²."""

    by_element: np.ndarray = field(default_factory=lambda: np.zeros((2, len(VAN_DER_WAALS_RADII))))
    by_shell: np.ndarray = field(default_factory=lambda: np.zeros((2, len(SHELLS) - 1)))

    def add(self, points: Points, values: np.ndarray) -> None:
        """Add values (G,) in Hartree/e on a molecule's grid."""
        squares = (values[points.kept] * HARTREE_IN_KCAL_PER_MOL) ** 2
        for sums, places in ((self.by_element, points.elements), (self.by_shell, points.shells)):
            np.add.at(sums[0], places, 1.0)
            np.add.at(sums[1], places, squares)

    def element_rmse(self) -> dict[str, float]:
        """Root mean squares by symbol, of the elements that have points, in kcal/mol/e."""
        return {symbol(int(z)): value for z, value in _rmse(self.by_element)}

    def shell_rmse(self) -> dict[str, float]:
        """The same by the name of the shell."""
        return {shell_name(i): value for i, value in _rmse(self.by_shell)}


def shell_name(index: int) -> str:
    """Bounds of a shell in radii, ``1.2 - 1.4``."""
    return f"{SHELLS[index]:g} - {SHELLS[index + 1]:g}".replace("inf", "").rstrip()


def _rmse(sums: np.ndarray) -> Iterator[tuple[int, float]]:
    for place in np.flatnonzero(sums[0]):
        yield int(place), float(np.sqrt(sums[1, place] / sums[0, place]))

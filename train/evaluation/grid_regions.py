"""The ESP's grid points by nearest element and by distance from the molecule, and mean squares over them."""

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
    """The grid points that count in one molecule."""

    molecule: int
    """Index in the batch."""

    kept: np.ndarray  # (G,) whether each point counts
    elements: np.ndarray  # (K,) atomic number of the atom that is nearest in units of its radius
    shells: np.ndarray  # (K,) index of the shell


def locate_points(batch: Batch) -> Iterator[Points]:
    """Yield the points of each molecule that has any, of a batch on the host, cleaned or not."""
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
    """Numbers of grid points and sums of squares over them in (kcal/mol/e)², added molecule by molecule."""

    by_element: np.ndarray = field(default_factory=lambda: np.zeros((2, len(VAN_DER_WAALS_RADII))))
    by_shell: np.ndarray = field(default_factory=lambda: np.zeros((2, len(SHELLS) - 1)))

    def add(self, points: Points, values: np.ndarray, weight: float = 1.0) -> None:
        """Add values (G,) in Hartree/e on a molecule's grid, each point counted ``weight`` times."""
        squares = (values[points.kept] * HARTREE_IN_KCAL_PER_MOL) ** 2
        for sums, places in ((self.by_element, points.elements), (self.by_shell, points.shells)):
            np.add.at(sums[0], places, weight)
            np.add.at(sums[1], places, weight * squares)

    def element_rmse(self) -> dict[str, float]:
        """Return root mean squares in kcal/mol/e by the symbol of the nearest element, where there are points."""
        return {symbol(int(z)): value for z, value in _rmse(self.by_element)}

    def shell_rmse(self) -> dict[str, float]:
        """Return root mean squares in kcal/mol/e by the name of the distance shell, where there are points."""
        return {shell_name(i): value for i, value in _rmse(self.by_shell)}


def shell_name(index: int) -> str:
    """Return the bounds of a shell in radii: ``1.2 - 1.4``."""
    return f"{SHELLS[index]:g} - {SHELLS[index + 1]:g}".replace("inf", "").rstrip()


def _rmse(sums: np.ndarray) -> Iterator[tuple[int, float]]:
    for place in np.flatnonzero(sums[0]):
        yield int(place), float(np.sqrt(sums[1, place] / sums[0, place]))

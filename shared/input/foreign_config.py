"""Settings of files that are not NPZ, without the slow imports of their readers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import UserError
from shared.input.labels import FrameKeys
from shared.settings import PositiveInt


@dataclass(frozen=True)
class GridShell:
    """The points of a cube that are kept: those between two multiples of the atoms' van der Waals radii (Alvarez).

    They are farther than ``inner`` radii from every atom, and at most ``outer`` radii from one; ``points`` of them are
    drawn.
    """

    inner: float = 1.4
    outer: float = 2.0
    points: int = 3000


@dataclass(frozen=True)
class ForeignConfig:
    """How files that are not NPZ are read."""

    energy_key: str = ""
    """Name of the energy in extended XYZ files and databases (default: recognised: REF_energy, energy ...)."""

    forces_key: str = ""
    """Name of the forces in them (default: recognised)."""

    dipole_key: str = ""
    """Name of the dipole in them (default: recognised)."""

    quadrupole_key: str = ""
    """Name of the quadrupole, nine numbers, in them (default: recognised)."""

    charge_key: str = ""
    """Name of the total charge in them (default: recognised, else the sum of the initial charges, else 0)."""

    cubes: tuple[str, ...] = ()
    """Gaussian cube files of the ESP, one for each molecule: files, globs or folders, taken in natural order."""

    grid_shell: tuple[float, float] = (1.4, 2.0)
    """Points of a cube that are used: between these multiples of the atoms' van der Waals radii (Alvarez)."""

    grid_points: PositiveInt = 3000
    """Most points of a cube that are used; drawn at random, the same ones for the same file."""

    @property
    def keys(self) -> FrameKeys:
        """Return the names of the quantities."""
        return FrameKeys(self.energy_key, self.forces_key, self.dipole_key, self.quadrupole_key, self.charge_key)

    @property
    def shell(self) -> GridShell:
        """Return the shell of points of a cube.

        Raises:
            UserError: the multiples are not 0 <= inner < outer.
        """
        inner, outer = self.grid_shell
        if not 0.0 <= inner < outer < np.inf:
            raise UserError(f"--grid-shell {inner:g} {outer:g}: two multiples are needed, the smaller one first")
        return GridShell(inner, outer, self.grid_points)

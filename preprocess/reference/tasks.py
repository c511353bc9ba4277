"""Tasks of the worker processes, and the small files that keep their results until all are complete.

A file is named by a digest of all that determines its content, and written completely or not at all.
"""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.reference.method import Level
from preprocess.reference.molecules import Molecule
from shared.digests import settings_digest
from shared.files import write_atomically
from shared.shells import Shells

FOLDER = "parts"
_LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Part:
    """A result: arrays, or the reason why there are none."""

    arrays: dict[str, np.ndarray]

    @property
    def left_out(self) -> str | None:
        """Return why the geometry could not be computed; None if it was."""
        return str(self.arrays[_LEFT_OUT]) if _LEFT_OUT in self.arrays else None


@dataclass(frozen=True)
class Task(ABC):
    """A calculation for one geometry, whose result is kept in ``folder``."""

    folder: Path
    molecule: Molecule
    level: Level
    version: str
    """PySCF's version."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Return all that the result depends on, as JSON."""
        return {"molecule": self.molecule.digest, "level": self.level.identity, "pyscf": self.version}

    @property
    def path(self) -> Path:
        """Return the file of the result."""
        return self.folder / f"{settings_digest(self.recipe)}.npz"

    def result(self) -> Part | None:
        """Return the result; None if it is absent or damaged."""
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return Part(dict(content))
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError, KeyError):
            return None

    def __call__(self) -> None:
        """Compute, and write the result."""
        from preprocess.reference.single_point import LeftOut

        try:
            arrays = self.compute()
        except LeftOut as reason:
            arrays = {_LEFT_OUT: np.array(str(reason))}
        # PySCF raises these for a method that it cannot differentiate, or for integrals that it cannot invert.
        except (RuntimeError, np.linalg.LinAlgError) as error:
            reason_given = (str(error).splitlines() or [type(error).__name__])[0]
            arrays = {_LEFT_OUT: np.array(f"PySCF gives up: {reason_given}")}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]  # its stub takes arrays for the flag allow_pickle
        write_atomically(self.path, content.getvalue())

    @abstractmethod
    def compute(self) -> dict[str, np.ndarray]:
        """Compute the arrays of the result.

        Raises:
            LeftOut: the geometry cannot be computed.
        """


@dataclass(frozen=True)
class ModesTask(Task):
    """A task that relaxes a geometry and finds its modes: arrays ``positions``, ``vectors``, ``quanta``."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Return all that the modes depend on, as JSON."""
        return {**super().recipe, "modes": True}

    def compute(self) -> dict[str, np.ndarray]:
        """Compute the modes.

        Raises:
            LeftOut: the geometry cannot be relaxed.
        """
        from preprocess.reference.modes import find_modes

        return find_modes(self.molecule, self.level)._asdict()


@dataclass(frozen=True)
class ReferenceTask(Task):
    """A task that computes ``energy``, ``forces``, ``dipole``, ``quadrupole`` and ``esp``, and the ``grid`` in Å."""

    shells: Shells

    @property
    def recipe(self) -> dict[str, Any]:
        """Return all that the reference data depend on, as JSON; results of older versions have no quadrupole."""
        shells = {"shells": list(self.shells.factors), "density": self.shells.density}
        return {**super().recipe, **shells, "quadrupole": True}

    def compute(self) -> dict[str, np.ndarray]:
        """Compute the reference data.

        Raises:
            LeftOut: there are no grid points, or the SCF does not converge.
        """
        from preprocess.reference.single_point import LeftOut, compute

        # The potential belongs to the points as they are stored.
        grid = self.shells.points(self.molecule.atomic_numbers, self.molecule.positions).astype(np.float32)
        if not len(grid):
            raise LeftOut("no point of the shells is outside of the other atoms' spheres; raise --density")
        reference = compute(self.molecule, self.level, grid.astype(np.float64))
        return {"grid": grid, **{key: np.asarray(value) for key, value in reference._asdict().items()}}

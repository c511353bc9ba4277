"""The first pass over a pair: all that the second pass needs to know of all molecules, in little memory.

A survey holds counts and sums, not molecules, so it is as small for ten million molecules as for a thousand of the same
kinds. Surveys of the same pair are remembered: appending files surveys the new ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocess.load import Chunk, InputUnits, Molecules, open_pair
from preprocess.npz import Checksum
from preprocess.validate import atom_mask, check_molecules

Composition = tuple[tuple[int, int], ...]
"""(atomic number, atoms of it), in ascending order of the number."""


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, least and greatest of a series; two can be merged without loss."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of an array."""
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(values.size, mean, float(((values - mean) ** 2).sum()), float(values.min()), float(values.max()))

    def merge(self, other: Moments) -> None:
        """Add another series (Chan, Golub, LeVeque 1979)."""
        total = self.count + other.count
        if not other.count:
            return
        difference = other.mean - self.mean
        self.squares += other.squares + difference**2 * self.count * other.count / total
        self.mean += difference * other.count / total
        self.count = total
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)

    def shifted(self, shift: float) -> Moments:
        """Of the series with ``shift`` added."""
        return Moments(self.count, self.mean + shift, self.squares, self.least + shift, self.greatest + shift)

    def summary(self) -> dict[str, float]:
        """Mean, standard deviation, least and greatest value."""
        std = math.sqrt(self.squares / self.count)
        return {"mean": self.mean, "std": std, "min": self.least, "max": self.greatest}


@dataclass
class Survey:
    """Counts and statistics of some molecules."""

    samples: int = 0
    atoms: int = 0
    grid_points: int = 0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # (atoms, grid points) -> molecules
    energies: dict[Composition, Moments] = field(default_factory=dict)  # total energies, eV
    forces: Moments = field(default_factory=Moments)  # components, eV/Å
    first_row_with: dict[int, int] = field(default_factory=dict)  # element -> row in the file

    def merge(self, other: Survey) -> None:
        """Add the molecules that follow."""
        self.samples += other.samples
        self.atoms += other.atoms
        self.grid_points += other.grid_points
        for size, count in other.sizes.items():
            self.sizes[size] = self.sizes.get(size, 0) + count
        for composition, moments in other.energies.items():
            self.energies.setdefault(composition, Moments()).merge(moments)
        self.forces.merge(other.forces)
        self.first_row_with = {**other.first_row_with, **self.first_row_with}

    def as_json(self) -> dict[str, Any]:
        """JSON that :meth:`from_json` reads back exactly."""
        return {
            "samples": self.samples,
            "atoms": self.atoms,
            "grid_points": self.grid_points,
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "energies": [[[list(term) for term in key], list(vars(m).values())] for key, m in self.energies.items()],
            "forces": list(vars(self.forces).values()),
            "first_row_with": [list(item) for item in self.first_row_with.items()],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Survey:
        """The survey that was written."""
        return cls(
            samples=int(content["samples"]),
            atoms=int(content["atoms"]),
            grid_points=int(content["grid_points"]),
            sizes={(int(a), int(g)): int(n) for a, g, n in content["sizes"]},
            energies={tuple((int(z), int(n)) for z, n in key): Moments(*m) for key, m in content["energies"]},
            forces=Moments(*content["forces"]),
            first_row_with={int(z): int(row) for z, row in content["first_row_with"]},
        )


@dataclass(frozen=True)
class SurveyTask:
    """Chunks of one pair, surveyed one after the other."""

    chunks: list[Chunk]
    units: InputUnits

    def __call__(self) -> tuple[list[Survey], dict[str, list[Checksum]]]:
        """Check and survey every chunk; also the checksums of what was read.

        Raises:
            UserError: bad input, naming file, key, row and value.
        """
        surveys = []
        with open_pair(self.chunks[0].pair, self.units) as reader:
            for chunk in self.chunks:
                molecules = reader.molecules(chunk.start, chunk.stop)
                check_molecules(molecules)
                surveys.append(survey(molecules))
            return surveys, reader.checksums


def survey(molecules: Molecules) -> Survey:
    """Counts and statistics of checked molecules."""
    real = atom_mask(molecules.n_atoms, molecules.positions.shape[1])
    numbers = np.where(real, molecules.atomic_numbers[:, : real.shape[1]], 0)
    pairs, counts = np.unique(np.stack([molecules.n_atoms, molecules.n_grid]), axis=1, return_counts=True)
    elements, first = np.unique(numbers[real], return_index=True)
    row_of_atom = np.nonzero(real)[0]
    return Survey(
        samples=len(molecules),
        atoms=int(molecules.n_atoms.sum()),
        grid_points=int(molecules.n_grid.sum()),
        sizes={(int(a), int(g)): int(n) for (a, g), n in zip(pairs.T, counts, strict=True)},
        energies=_energies(numbers, molecules.energy, elements),
        forces=Moments.of(molecules.forces[real]),
        first_row_with={int(z): molecules.start + int(row_of_atom[i]) for z, i in zip(elements, first, strict=True)},
    )


def _energies(numbers: np.ndarray, energy: np.ndarray, elements: np.ndarray) -> dict[Composition, Moments]:
    counts = np.stack([(numbers == z).sum(axis=1) for z in elements], axis=1)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    order = np.argsort(kind.reshape(-1), kind="stable")
    parts = np.split(energy[order], np.cumsum(np.bincount(kind.reshape(-1), minlength=len(kinds)))[:-1])
    return {
        tuple((int(z), int(n)) for z, n in zip(elements, row, strict=True) if n): Moments.of(part)
        for row, part in zip(kinds, parts, strict=True)
    }


def merged(surveys: Iterable[Survey]) -> Survey:
    """All of them in order."""
    total = Survey()
    for part in surveys:
        total.merge(part)
    return total

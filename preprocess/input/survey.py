"""The survey of a pair in the first pass: counts and statistics of all molecules that the second pass needs.

A survey holds counts and sums, not molecules, so it is as small for ten million molecules as for a thousand of the same
kinds. Surveys are kept in the cache: after files are appended only the new ones are surveyed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from preprocess.input.grid_points import PointCounts
from preprocess.input.pairs import Chunk, Reading
from preprocess.input.reader import Grids, Molecules, PairReader, open_pair
from preprocess.input.validate import atom_mask, check_grids, check_molecules
from shared.input.frame_fit import fit_shift
from shared.input.npz import Checksum
from shared.schema import Split

Composition = tuple[tuple[int, int], ...]
"""Pairs (atomic number, count of its atoms), in ascending order of the number."""


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, least and greatest value of a series; they merge without loss."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Return the moments of an array."""
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
        """Return the moments of the series with ``shift`` added."""
        return Moments(self.count, self.mean + shift, self.squares, self.least + shift, self.greatest + shift)

    def summary(self) -> dict[str, float | None]:
        """Return mean, standard deviation, least and greatest value; None for an empty series."""
        if not self.count:
            return dict.fromkeys(("mean", "std", "min", "max"))
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
    lacking: dict[str, int] = field(default_factory=dict)  # quantity -> molecules without it

    def merge(self, other: Survey) -> None:
        """Add the survey of the molecules that follow."""
        self.samples += other.samples
        self.atoms += other.atoms
        self.grid_points += other.grid_points
        for size, count in other.sizes.items():
            self.sizes[size] = self.sizes.get(size, 0) + count
        for composition, moments in other.energies.items():
            self.energies.setdefault(composition, Moments()).merge(moments)
        self.forces.merge(other.forces)
        self.first_row_with = {**other.first_row_with, **self.first_row_with}
        for name, count in other.lacking.items():
            self.lacking[name] = self.lacking.get(name, 0) + count

    def as_json(self) -> dict[str, Any]:
        """Return JSON that :meth:`from_json` reads back exactly."""
        return {
            "samples": self.samples,
            "atoms": self.atoms,
            "grid_points": self.grid_points,
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "energies": [[[list(term) for term in key], list(vars(m).values())] for key, m in self.energies.items()],
            "forces": list(vars(self.forces).values()),
            "first_row_with": [list(item) for item in self.first_row_with.items()],
            "lacking": self.lacking,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Survey:
        """Return the survey that was written."""
        return cls(
            samples=int(content["samples"]),
            atoms=int(content["atoms"]),
            grid_points=int(content["grid_points"]),
            sizes={(int(a), int(g)): int(n) for a, g, n in content["sizes"]},
            energies={tuple((int(z), int(n)) for z, n in key): Moments(*m) for key, m in content["energies"]},
            forces=Moments(*content["forces"]),
            first_row_with={int(z): int(row) for z, row in content["first_row_with"]},
            lacking=dict(content["lacking"]),
        )


class FittedFrames(NamedTuple):
    """Fitted shifts of the grids of some rows into the molecules' frame."""

    shift: np.ndarray  # (n, 3) Å; NaN where none is certain
    uncertainty: np.ndarray  # (n,) Å


@dataclass(frozen=True)
class ChunkSurvey:
    """What the first pass finds in a chunk."""

    surveys: dict[Split, Survey]
    points: PointCounts | None
    """Counts of grid points; None if the grids were not read."""

    fitted: FittedFrames | None


@dataclass(frozen=True)
class SurveyTask:
    """A task that surveys chunks of one pair, one after the other."""

    chunks: list[Chunk]
    reading: Reading

    def __call__(self) -> tuple[list[ChunkSurvey], dict[str, list[Checksum]]]:
        """Check and survey every chunk; return the surveys and the checksums of what was read.

        Raises:
            UserError: bad input, naming file, key, row and value.
        """
        with open_pair(self.reading) as reader:
            return [_survey_chunk(reader, chunk) for chunk in self.chunks], reader.checksums


def _survey_chunk(reader: PairReader, chunk: Chunk) -> ChunkSurvey:
    fits = reader.reading.grid_frame == "fit" and reader.files.esp is not None
    points, fitted = None, None
    if fits or not reader.files.counts_points:
        molecules, grids = reader.frames(chunk)
        points = grids.counts
    else:
        molecules = reader.molecules(chunk)
    check_molecules(molecules)
    if fits:
        check_grids(molecules, grids)
        fitted = fit_frames(molecules, grids, reader.reading)
        certain = np.isfinite(fitted.shift).all(axis=1)
        molecules = replace(molecules, n_grid=np.where(certain, molecules.n_grid, 0))
    return ChunkSurvey({split: survey(molecules, rows) for split, rows in chunk.members()}, points, fitted)


def fit_frames(molecules: Molecules, grids: Grids, reading: Reading) -> FittedFrames:
    """Fit the shift of every grid; molecules without one keep 0."""
    shift, uncertainty = np.zeros((len(molecules), 3)), np.zeros(len(molecules))
    grid_scale, esp_scale = reading.units.grid_in_angstrom, reading.units.scale("esp")
    for row in np.flatnonzero(molecules.n_grid > 0):
        n_atoms, n_grid = molecules.n_atoms[row], molecules.n_grid[row]
        fit = fit_shift(
            molecules.atomic_numbers[row, :n_atoms],
            molecules.positions[row, :n_atoms],
            grids.points[row, :n_grid].astype(np.float64) * grid_scale,
            grids.esp[row, :n_grid].astype(np.float64) * esp_scale,
        )
        shift[row] = fit.shift if fit.sharp else np.nan
        uncertainty[row] = fit.uncertainty
    return FittedFrames(shift, uncertainty)


def survey(m: Molecules, rows: np.ndarray) -> Survey:
    """Return counts and statistics of some rows of checked molecules."""
    real = atom_mask(m.n_atoms, m.positions.shape[1])[rows]
    numbers = np.where(real, m.atomic_numbers[rows, : real.shape[1]], 0)
    pairs, counts = np.unique(np.stack([m.n_atoms[rows], m.n_grid[rows]]), axis=1, return_counts=True)
    elements, first = np.unique(numbers[real], return_index=True)
    row_of_atom = np.nonzero(real)[0]
    known = np.isfinite(m.energy[rows])
    forces = m.forces[rows][real]
    return Survey(
        samples=len(rows),
        atoms=int(m.n_atoms[rows].sum()),
        grid_points=int(m.n_grid[rows].sum()),
        sizes={(int(a), int(g)): int(n) for (a, g), n in zip(pairs.T, counts, strict=True)},
        energies=_energies(numbers[known], m.energy[rows][known], elements),
        forces=Moments.of(forces[np.isfinite(forces).all(axis=1)]),
        first_row_with={int(z): m.start + int(rows[row_of_atom[i]]) for z, i in zip(elements, first, strict=True)},
        lacking={
            "energy": int((~known).sum()),
            "forces": int((np.isnan(m.forces[rows]).any(axis=2) & real).any(axis=1).sum()),
            "dipole": int(np.isnan(m.dipole[rows]).any(axis=1).sum()),
            "quadrupole": int(np.isnan(m.quadrupole[rows]).any(axis=(1, 2)).sum()),
        },
    )


def _energies(numbers: np.ndarray, energy: np.ndarray, elements: np.ndarray) -> dict[Composition, Moments]:
    counts = np.stack([(numbers == z).sum(axis=1) for z in elements], axis=1)
    if not len(energy):
        return {}
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    order = np.argsort(kind.reshape(-1), kind="stable")
    parts = np.split(energy[order], np.cumsum(np.bincount(kind.reshape(-1), minlength=len(kinds)))[:-1])
    return {
        tuple((int(z), int(n)) for z, n in zip(elements, row, strict=True) if n): Moments.of(part)
        for row, part in zip(kinds, parts, strict=True)
    }


def merged(surveys: Iterable[Survey]) -> Survey:
    """Merge surveys in order."""
    total = Survey()
    for part in surveys:
        total.merge(part)
    return total

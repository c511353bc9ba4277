"""References, predictions and errors that an evaluation collects, for tables, pictures and files."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from train.evaluation.errors_by_molecule import MoleculeErrors
from train.evaluation.errors_by_region import RegionErrors
from train.evaluation.prediction_file import PredictionFile


@dataclass(frozen=True)
class MoleculeEsp:
    """One molecule's ESP on its grid, for a picture."""

    name: str
    atomic_numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    grid: np.ndarray  # (G, 3) Å
    reference: np.ndarray  # (G,) kcal/mol/e
    predicted: np.ndarray  # (G,) kcal/mol/e
    dcm_charges: np.ndarray  # (N, n_dcm) e
    dcm_sites: np.ndarray  # (N, n_dcm, 3) Å


_MOST_PAIRS = 200_000
"""Of one target, in pictures."""


class _Pairs:
    """References and predictions of a target, of which at most a number is kept: every second, every fourth, ..."""

    def __init__(self) -> None:
        self._every, self._seen, self._count = 1, 0, 0
        self._parts: list[np.ndarray] = []

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Append values of any shape."""
        pairs = np.stack([np.ravel(reference), np.ravel(predicted)])
        kept = pairs[:, -self._seen % self._every :: self._every]
        self._seen += pairs.shape[1]
        self._parts.append(kept.copy())
        self._count += kept.shape[1]
        while self._count > _MOST_PAIRS:
            self._parts = [np.concatenate(self._parts, axis=1)[:, ::2]]
            self._every, self._count = 2 * self._every, self._parts[0].shape[1]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the references and predictions that were kept."""
        reference, predicted = np.concatenate(self._parts, axis=1)
        return reference, predicted


@dataclass
class Targets:
    """What an evaluation collects of its molecules; of references and predictions a part, for pictures."""

    molecules: list[MoleculeEsp] = field(default_factory=list)
    region_errors: RegionErrors = field(default_factory=RegionErrors)
    molecule_errors: MoleculeErrors = field(default_factory=MoleculeErrors)
    file: PredictionFile | None = None
    _pairs: dict[str, _Pairs] = field(default_factory=dict)

    def add(self, name: str, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Append known values of a target."""
        self._pairs.setdefault(name, _Pairs()).add(reference, predicted)

    def arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return references and predictions of a target, evenly chosen from all if they are many; perhaps none."""
        return self._pairs[name].arrays()

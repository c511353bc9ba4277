"""References, predictions and errors that an evaluation collects, for tables, pictures and files."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from train.evaluation.charge_extents import ChargeExtents
from train.evaluation.ensemble_errors import EnsembleErrors
from train.evaluation.errors_by_molecule import MoleculeErrors
from train.evaluation.errors_by_region import RegionErrors
from train.evaluation.prediction_file import PredictionFile
from train.evaluation.transfer import Sums


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

_MOST_PARTS = 256
"""Batches of whatever size, after which what they left is chosen from."""


class _Pairs:
    """References and predictions of a target; of many, a number that is drawn from all of them with equal chances."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._parts = [np.zeros((3, 0))]
        self._largest = 1.0

    def add(self, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Append values of any shape."""
        # Those with the smallest of random keys are kept: regular steps would fall in with the atoms of molecules.
        keys = self._rng.random(np.size(reference))
        kept = keys < self._largest
        if kept.any():
            self._parts.append(np.stack([keys[kept], np.ravel(reference)[kept], np.ravel(predicted)[kept]]))
        if len(self._parts) > _MOST_PARTS or sum(part.shape[1] for part in self._parts) > 2 * _MOST_PAIRS:
            self._parts = [self._chosen()]

    def _chosen(self) -> np.ndarray:
        """Return keys, references and predictions (3, n) of those that are kept."""
        pairs = np.concatenate(self._parts, axis=1)
        if pairs.shape[1] > _MOST_PAIRS:
            self._largest = float(np.partition(pairs[0], _MOST_PAIRS)[_MOST_PAIRS])
            pairs = pairs[:, pairs[0] < self._largest]
        return pairs

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the references and predictions that were kept."""
        _, reference, predicted = self._chosen()
        return reference, predicted


@dataclass
class Targets:
    """What an evaluation collects of its molecules; of references and predictions a part, for pictures."""

    novelty: list[np.ndarray] | None = None  # of each bucket's molecules, see KnownMolecules.novelty; None: not known
    by_novelty: dict[int, Sums] = field(default_factory=dict)
    molecules: list[MoleculeEsp] = field(default_factory=list)
    region_errors: RegionErrors = field(default_factory=RegionErrors)
    molecule_errors: MoleculeErrors = field(default_factory=MoleculeErrors)
    charge_extents: ChargeExtents = field(default_factory=ChargeExtents)
    ensemble_errors: EnsembleErrors = field(default_factory=EnsembleErrors)
    file: PredictionFile | None = None
    _pairs: dict[str, _Pairs] = field(default_factory=dict)

    def add(self, name: str, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Append known values of a target."""
        self._pairs.setdefault(name, _Pairs()).add(reference, predicted)

    def arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return references and predictions of a target, drawn from all if they are many; perhaps none."""
        return self._pairs[name].arrays()

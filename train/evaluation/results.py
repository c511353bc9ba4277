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


@dataclass
class Targets:
    """References and predictions of a split's known entries, flat, as lists of arrays under a target's name."""

    reference: dict[str, list[np.ndarray]] = field(default_factory=dict)
    predicted: dict[str, list[np.ndarray]] = field(default_factory=dict)
    molecules: list[MoleculeEsp] = field(default_factory=list)
    region_errors: RegionErrors = field(default_factory=RegionErrors)
    molecule_errors: MoleculeErrors = field(default_factory=MoleculeErrors)
    file: PredictionFile | None = None

    def add(self, name: str, reference: np.ndarray, predicted: np.ndarray) -> None:
        """Append values of a target."""
        self.reference.setdefault(name, []).append(np.ravel(reference))
        self.predicted.setdefault(name, []).append(np.ravel(predicted))

    def arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all references and predictions of a target, perhaps none."""
        return np.concatenate(self.reference[name]), np.concatenate(self.predicted[name])

"""References and predictions of every target: errors over all entries, and a seeded sample to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.elements import element_table
from train.data.quantities import DIPOLE, DIPOLE_DCM, ENERGY, ESP, FORCES, MONOPOLE, Quantity
from train.report.prediction_reader import Predictions, is_missing

SAMPLED = 20_000
_SEED = 0


@dataclass(frozen=True)
class Target:
    """Two datasets of the file of predictions that are compared, and a factor to the unit that is shown."""

    title: str
    quantity: Quantity
    predicted: str
    reference: str
    x_label: str = "reference"
    y_label: str = "prediction"

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return self.quantity.unit


def _of(quantity: Quantity, title: str, reference: str = "") -> Target:
    return Target(title, quantity, quantity.key, reference or f"{quantity.key}_reference")


TARGETS = (
    _of(ENERGY, "energy above the atomic references"),
    _of(FORCES, "force components"),
    _of(ESP, ESP.label),
    _of(DIPOLE, "dipole components, PhysNet"),
    _of(DIPOLE_DCM, "dipole components, DCMNet", "dipole_reference"),
    Target("monopoles", MONOPOLE, "dcm_charges", "charges", "PhysNet's charge", "sum of distributed charges"),
)


@dataclass(frozen=True)
class Sample:
    """Errors of one target, and a sample of its entries."""

    target: Target
    entries: int  # in the split that have a reference
    error: float  # of the table: over all of them, in the unit of the values
    reference: np.ndarray  # (k,) of the entries that were drawn, k = all or SAMPLED
    predicted: np.ndarray  # (k,)
    labels: list[str]  # k names of the molecules that they belong to

    @property
    def described(self) -> str:
        """The error as the table of errors has it."""
        quantity = self.target.quantity
        return f"{quantity.error} {self.error * quantity.error_factor:.4g} {quantity.error_unit}"

    @property
    def errors(self) -> np.ndarray:
        """Prediction minus reference (at most k,), where both are numbers."""
        errors = self.predicted - self.reference
        return errors[np.isfinite(errors)]


def read_samples(
    predictions: Predictions, reference_energies_ev: dict[int, float], exact_monopoles: bool
) -> list[Sample]:
    """Read every target of a split that has references.

    Args:
        predictions: of the split.
        reference_energies_ev: of each element, subtracted from the energies.
        exact_monopoles: the two kinds of charges are equal by construction, and not compared.
    """
    constants = _constants(predictions, reference_energies_ev)
    targets = [target for target in TARGETS if not (exact_monopoles and target.predicted == "dcm_charges")]
    samples = (_read(predictions, target, constants if target.predicted == "energy" else None) for target in targets)
    return [sample for sample in samples if sample.entries]


def _constants(predictions: Predictions, reference_energies_ev: dict[int, float]) -> np.ndarray:
    """Return the sum (n,) of each molecule's atomic reference energies, eV."""
    numbers = predictions.whole("atomic_numbers")
    table = element_table(reference_energies_ev)
    owner = predictions.owner("atomic_numbers", np.arange(len(numbers)))
    return np.bincount(owner, table[numbers], minlength=len(predictions))


def _read(predictions: Predictions, target: Target, constants: np.ndarray | None) -> Sample:
    """Read the errors of all entries that have a reference, in float64, and the sample to draw.

    Args:
        predictions: of the split.
        target: to read.
        constants: (n,) subtracted from both, or None.
    """
    width = int(np.prod(predictions.shape(target.reference)[1:], dtype=int))
    entries = predictions.count_known(target.reference) * width
    drawn = np.sort(np.random.default_rng(_SEED).choice(entries, min(entries, SAMPLED), replace=False, shuffle=False))
    absolute, seen = 0.0, 0
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0), np.zeros(0, int))]
    for start, (predicted, reference) in predictions.blocks(target.predicted, target.reference):
        if target.predicted == "dcm_charges":
            predicted = predicted.sum(axis=1)
        rows = start + np.flatnonzero(~is_missing(reference))
        offset = 0.0 if constants is None else constants[rows]
        x = np.ravel(reference[rows - start].astype(np.float64) - offset) * target.quantity.factor
        y = np.ravel(predicted[rows - start].astype(np.float64) - offset) * target.quantity.factor
        absolute += np.abs(y - x).sum()
        first, last = np.searchsorted(drawn, (seen, seen + len(x)))
        own = drawn[first:last] - seen
        kept.append((x[own], y[own], rows[own // max(width, 1)]))
        seen += len(x)
    references, predicted, rows = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    owners = predictions.owner(target.reference, rows)
    error = absolute / max(entries, 1)
    if target.quantity is ESP and entries:
        # The mean of squares over each molecule's points, and then over molecules.
        error = float(np.sqrt(np.nanmean(predictions.esp_rmse**2))) * ESP.factor
    return Sample(
        target,
        entries,
        error,
        references,
        predicted,
        [predictions.molecules.label(int(i)) for i in owners],
    )

"""Errors of an ensemble: of its mean and of single members, and whether the members differ where the mean is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from shared.units import HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets
from train.data.quantities import ENERGY, ESP, FORCES, QUANTITIES, Quantity
from train.model.prediction import Deviations, Prediction

BINS = 10
"""Groups of equal size, by rising deviation, in which errors and deviations are compared."""

_SMALLEST_SHARE = 1e-3
"""Of the root mean square deviation: what differs by less does so by rounding, as forces that are zero by symmetry."""

COMPARED: dict[str, tuple[Quantity, str, str]] = {
    "energy": (ENERGY, "molecule", "eV"),
    "forces": (FORCES, "atom", "eV/Å"),
    "esp": (ESP, "molecule", "kcal/mol/e"),
}
"""What errors are compared with deviations: the quantity, what one error is of, and their unit."""


@dataclass
class EnsembleErrors:
    """Errors of the mean prediction and deviations of the members, added batch by batch; none of a single model."""

    _parts: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, batch: Batch, mean: Prediction, std: Deviations) -> None:
        """Add the known targets of a batch of the host.

        Of an energy the magnitudes count, of the forces on an atom the root mean squares over its components, of the
        ESP of a molecule those over its grid points.
        """
        known = known_targets(batch)
        points, esp = np.asarray(batch.esp_mask), np.asarray(known.esp)
        count = points.sum(axis=1)[esp]

        def over_points(values: Any) -> np.ndarray:
            squares = np.where(points, np.square(values, dtype=np.float64), 0.0).sum(axis=1)[esp]
            return np.asarray(np.sqrt(squares / count) * HARTREE_IN_KCAL_PER_MOL)

        def over_components(values: Any) -> np.ndarray:
            return np.asarray(np.sqrt(np.square(values, dtype=np.float64).mean(axis=-1)))

        forces = known.forces
        pairs: dict[str, tuple[Any, Any]] = {
            "energy": (std.energy[known.energy], np.abs(mean.energy - batch.energy)[known.energy]),
            "forces": (over_components(std.forces[forces]), over_components((mean.forces - batch.forces)[forces])),
            "esp": (over_points(std.esp), over_points(mean.esp - batch.esp)),
        }
        for name, pair in pairs.items():
            self._parts.setdefault(name, []).append(np.stack(pair).astype(np.float64))

    def pairs(self, name: str) -> np.ndarray:
        """Return deviations and errors (2, n) of a quantity, in its unit; n may be 0."""
        return np.concatenate([np.zeros((2, 0)), *self._parts.get(name, [])], axis=1)

    def as_record(self, members: Sequence[dict[str, float]]) -> dict[str, Any] | None:
        """Return the numbers for the JSON file; None of a single model.

        Args:
            members: the metrics of each.
        """
        if not members:
            return None
        compared = {name: compare(*self.pairs(name)) for name in COMPARED}
        return {
            "members": list(members),
            "deviations": {
                name: {"of": COMPARED[name][1], "unit": COMPARED[name][2], **one}
                for name, one in compared.items()
                if one["number"]
            },
        }


def compare(deviations: np.ndarray, errors: np.ndarray) -> dict[str, Any]:
    """Return how well deviations (n,) predict errors (n,): Spearman's rank correlation, bins, and one factor.

    The factor is the geometric mean over the bins of root mean square error / root mean square deviation: large and
    small deviations count alike, as in a mean over the ratios of single ones, but that has no expectation for three
    members or fewer, and the smallest deviations would decide it.
    """
    parts = [part for part in np.array_split(np.argsort(deviations, kind="stable"), BINS) if len(part)]
    bins = [
        {"number": len(part), "rms_deviation": _rms(deviations[part]), "rms_error": _rms(errors[part])}
        for part in parts
    ]
    smallest = _SMALLEST_SHARE * _rms(deviations)
    ratios = [one["rms_error"] / one["rms_deviation"] for one in bins if one["rms_deviation"] > smallest]
    ratios = [ratio for ratio in ratios if ratio > 0]
    return {
        "number": len(deviations),
        "rank_correlation": _rank_correlation(deviations, errors),
        "factor": float(np.exp(np.mean(np.log(ratios)))) if ratios else None,
        "rms_error": _rms(errors),
        "rms_deviation": _rms(deviations),
        "bins": bins,
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean())) if len(values) else 0.0


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's coefficient; None of fewer than three pairs, or where all of one are the same."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import spearmanr  # slow

    return float(spearmanr(first, second).statistic)


class EnsembleRow(NamedTuple):
    """A quantity of an ensemble, in the unit of its error; None where the data lack it, or it was not compared."""

    quantity: Quantity
    error: float  # of the mean prediction
    mean: float  # of the members' errors
    lowest: float
    highest: float
    rank_correlation: float | None
    factor: float | None


def ensemble_rows(record: dict[str, Any]) -> list[EnsembleRow]:
    """Return the errors of an evaluated ensemble beside those of its members; empty of a single model."""
    found = record.get("ensemble")
    if not found:
        return []
    names = {quantity.metric: name for name, (quantity, *_) in COMPARED.items()}
    rows = []
    for one in QUANTITIES:
        error = one.error_in(record["metrics"])
        errors = [own for member in found["members"] if (own := one.error_in(member)) is not None]
        if error is not None and errors:
            compared = found["deviations"].get(names.get(one.metric), {})
            agreement = (compared.get(name) for name in ("rank_correlation", "factor"))
            rows.append(EnsembleRow(one, error, float(np.mean(errors)), min(errors), max(errors), *agreement))
    return rows


def describe_ensemble(record: dict[str, Any]) -> str:
    """Return three lines on an ensemble for the console; empty of a single model."""
    rows = [row for row in ensemble_rows(record) if row.factor is not None]
    if not rows:
        return ""
    names = [row.quantity.key.upper() if row.quantity is ESP else row.quantity.key for row in rows]
    errors = [
        f"{name} {row.mean:.4g} ({row.lowest:.4g} - {row.highest:.4g}) {row.quantity.error_unit}"
        for name, row in zip(names, rows, strict=True)
    ]
    ranks = [
        f"{name} {'-' if row.rank_correlation is None else f'{row.rank_correlation:.2f}'}"
        for name, row in zip(names, rows, strict=True)
    ]
    factors = [f"{name} {row.factor:.3g}" for name, row in zip(names, rows, strict=True)]
    return (
        f"  ensemble of {len(record['ensemble']['members'])}; its members alone, mean (range): {', '.join(errors)}\n"
        f"  rank correlation of their deviation with the error of the mean: {', '.join(ranks)}\n"
        f"  factor by which to multiply the deviation, for the size of the error: {', '.join(factors)}"
    )

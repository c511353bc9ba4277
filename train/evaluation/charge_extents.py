"""How large the distributed charges are, how far from their atoms, and how deep below the molecule's surface.

A small error of the ESP does not tell whether a simulation can use the charges: large ones that nearly cancel, or one
that has left its atom, act on what comes near as nothing in the molecule would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII, formula, symbol
from shared.text import shown
from train.data.batch import Batch
from train.model.prediction import Prediction

_PAIRS_AT_ONCE = 1 << 20
_WIDTH = 20


def depths(sites: np.ndarray, positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return how deep each site is in the union of the atoms' spheres, Å: negative outside, the distance to it.

    Inside it is the depth below the sphere in which the site is deepest: the surface of the union is nowhere nearer.

    Args:
        sites: (..., S, 3) in Å.
        positions: (..., A, 3) in Å.
        radii: (..., A) in Å; -inf for padding.
    """
    squares = sum((sites[..., :, None, axis] - positions[..., None, :, axis]) ** 2 for axis in range(3))
    return np.asarray((radii[..., None, :] - np.sqrt(squares)).max(axis=-1))


@dataclass
class _Extreme:
    """The largest of a number of each charge, and whose it is."""

    value: float = -np.inf
    owner: dict[str, Any] | None = None

    def add(self, values: np.ndarray, batch: Batch, rows: np.ndarray, names: Sequence[str]) -> None:
        """Look at values (B, A, n_dcm) of a batch; -inf where there is no charge."""
        place = np.unravel_index(int(values.argmax()), values.shape)
        if values[place] > self.value:
            molecule, atom = int(place[0]), int(place[1])
            numbers = np.asarray(batch.atomic_numbers[molecule])
            self.value = float(values[place])
            self.owner = {
                "row": int(rows[molecule]),
                "name": names[molecule],
                "formula": formula(numbers[numbers > 0]),
                "atom": atom,
                "element": symbol(int(numbers[atom])),
            }


@dataclass
class ChargeExtents:
    """Sums and extremes over all distributed charges of a split, added batch by batch."""

    _charges: int = 0
    _magnitudes: float = 0.0
    _arms: float = 0.0
    _outside: int = 0
    _molecules_outside: int = 0
    _largest: _Extreme = field(default_factory=_Extreme)
    _longest: _Extreme = field(default_factory=_Extreme)
    _shallowest: _Extreme = field(default_factory=_Extreme)  # of the negative depths
    _farthest_out: _Extreme = field(default_factory=_Extreme)  # of the arms beyond the atom's radius

    def add(self, batch: Batch, prediction: Prediction, rows: np.ndarray, names: Sequence[str]) -> None:
        """Add the molecules of a batch of the host.

        Args:
            batch: its real molecules come first.
            prediction: of the batch.
            rows: (n,) rows of the molecules in the split's input files.
            names: n names, perhaps empty.
        """
        n = len(rows)
        numbers = np.asarray(batch.atomic_numbers)[:n]
        real = numbers > 0
        radii = np.where(real, VAN_DER_WAALS_RADII[numbers], -np.inf)
        positions = np.where(real[:, :, None], np.asarray(batch.positions, np.float64)[:n], 0.0)
        sites = np.asarray(prediction.dcm_sites, np.float64)[:n]
        magnitudes = np.abs(np.asarray(prediction.dcm_charges[:n], np.float64))
        arms = np.linalg.norm(sites - positions[:, :, None], axis=-1)
        beyond = arms - radii[:, :, None]
        self._charges += int(real.sum()) * magnitudes.shape[2]
        self._magnitudes += float(magnitudes[real].sum())
        self._arms += float(arms[real].sum())
        outside = real[:, :, None] & (beyond > 0)
        self._outside += int(outside.sum())
        self._molecules_outside += int(outside.any(axis=(1, 2)).sum())
        for extreme, values in (
            (self._largest, magnitudes),
            (self._longest, arms),
            (self._shallowest, -self._depths(sites, positions, radii)),
            (self._farthest_out, beyond),
        ):
            extreme.add(np.where(real[:, :, None], values, -np.inf), batch, rows, names)

    @staticmethod
    def _depths(sites: np.ndarray, positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Return the depths (n, A, n_dcm) of sites (n, A, n_dcm, 3), some molecules at a time."""
        n, atoms, n_dcm = sites.shape[:3]
        flat = sites.reshape(n, atoms * n_dcm, 3)
        step = max(1, _PAIRS_AT_ONCE // (atoms**2 * n_dcm))
        parts = [depths(*(array[i : i + step] for array in (flat, positions, radii))) for i in range(0, n, step)]
        return np.concatenate(parts).reshape(n, atoms, n_dcm)

    def as_record(self) -> dict[str, Any]:
        """Return the numbers for the JSON file; names have their units."""
        return {
            "charges": self._charges,
            "mean_magnitude_e": self._magnitudes / self._charges,
            "largest_magnitude_e": self._largest.value,
            "largest": self._largest.owner,
            "mean_arm_angstrom": self._arms / self._charges,
            "longest_arm_angstrom": self._longest.value,
            "longest_arm": self._longest.owner,
            "least_depth_angstrom": -self._shallowest.value,
            "least_deep": self._shallowest.owner,
            "outside_their_atoms": self._outside,
            "molecules_outside": self._molecules_outside,
            "farthest_outside": self._farthest_out.owner if self._outside else None,
        }


def describe_charges(record: dict[str, Any]) -> str:
    """Return lines on the distributed charges, and a warning of those that have left their atoms."""
    found = record["distributed_charges"]
    mean, arm = f"{found['mean_magnitude_e']:.3g}", f"{found['mean_arm_angstrom']:.3g}"
    largest, longest, least = (
        f"{found[name]:.3g}" for name in ("largest_magnitude_e", "longest_arm_angstrom", "least_depth_angstrom")
    )
    lines = [
        f"  {'distributed charges':<28}{'mean':>8}{'extreme':>10}  of",
        f"  {'magnitude, e':<28}{mean:>8}{largest:>10}  {describe_owner(found['largest'])}",
        f"  {'distance from their atom, Å':<28}{arm:>8}{longest:>10}  {describe_owner(found['longest_arm'])}",
        f"  {'depth below the surface, Å':<28}{'':>8}{least:>10}  {describe_owner(found['least_deep'])}",
    ]
    if warning := warn_of_charges(record):
        lines.append(f"  warning: {warning}")
    return "\n".join(lines)


def warn_of_charges(record: dict[str, Any]) -> str:
    """Return one line on charges that have left their atoms; empty if none has."""
    found = record["distributed_charges"]
    if not found["outside_their_atoms"]:
        return ""
    number, molecules = found["outside_their_atoms"], found["molecules_outside"]
    return (
        f"{number:,} of {found['charges']:,} distributed charges, in {molecules:,} molecule{'s' * (molecules != 1)}, "
        f"left their own atom's van der Waals sphere (farthest: {describe_owner(found['farthest_outside'])}); no "
        "simulation should use them"
    )


def describe_owner(owner: dict[str, Any]) -> str:
    """Return atom, molecule and row of a charge."""
    name = shown(owner["name"] or owner["formula"], _WIDTH)
    return f"{owner['element']}, atom {owner['atom']} of {name}, row {owner['row']}"

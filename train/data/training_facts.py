"""What a training saw, kept with its weights: molecules, sizes, total charges, bonds, fragments, dipole errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.elements import symbol
from shared.geometry import count_fragments, distances_and_bonds
from train.data.known_molecules import KnownMolecules, known_molecules, molecules_from_json
from train.data.loader import Loader
from train.data.quantities import DIPOLE, DIPOLE_DCM

_PAIRS_AT_ONCE = 2_000_000
_MOST_PAIRS = 200_000_000
"""Pairs of atoms that are looked at, in some seconds; of more, molecules at equal distances in the data are taken."""

_MOST_CHARGES = 100
"""Different total charges that are kept; more are no charge states."""

_MOST_GRAPHS = 10_000
"""Bond graphs that are kept, 20 bytes each; of more, the training split itself has to be looked at."""


@dataclass(frozen=True)
class Distances:
    """Distances of two elements in all training molecules, Å."""

    smallest: float
    bonds: tuple[float, float] | None = None  # shortest and longest bond; None: never bonded


@dataclass(frozen=True)
class TrainingFacts:
    """What training saw."""

    total_charges: tuple[float, ...] = ()  # ascending; empty: not known
    fewest_atoms: int = 1
    most_atoms: int | None = None  # None: not known, as of an older version
    most_fragments: int = 1  # parts of one molecule that no bonds hold together
    distances: dict[tuple[int, int], Distances] = field(default_factory=dict)  # by atomic numbers, ascending
    neighbors: dict[int, tuple[int, int]] = field(default_factory=dict)  # fewest and most bonds of an atom, by element
    dipole_errors: tuple[float, float] | None = None  # Debye, on the validation split: PhysNet's, DCMNet's
    molecules: KnownMolecules | None = None  # None: not known, or too many to be kept

    def as_json(self) -> dict[str, Any]:
        """Return plain values for ``model.json``."""
        pairs = {
            f"{symbol(a)}-{symbol(b)}": {"smallest": one.smallest} | ({"bonds": list(one.bonds)} if one.bonds else {})
            for (a, b), one in sorted(self.distances.items())
        }
        record: dict[str, Any] = {
            "total_charges": list(self.total_charges),
            "fewest_atoms": self.fewest_atoms,
            "most_fragments": self.most_fragments,
            "distances_angstrom": pairs,
        }
        if self.most_atoms is not None:
            record["most_atoms"] = self.most_atoms
        if self.neighbors:
            record["bonded_neighbors"] = {
                symbol(number): list(counts) for number, counts in sorted(self.neighbors.items())
            }
        if self.dipole_errors:
            record["valid"] = dict(zip((DIPOLE.metric, DIPOLE_DCM.metric), self.dipole_errors, strict=True))
        if self.molecules:
            record["molecules"] = self.molecules.as_json()
        return record


def facts_from_json(record: dict[str, Any]) -> TrainingFacts:
    """Return the facts that :meth:`TrainingFacts.as_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is none of these.
    """
    from ase.data import atomic_numbers

    distances = {}
    for name, one in record["distances_angstrom"].items():
        first, second = (atomic_numbers[word] for word in name.split("-"))
        bonds = one.get("bonds")
        distances[first, second] = Distances(
            float(one["smallest"]), (float(bonds[0]), float(bonds[1])) if bonds else None
        )
    return TrainingFacts(
        total_charges=tuple(map(float, record["total_charges"])),
        fewest_atoms=int(record["fewest_atoms"]),
        most_atoms=int(record["most_atoms"]) if "most_atoms" in record else None,
        most_fragments=int(record["most_fragments"]),
        distances=distances,
        neighbors={
            atomic_numbers[name]: (int(fewest), int(most))
            for name, (fewest, most) in record.get("bonded_neighbors", {}).items()
        },
        dipole_errors=dipole_errors(record.get("valid", {})),
        molecules=molecules_from_json(record["molecules"]) if "molecules" in record else None,
    )


def dipole_errors(metrics: dict[str, Any]) -> tuple[float, float] | None:
    """Return the errors of PhysNet's and DCMNet's dipoles in Debye, if the metrics of a split have both."""
    found = [metrics.get(one.metric) for one in (DIPOLE, DIPOLE_DCM)]
    return None if None in found else (float(found[0]), float(found[1]))  # type: ignore[arg-type]


def training_facts(loader: Loader) -> TrainingFacts:
    """Look at the molecules of a training split."""
    charges: set[float] = set()
    fewest, most, fragments = np.inf, 0, 1
    smallest: dict[tuple[int, int], float] = {}
    bonds: dict[tuple[int, int], tuple[float, float]] = {}
    neighbors: dict[int, tuple[int, int]] = {}
    for bucket in loader.buckets:
        if len(bucket):
            charges.update(np.unique(bucket.column("total_charge").round(6)).tolist())
    for numbers, positions in _molecules(loader):
        sizes = (numbers > 0).sum(axis=1)
        fewest, most = min(fewest, int(sizes.min())), max(most, int(sizes.max()))
        distances, bonded = distances_and_bonds(numbers, positions.astype(np.float64))
        fragments = max(fragments, int(count_fragments(numbers, bonded).max()))
        bonds_of_atom = bonded.sum(axis=-1)
        for element in np.unique(numbers[numbers > 0]).tolist():
            counts = bonds_of_atom[numbers == element]
            low, high = neighbors.get(element, (int(counts[0]), 0))
            neighbors[element] = min(low, int(counts.min())), max(high, int(counts.max()))
        code = np.minimum(numbers[:, :, None], numbers[:, None]) * 1000 + np.maximum(
            numbers[:, :, None], numbers[:, None]
        )
        finite = np.isfinite(distances)
        for one in np.unique(code[finite]).tolist():
            pair, own = divmod(one, 1000), finite & (code == one)
            smallest[pair] = min(smallest.get(pair, np.inf), float(distances[own].min()))
            lengths = distances[own & bonded]
            if lengths.size:
                shortest, longest = bonds.get(pair, (np.inf, 0.0))
                bonds[pair] = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
    return TrainingFacts(
        total_charges=tuple(sorted(charges)) if len(charges) <= _MOST_CHARGES else (),
        fewest_atoms=int(fewest) if np.isfinite(fewest) else 1,
        most_atoms=most or None,
        most_fragments=fragments,
        distances={pair: Distances(value, bonds.get(pair)) for pair, value in smallest.items()},
        neighbors=neighbors,
        molecules=known_molecules(loader, _MOST_GRAPHS),
    )


def _molecules(loader: Loader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield atomic numbers (n, A) and positions (n, A, 3) of all molecules, or of a part at equal distances."""
    total = sum(len(bucket) * bucket.shape.frame.atoms**2 for bucket in loader.buckets)
    stride = max(1, -(-total // _MOST_PAIRS))
    for bucket in loader.buckets:
        rows = np.arange(0, len(bucket), stride)
        step = max(1, _PAIRS_AT_ONCE // bucket.shape.frame.atoms**2)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            yield bucket.take("atomic_numbers", chosen), bucket.take("positions", chosen)

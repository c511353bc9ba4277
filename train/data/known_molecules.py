"""The molecules that a training saw, by formula, total charge and bond graph; and which of others it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from shared.bond_graphs import describe_kinds
from shared.elements import formula
from shared.schema import NAME_ARRAY
from train.data.loader import Loader

NOT_KNOWN, TRAINED_ON, NEW_GRAPH, NEW_FORMULA = range(-1, 3)
"""What a molecule is to a training: its own; another bond graph of a formula that it saw; of a formula that it did not
see with this total charge."""

MOST_NAMED_TYPES = 10_000
"""More names are those of single molecules; so memory does not grow with their number."""

_FRAMES_AT_ONCE = 16384
_CHARGE_STEPS = 1000
"""Steps of an e in which total charges are told apart."""


@dataclass(frozen=True, eq=False)
class KnownMolecules:
    """The molecules of a training split."""

    formulas: frozenset[str]  # in Hill's order, followed by the total charge unless it is 0: "C2H3O2 -1"
    in_parts: frozenset[str]  # those of molecules that no bonds hold together
    graphs: np.ndarray  # (K,) uint64, ascending; each with its formula and total charge
    named: frozenset[tuple[str, str]]  # formula and name, if names are those of types

    def novelty(
        self, numbers: np.ndarray, positions: np.ndarray, total_charge: np.ndarray, names: np.ndarray
    ) -> np.ndarray:
        """Return TRAINED_ON, NEW_GRAPH or NEW_FORMULA (n,), int8, of each molecule.

        A frame is of a molecule that was trained on if one of its bond graphs, each for another longest bond, is one of
        a training frame, or its name is, where names are those of types. Where no bonds hold it together, or a training
        molecule of its formula, the formula decides.

        Args:
            numbers: (n, A), 0 = padding, after all atoms.
            positions: (n, A, 3) in Å.
            total_charge: (n,) in e.
            names: (n,) bytes, perhaps empty.
        """
        frames = _describe(numbers, positions, total_charge)
        known = np.array([one in self.formulas for one in frames.formulas], bool)[frames.formula]
        joined = np.array([one in self.in_parts for one in frames.formulas], bool)[frames.formula]
        trained = self._has(frames.graphs).any(axis=1) | (known & (joined | frames.in_parts))
        if self.named:
            for i in np.flatnonzero(known & ~trained):
                trained[i] = (frames.formulas[frames.formula[i]], _text(names[i])) in self.named
        return np.where(trained, TRAINED_ON, np.where(known, NEW_GRAPH, NEW_FORMULA)).astype(np.int8)

    def joined(self, other: KnownMolecules) -> KnownMolecules:
        """Return the molecules of both."""
        return KnownMolecules(
            self.formulas | other.formulas,
            self.in_parts | other.in_parts,
            np.union1d(self.graphs, other.graphs),
            self.named | other.named,
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values for ``model.json``."""
        return {
            "formulas": sorted(self.formulas),
            "in_parts": sorted(self.in_parts),
            "graphs": [f"{one:016x}" for one in self.graphs.tolist()],
            "named": sorted(map(list, self.named)),
        }

    def _has(self, graphs: np.ndarray) -> np.ndarray:
        if not len(self.graphs):
            return np.zeros(graphs.shape, bool)
        places = np.searchsorted(self.graphs, graphs)
        return np.asarray(self.graphs[np.minimum(places, len(self.graphs) - 1)] == graphs)


def molecules_from_json(record: dict[str, Any]) -> KnownMolecules:
    """Return the molecules that :meth:`KnownMolecules.as_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is none of these.
    """
    return KnownMolecules(
        frozenset(record["formulas"]),
        frozenset(record["in_parts"]),
        np.array(sorted(int(one, 16) for one in record["graphs"]), np.uint64),
        frozenset((str(one), str(name)) for one, name in record["named"]),
    )


def known_molecules(loader: Loader, most_graphs: float = np.inf) -> KnownMolecules | None:
    """Look at all molecules of a training split; return None if they have more than ``most_graphs`` bond graphs."""
    formulas: set[str] = set()
    in_parts: set[str] = set()
    named: set[tuple[str, str]] = set()
    graphs = np.zeros(0, np.uint64)
    are_types = True
    for index, rows in _rows(loader):
        *molecules, names = _read(loader, index, rows)
        frames = _describe(*molecules)
        formulas.update(frames.formulas)
        in_parts.update(frames.formulas[i] for i in np.unique(frames.formula[frames.in_parts]))
        graphs = np.union1d(graphs, frames.graphs)
        if len(graphs) > most_graphs:
            return None
        if are_types:
            distinct = np.unique(np.rec.fromarrays([frames.formula, names]))
            named.update((frames.formulas[of], _text(name)) for of, name in distinct.tolist())
            are_types = bool((names != b"").all()) and len(named) <= MOST_NAMED_TYPES
    are_types = are_types and names_are_types(len({name for _, name in named}), len(loader))
    return KnownMolecules(
        frozenset(formulas), frozenset(in_parts), graphs, frozenset(named) if are_types else frozenset()
    )


def novelty_of_split(loader: Loader, known: KnownMolecules) -> list[np.ndarray]:
    """Return, for each bucket of a split, what its molecules are to a training, see KnownMolecules.novelty."""
    novelty = [np.zeros(len(bucket), np.int8) for bucket in loader.buckets]
    for index, rows in _rows(loader):
        novelty[index][rows] = known.novelty(*_read(loader, index, rows))
    return novelty


def names_are_types(distinct: int, molecules: int) -> bool:
    """Return whether so many different names are those of types: of single molecules they would all differ."""
    return distinct <= min(molecules / 2, MOST_NAMED_TYPES)


class _Frames(NamedTuple):
    """What identifies the molecules of n frames."""

    formulas: list[str]  # those that occur, with total charges
    formula: np.ndarray  # (n,) index into them
    graphs: np.ndarray  # (n, 4) uint64, for each of BOND_FACTORS
    in_parts: np.ndarray  # (n,) bool


def _rows(loader: Loader) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of each bucket with some of its rows, through all of them."""
    for index, bucket in enumerate(loader.buckets):
        for start in range(0, len(bucket), _FRAMES_AT_ONCE):
            yield index, np.arange(start, min(start + _FRAMES_AT_ONCE, len(bucket)))


def _read(loader: Loader, index: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return atomic numbers, positions, total charges and names of rows of a bucket."""
    take = loader.buckets[index].take
    return take("atomic_numbers", rows), take("positions", rows), take("total_charge", rows), take(NAME_ARRAY, rows)


def _describe(numbers: np.ndarray, positions: np.ndarray, total_charge: np.ndarray) -> _Frames:
    kinds = describe_kinds(numbers, (numbers > 0).sum(axis=1), positions, np.zeros(len(numbers), "S1"))
    steps = np.rint(total_charge.astype(np.float64) * _CHARGE_STEPS).astype(np.int64)
    # 2⁶⁴ over the golden ratio, an odd number: different for each charge, and far from the small differences of others.
    charged = steps.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    _, first, of = np.unique(kinds.formula + charged, return_index=True, return_inverse=True)
    formulas = []
    for i in first:
        charge = steps[i] / _CHARGE_STEPS
        formulas.append(formula(numbers[i][numbers[i] > 0]) + (f" {charge:+g}" if charge else ""))
    return _Frames(formulas, of, kinds.graphs + charged[:, None], kinds.in_parts)


def _text(name: bytes) -> str:
    return bytes(name).decode("utf-8", "replace")

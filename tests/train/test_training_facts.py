"""What a training saw, against loops over its molecules."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.neighborlist import build_neighbor_list, get_connectivity_matrix
from scipy.sparse.csgraph import connected_components

from train.data import training_facts as module
from train.data.training_facts import TrainingFacts, facts_from_json, training_facts


class Bucket:
    """Molecules as a bucket of a loader has them, padding at the same place as an atom."""

    def __init__(self, molecules: list[Atoms], charges: list[float], names: list[str] | None = None) -> None:
        atoms = max(map(len, molecules)) + 1
        self.shape = SimpleNamespace(frame=SimpleNamespace(atoms=atoms))
        self._arrays: dict[str, np.ndarray] = {
            "atomic_numbers": np.stack([np.pad(one.numbers, (0, atoms - len(one))) for one in molecules]),
            "positions": np.stack([np.pad(one.positions, ((0, atoms - len(one)), (0, 0))) for one in molecules]),
            "total_charge": np.array(charges, np.float32),
            "name": np.array(names or [""] * len(molecules), "S"),
        }

    def __len__(self) -> int:
        return len(self._arrays["total_charge"])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        return self._arrays[name][rows]

    def column(self, name: str) -> np.ndarray:
        return self._arrays[name]


def split() -> list[Atoms]:
    pair = molecule("H2O") + molecule("CO2")
    pair.positions[3:] += [6.0, 0.0, 0.0]
    made = [molecule("CH3OH"), molecule("H2O"), pair]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.05, seed=seed)
    return made


def pairs(molecules: list[Atoms]) -> Iterator[tuple[tuple[int, int], float, bool]]:
    for atoms in molecules:
        for i, j in itertools.combinations(range(len(atoms)), 2):
            first, second = sorted((int(atoms.numbers[i]), int(atoms.numbers[j])))
            length = float(np.linalg.norm(atoms.positions[i] - atoms.positions[j]))
            yield (first, second), length, length <= 1.3 * (covalent_radii[first] + covalent_radii[second])


def test_facts_are_those_of_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 50)
    molecules = split()
    loader: Any = SimpleNamespace(buckets=[Bucket(molecules[:2], [0.0, -1.0]), Bucket(molecules[2:], [1.0])])
    found = training_facts(loader)
    assert found.total_charges == (-1.0, 0.0, 1.0)
    assert (found.fewest_atoms, found.most_atoms) == (3, 6)
    parts, bonds_of = [], defaultdict(list)
    for atoms in molecules:
        neighbours = build_neighbor_list(
            atoms, 1.3 * covalent_radii[atoms.numbers], skin=0.0, self_interaction=False, bothways=True
        )
        parts.append(connected_components(get_connectivity_matrix(neighbours.nl))[0])
        for index, number in enumerate(atoms.numbers.tolist()):
            bonds_of[number].append(len(neighbours.get_neighbors(index)[0]))
    assert found.most_fragments == max(parts) == 2
    assert found.neighbors == {number: (min(counts), max(counts)) for number, counts in bonds_of.items()}
    assert found.neighbors == {1: (1, 1), 6: (2, 4), 8: (1, 2)}
    known = list(pairs(molecules))
    assert set(found.distances) == {pair for pair, *_ in known}
    for pair, one in found.distances.items():
        assert one.smallest == pytest.approx(min(length for other, length, _ in known if other == pair))
        bonds = [length for other, length, bonded in known if other == pair and bonded]
        assert one.bonds == (pytest.approx((min(bonds), max(bonds))) if bonds else None)
    assert facts_from_json(found.as_json()).as_json() == found.as_json()
    assert facts_from_json(found.as_json()).neighbors == found.neighbors
    assert found.molecules is not None
    assert found.molecules.formulas == {"CH4O", "H2O -1", "CH2O3 +1"}
    assert facts_from_json(TrainingFacts(dipole_errors=(0.2, 0.1)).as_json()).dipole_errors == (0.2, 0.1)


def test_facts_of_an_older_version_tell_less() -> None:
    """As a model.json has them that was written before sizes and bonded neighbours were kept."""
    distances = {"H-O": {"smallest": 0.9, "bonds": [0.9, 1.1]}, "H-H": {"smallest": 1.4}}
    older = {"total_charges": [0.0], "fewest_atoms": 3, "most_fragments": 1, "distances_angstrom": distances}
    facts = facts_from_json(older)
    assert (facts.most_atoms, facts.neighbors) == (None, {})
    assert facts.distances[1, 8].bonds == (0.9, 1.1)
    assert facts.as_json() == older

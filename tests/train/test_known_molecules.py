"""Molecules that a training never saw, against a search for isomorphisms; strained, charged, named and broken ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation

from shared.errors import UserError
from tests.train.test_training_facts import Bucket
from train.data.known_molecules import (
    NEW_FORMULA,
    NEW_GRAPH,
    TRAINED_ON,
    KnownMolecules,
    known_molecules,
    molecules_from_json,
    novelty_of_split,
)
from train.data.training_facts import TrainingFacts
from train.run import session


def loader_of(molecules: list[Atoms], charges: list[float] | None = None, names: list[str] | None = None) -> Any:
    """Two buckets where there are several molecules."""
    charges, names = charges or [0.0] * len(molecules), names or [""] * len(molecules)
    halves = (slice(0, len(molecules) // 2), slice(len(molecules) // 2, None))
    buckets = [Bucket(molecules[half], charges[half], names[half]) for half in halves if molecules[half]]
    return Loader(buckets)


class Loader(SimpleNamespace):
    def __init__(self, buckets: list[Bucket]) -> None:
        super().__init__(buckets=buckets)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))


def known(*arguments: Any) -> KnownMolecules:
    found = known_molecules(loader_of(*arguments))
    assert found is not None
    return found


def novelty(of: KnownMolecules, *arguments: Any) -> list[int]:
    return np.concatenate(novelty_of_split(loader_of(*arguments), of)).tolist()


def shaken(name: str, seed: int) -> Atoms:
    """Displaced, turned, its atoms in another order."""
    atoms, rng = molecule(name), np.random.default_rng(seed)
    atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
    atoms.positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix().T + 5 * rng.normal(size=3)
    return atoms[rng.permutation(len(atoms))]


def bonds(atoms: Atoms) -> np.ndarray:
    radii = covalent_radii[atoms.numbers]
    return (atoms.get_all_distances() < 1.25 * (radii[:, None] + radii)) & ~np.eye(len(atoms), dtype=bool)


def isomorphic(first: Atoms, second: Atoms) -> bool:
    """Try every assignment of atoms that keeps elements and bonds."""
    if sorted(first.numbers) != sorted(second.numbers):
        return False
    one, two = bonds(first), bonds(second)

    def extend(chosen: list[int]) -> bool:
        i = len(chosen)
        if i == len(first):
            return True
        return any(
            first.numbers[i] == second.numbers[j] and (one[i, :i] == two[j, chosen]).all() and extend([*chosen, j])
            for j in range(len(second))
            if j not in chosen
        )

    return extend([])


def test_new_molecules_are_those_without_an_isomorphic_one() -> None:
    """Of the G2 set: other geometries of those that were trained on, their isomers, and others."""
    of_formula: dict[str, list[str]] = {}
    for name in g2.names:
        if 2 < len(g2[name]) < 11:
            of_formula.setdefault(g2[name].get_chemical_formula(), []).append(name)
    trained = [isomers[0] for i, isomers in enumerate(of_formula.values()) if len(isomers) > 1 or i % 4]
    others = [name for isomers in of_formula.values() for name in isomers if name not in trained]
    of = known([molecule(name) for name in trained])
    tried = [*(shaken(name, seed) for seed, name in enumerate(trained)), *(molecule(name) for name in others)]
    expected = []
    for atoms in tried:
        alike = [one for one in map(molecule, trained) if sorted(one.numbers) == sorted(atoms.numbers)]
        same = any(isomorphic(one, atoms) for one in alike)
        expected.append(TRAINED_ON if same else NEW_GRAPH if alike else NEW_FORMULA)
    assert expected[: len(trained)] == [TRAINED_ON] * len(trained)
    assert {kind: expected.count(kind) > 3 for kind in (NEW_GRAPH, NEW_FORMULA)} == {1: True, 2: True}
    assert novelty(of, tried) == expected


def test_a_total_charge_makes_another_molecule() -> None:
    of = known([molecule("H2O"), molecule("OH")], [0.0, -1.0])
    assert of.formulas == {"H2O", "HO -1"}
    tried = [molecule("H2O"), molecule("H2O"), molecule("OH"), molecule("OH")]
    assert novelty(of, tried, [0.0, 1.0, -1.0, 0.0]) == [TRAINED_ON, NEW_FORMULA, TRAINED_ON, NEW_FORMULA]


def test_frames_with_broken_bonds_are_of_their_formula() -> None:
    """Whether the broken frame was trained on or is to be predicted."""
    broken = molecule("CH3OH")
    broken.positions[0] += 4.0
    assert novelty(known([molecule("CH3OH")]), [broken]) == [TRAINED_ON]
    ether = [molecule("CH3CH2OH"), molecule("CH3OCH3")]
    assert novelty(known(ether[:1]), ether) == [TRAINED_ON, NEW_GRAPH]
    apart = molecule("CH3CH2OH")
    apart.positions[:2] += 6.0
    assert novelty(known([ether[0], apart]), ether) == [TRAINED_ON, TRAINED_ON]


def test_names_of_types_tell_too() -> None:
    """An isomer with the name of a trained molecule is that molecule, unless every frame has its own name."""
    isomers = [molecule("CH3CH2OH"), molecule("CH3OCH3")]
    frames = [shaken("CH3CH2OH", seed) for seed in range(4)]
    types, single = ["ethanol"] * 4, ["ethanol", "b", "c", "d"]
    for names, expected in ((types, TRAINED_ON), (single, NEW_GRAPH)):
        assert novelty(known(frames, None, names), isomers, None, ["", "ethanol"]) == [TRAINED_ON, expected]
    assert novelty(known(frames, None, types), [molecule("H2O")], None, ["ethanol"]) == [NEW_FORMULA]


def test_they_are_kept_with_the_weights_unless_they_are_many() -> None:
    frames = [molecule("CH3OH"), molecule("H2O"), molecule("CO2"), molecule("CO2")]
    of = known(frames, [0.0, 1.0, 0.0, 0.0], ["a", "b", "c", "c"])
    assert known_molecules(loader_of(frames), most_graphs=2) is None
    assert molecules_from_json(of.as_json()).as_json() == of.as_json()
    first, second = known(frames[:1]), known(frames[1:], [1.0, 0.0, 0.0])
    assert first.joined(second).as_json() == {**of.as_json(), "named": []}
    assert novelty(first.joined(second), frames, [0.0, 1.0, 0.0, 0.0]) == [TRAINED_ON] * 4


def test_a_run_that_began_with_other_weights_saw_their_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing can be said to be new where those are not known."""
    earlier: list[TrainingFacts | None] = [TrainingFacts(molecules=known([molecule("CO2")]))]
    monkeypatch.setattr(session, "load_weights", lambda _: SimpleNamespace(training=earlier[0]))
    run = SimpleNamespace(
        loader=loader_of([molecule("H2O")]), config=SimpleNamespace(init_from="runs/other", members=1)
    )
    facts = vars(session.Session)["facts"].func
    assert facts(run).molecules.formulas == {"CO2", "H2O"}
    earlier[0] = None
    assert facts(run).molecules is None

    def gone(_: object) -> None:
        raise UserError("gone")

    monkeypatch.setattr(session, "load_weights", gone)
    assert facts(run).molecules is None
    run.config.init_from = ""
    assert facts(run).molecules.formulas == {"H2O"}

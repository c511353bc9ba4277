"""What a molecule has that no training molecule had: a prediction is then an extrapolation, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import ase
import numpy as np

from shared.elements import symbol
from shared.errors import Note
from shared.geometry import count_fragments, distances_and_bonds
from shared.input.total_charge import describe_spin
from train.data.training_facts import TrainingFacts

_TOLERANCE = 0.02
"""Å by which a bond may leave the range of training, as vibrations of the same molecules do."""

_MOST_ATOMS = 1000
"""Atoms of the largest molecule whose distances are looked at: they are N²."""


class UnlikeTrainingWarning(Note):
    """A molecule is unlike those that the model was trained on."""


class Unlike(NamedTuple):
    """One kind of difference, of which a user is told once, and its text."""

    kind: tuple[object, ...]
    text: str


def notes_on(molecule: ase.Atoms, total_charge: float, facts: TrainingFacts | None) -> Iterator[Unlike]:
    """Yield what a molecule has that no training molecule had.

    Args:
        molecule: of trained elements.
        total_charge: e.
        facts: None or in part unknown for models of older versions, of which less can be said.
    """
    if spin := describe_spin(molecule):
        yield Unlike(("spin",), f"{spin}: the model does not know spins; it predicts the state that it was trained on")
    if facts is None:
        return
    charges = facts.total_charges
    if charges and min(abs(total_charge - charge) for charge in charges) > 1e-3:
        known = ", ".join(f"{charge:+g}" if charge else "0" for charge in charges[:10])
        yield Unlike(("charge", total_charge), f"total charge {total_charge:+g}: training had {known} alone")
    if len(molecule) < facts.fewest_atoms and len(molecule) == 1:
        yield Unlike(("atom",), f"a single atom ({molecule.symbols[0]}): no training molecule was one")
    if facts.distances and 1 < len(molecule) <= _MOST_ATOMS:
        yield from _on_distances(molecule, facts)


def _on_distances(molecule: ase.Atoms, facts: TrainingFacts) -> Iterator[Unlike]:
    numbers = molecule.numbers
    distances, bonds = distances_and_bonds(numbers, molecule.positions)
    fragments = int(count_fragments(numbers, bonds))
    if fragments > facts.most_fragments:
        yield Unlike(
            ("fragments",),
            f"{fragments} parts that no bond holds together: no training molecule had more than {facts.most_fragments}",
        )
    near = np.triu(bonds | (distances < _reach(facts)), 1)
    for first, second in np.argwhere(near).tolist():
        pair = tuple(sorted((int(numbers[first]), int(numbers[second]))))
        length, known = float(distances[first, second]), facts.distances.get(pair)  # type: ignore[arg-type]
        name = "-".join(map(symbol, pair))
        where = f"atoms {first} and {second}, {name}, {length:.2f} Å apart"
        if bonds[first, second] and (known is None or known.bonds is None):
            yield Unlike((pair, "new"), f"{where}: no training molecule had a bond of these elements")
        elif bonds[first, second] and known is not None and known.bonds is not None:
            low, high = known.bonds
            if not low - _TOLERANCE <= length <= high + _TOLERANCE:
                kind = "short" if length < low else "long"
                yield Unlike(
                    (pair, kind), f"{where}: bonds of these elements had {low:.2f} to {high:.2f} Å in training"
                )
        elif known is not None and length < known.smallest - _TOLERANCE:
            yield Unlike((pair, "near"), f"{where}: never nearer than {known.smallest:.2f} Å in training")


def _reach(facts: TrainingFacts) -> float:
    return max(one.smallest for one in facts.distances.values())

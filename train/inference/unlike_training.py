"""What a molecule has that no training molecule had: a prediction is then an extrapolation, and says so."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ase
import numpy as np

from shared.elements import symbol
from shared.errors import Note, UserError
from shared.geometry import count_fragments, distances_and_bonds
from shared.input.total_charge import describe_spin
from train.data.training_facts import TrainingFacts

_TOLERANCE = 0.02
"""Å by which a bond may leave the range of training, as vibrations of the same molecules do."""

_LARGER = 1.5
"""Size of a molecule over that of the largest training molecule from which on it is said: atoms see their surroundings
alone, but the total charge is shared among all, and errors of energies add up."""

_MOST_ATOMS = 1000
"""Atoms of the largest molecule whose distances are looked at: they are N²."""


class UnlikeTrainingWarning(Note):
    """A molecule is unlike those that the model was trained on."""


class Unlike(NamedTuple):
    """One kind of difference, of which a user is told once, and its text."""

    kind: tuple[object, ...]
    text: str


class Domain:
    """What the members of a model were trained on; outside of it is what is outside of one member's training.

    Attributes:
        strict: whether what is outside is refused.
        is_known: whether all members keep what they were trained on, as those of older versions do not.
    """

    def __init__(self, trainings: Mapping[Path, TrainingFacts | None], strict: bool = False) -> None:
        """Take what is known of each member's training, by its folder.

        Raises:
            UserError: strict, and of one nothing is known.
        """
        self.strict = strict
        self._trainings: list[TrainingFacts] = []
        unknown = []
        for folder, facts in trainings.items():
            if facts is None or not (facts.distances or facts.total_charges):
                unknown.append(folder)
                continue
            # The members of one run have seen the same molecules, and have errors of their own.
            seen = replace(facts, dipole_errors=None, molecules=None)
            if seen not in self._trainings:
                self._trainings.append(seen)
        self.is_known = not unknown
        self._said: set[tuple[object, ...]] = set()
        self._lock = threading.Lock()
        if strict and unknown:
            raise UserError(
                f"{unknown[0]}: of an older version, which did not keep what it was trained on, and --strict "
                "(strict=True) needs that; train again, or leave it out"
            )

    def outside(self, molecule: ase.Atoms, total_charge: float, where: str) -> tuple[str, ...]:
        """Return what a molecule has that no training molecule had, and say it, each kind once.

        Args:
            molecule: of trained elements.
            total_charge: e.
            where: beginning of the messages.

        Raises:
            UserError: strict, and there is such a thing.
        """
        unlike = [note for facts in self._trainings for note in notes_on(molecule, total_charge, facts)]
        texts = tuple(dict.fromkeys(note.text for note in unlike))
        if self.strict and texts:
            more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
            raise UserError(f"{where}{texts[0]}{more}; refused because of --strict (strict=True), else a note")
        for note in [*notes_on_spin(molecule), *unlike]:
            with self._lock:
                new = note.kind not in self._said
                self._said.add(note.kind)
            if new:
                warnings.warn(f"{where}{note.text}", UnlikeTrainingWarning, stacklevel=4)
        return texts


def notes_on_spin(molecule: ase.Atoms) -> Iterator[Unlike]:
    """Yield what a molecule states of unpaired electrons, of which no training keeps a record."""
    if spin := describe_spin(molecule):
        yield Unlike(("spin",), f"{spin}: the model does not know spins; it predicts the state that it was trained on")


def notes_on(molecule: ase.Atoms, total_charge: float, facts: TrainingFacts) -> Iterator[Unlike]:
    """Yield what a molecule has that no training molecule had.

    Args:
        molecule: of trained elements.
        total_charge: e.
        facts: in part unknown for models of older versions, of which less can be said.
    """
    charges, size = facts.total_charges, len(molecule)
    if charges and min(abs(total_charge - charge) for charge in charges) > 1e-3:
        known = ", ".join(f"{charge:+g}" if charge else "0" for charge in charges[:10])
        yield Unlike(("charge", total_charge), f"total charge {total_charge:+g}: training had {known} alone")
    if size < facts.fewest_atoms and size == 1:
        yield Unlike(("atom",), f"a single atom ({molecule.symbols[0]}): no training molecule was one")
    if facts.most_atoms is not None and size > _LARGER * facts.most_atoms:
        yield Unlike(("size",), f"{size} atoms: the largest training molecule had {facts.most_atoms}")
    if facts.distances and 1 < size <= _MOST_ATOMS:
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
    yield from _on_neighbors(numbers, bonds, facts)
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


def _on_neighbors(numbers: np.ndarray, bonds: np.ndarray, facts: TrainingFacts) -> Iterator[Unlike]:
    for atom, count in enumerate(bonds.sum(axis=-1).tolist()):
        element = int(numbers[atom])
        fewest, most = facts.neighbors.get(element, (0, len(numbers)))
        if not fewest <= count <= most:
            name, known = symbol(element), str(most) if fewest == most else f"{fewest} to {most}"
            yield Unlike(
                (element, "more" if count > most else "fewer"),
                f"atom {atom}, {name}, with {count} bonded neighbours: {known} in training",
            )


def _reach(facts: TrainingFacts) -> float:
    return max(one.smallest for one in facts.distances.values())

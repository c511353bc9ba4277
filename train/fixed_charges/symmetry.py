"""Symmetry of a molecule: the automorphisms of its bond graph and its point group, and how they map local frames.

Equivalent atoms are those that the automorphisms exchange, whatever the geometry, as force fields have it. An
automorphism that is no rigid motion (a hydrogen of a methyl group for another) is a local rotation where it keeps how
the bonds of an atom are handed, and a local reflection where it inverts that.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from scipy.spatial import cKDTree

from shared.errors import UserError
from shared.geometry import distances_and_bonds
from train.fixed_charges.charge_model import Frame, frame_axes

_TOLERANCE = 0.05
"""Å by which an atom of a relaxed molecule may miss its image."""

_BENT = 0.2
"""Smallest sine of the angle of a frame of three atoms: near a line, slight bending turns a frame's plane."""

_FLAT = 0.1
"""Smallest volume that the directions of three bonds span at an atom whose bonds are handed."""

_Thing = TypeVar("_Thing", bound=Hashable)
SignedFrame = tuple[Frame, int]
"""A frame, and 1 or -1 (sites are mirrored at its plane)."""


@dataclass(frozen=True)
class Operation:
    """A permutation that leaves the bonds."""

    image: tuple[int, ...]  # of each atom
    sign: int  # 1 a rotation of the whole molecule, -1 a reflection or rotary reflection, 0 no rigid motion


@dataclass(frozen=True)
class Symmetry:
    """What maps a molecule of N atoms on itself."""

    atomic_numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å, relaxed
    bonds: np.ndarray  # (bonds, 2)
    operations: tuple[Operation, ...]  # generators of the automorphisms, and the point group

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """Return the bonded atoms of each atom."""
        found: list[list[int]] = [[] for _ in self.atomic_numbers]
        for first, second in self.bonds.tolist():
            found[first].append(second)
            found[second].append(first)
        return found

    @cached_property
    def classes(self) -> list[list[int]]:
        """Return the atoms that are equivalent, in order of the first of each."""
        found: list[list[int]] = []
        for atom in range(len(self.atomic_numbers)):
            if not any(atom in one for one in found):
                found.append(sorted(a for (a,) in self.frames((atom,))))
        return found

    def frames(self, frame: Frame) -> list[Frame]:
        """Return the images of a frame, itself first."""
        return _closure(frame, self.operations, _moved)

    def signed_frames(self, frame: Frame) -> list[SignedFrame]:
        """Return the images of a frame with the sign of z there, itself first; a frame may have both signs."""

        def move(signed: SignedFrame, operation: Operation) -> SignedFrame:
            return _moved(signed[0], operation), signed[1] * self.sign(signed[0], operation)

        return _closure((frame, 1), self.operations, move)

    def sign(self, frame: Frame, operation: Operation) -> int:
        """Return 1 or -1 (z is mirrored) where an operation maps a frame."""
        parities = (self.parity(atom, operation) for atom in frame[:2])
        return operation.sign or next((parity for parity in parities if parity), 1)

    def parity(self, atom: int, operation: Operation) -> int:
        """Return 1 or -1 if an operation keeps or inverts how an atom's bonds are handed; 0 if they lie in a plane."""
        bonded = self.neighbours[atom][:3]
        images = [operation.image[other] for other in bonded]
        return self._handedness(atom, bonded) * self._handedness(operation.image[atom], images)

    def _handedness(self, atom: int, bonded: Sequence[int]) -> int:
        if len(bonded) < 3:
            return 0
        arms = self.positions[list(bonded)] - self.positions[atom]
        volume = float(np.linalg.det(arms / np.linalg.norm(arms, axis=1, keepdims=True)))
        return int(np.sign(volume)) if abs(volume) > _FLAT else 0


def symmetry_of(atomic_numbers: np.ndarray, positions: np.ndarray) -> Symmetry:
    """Return the symmetry of a relaxed molecule: positions (N, 3) in Å.

    Raises:
        UserError: igraph is not installed.
    """
    _, bonded = distances_and_bonds(atomic_numbers, positions)
    bonds = np.argwhere(np.triu(bonded))
    rigid = point_group(atomic_numbers, positions)
    known = {operation.image for operation in rigid}
    flexible = [Operation(image, 0) for image in automorphism_generators(atomic_numbers, bonds) if image not in known]
    return Symmetry(atomic_numbers, positions, bonds, (*rigid, *flexible))


def automorphism_generators(atomic_numbers: np.ndarray, bonds: np.ndarray) -> list[tuple[int, ...]]:
    """Return permutations (images of each atom) that generate the automorphisms of a bond graph (bonds, 2).

    Raises:
        UserError: igraph is not installed.
    """
    try:
        from igraph import Graph
    except ModuleNotFoundError as error:
        raise UserError(
            "equivalent atoms are found with igraph, which is not installed here: "
            'pip install -e ".[charges]", or pip install igraph'
        ) from error
    graph = Graph(len(atomic_numbers), bonds.tolist())
    return [tuple(image) for image in graph.automorphism_group(color=atomic_numbers.tolist())]


def point_group(atomic_numbers: np.ndarray, positions: np.ndarray) -> list[Operation]:
    """Return all rotations and reflections that map the atoms on themselves within 0.05 Å, as permutations.

    A planar molecule has each permutation twice, with both signs. Of atoms on a line, signs mean nothing: all are 1.

    Args:
        atomic_numbers: (N,)
        positions: (N, 3) in Å.
    """
    arms = positions - positions.mean(axis=0)
    lengths = np.linalg.norm(arms, axis=1)
    tree = cKDTree(arms)
    images: set[tuple[tuple[int, ...], int]] = set()

    def add(rotation: np.ndarray, sign: int) -> None:
        missed, image = tree.query(arms @ rotation.T)
        maps = (missed < _TOLERANCE).all() and (atomic_numbers[image] == atomic_numbers).all()
        if maps and len(set(image.tolist())) == len(arms):
            images.add((tuple(image.tolist()), sign))

    add(np.eye(3), 1)
    alike = (atomic_numbers[:, None] == atomic_numbers) & (np.abs(lengths[:, None] - lengths) < _TOLERANCE)
    off_centre = [atom for atom in range(len(arms)) if lengths[atom] > 10.0 * _TOLERANCE]
    pairs = [
        (first, second)
        for first in sorted(off_centre, key=lambda atom: int(alike[atom].sum()))[:1]
        for second in off_centre
        if np.linalg.norm(np.cross(arms[first], arms[second])) > _BENT * lengths[first] * lengths[second]
    ]
    if not pairs:
        add(-np.eye(3), 1)
        return [Operation(*image) for image in sorted(images)]
    first, second = min(pairs, key=lambda pair: int(alike[pair[1]].sum()))
    points, centre = np.vstack([arms, np.zeros(3)]), len(arms)
    before = frame_axes(points, (centre, first, second))
    for one, other in itertools.permutations(range(len(arms)), 2):
        apart = np.linalg.norm(arms[one] - arms[other]) - np.linalg.norm(arms[first] - arms[second])
        if alike[first, one] and alike[second, other] and abs(apart) < 2.0 * _TOLERANCE:
            after = frame_axes(points, (centre, one, other))
            for sign in (1, -1):
                add(after.T @ np.diag([1, 1, sign]) @ before, sign)
    return [Operation(*image) for image in sorted(images)]


def group_of(operations: Sequence[Operation], most: int) -> list[Operation] | None:
    """Return all products of operations, whose signs are 0 unless all factors are rigid; None if more than ``most``."""
    start = Operation(tuple(range(len(operations[0].image))), 1)
    found, waiting = {start.image: start}, deque([start])
    while waiting:
        here = waiting.popleft()
        for operation in operations:
            image = _moved(here.image, operation)
            if image not in found:
                found[image] = Operation(image, here.sign * operation.sign)
                waiting.append(found[image])
        if len(found) > most:
            return None
    return list(found.values())


def choose_frame(symmetry: Symmetry, atom: int, geometries: np.ndarray) -> Frame:
    """Return the frame of bonded atoms that an atom's charges are held by.

    Of three atoms if some are never near a line: those with the fewest images at the atom, which divide no charge
    into several, then those bonded to it. Else of two, or of the atom by itself.

    Args:
        symmetry: of the molecule.
        atom: the frame's origin.
        geometries: (S, N, 3) in Å.
    """
    neighbours = symmetry.neighbours
    seconds = sorted(neighbours[atom])
    triplets: set[Frame] = {
        (atom, second, third)
        for second in seconds
        for third in (*seconds, *neighbours[second])
        if third not in (atom, second)
    }
    sines = {frame: _sines(geometries, frame).min() for frame in triplets}
    bent = [frame for frame in triplets if sines[frame] >= _BENT]

    def images(frame: Frame) -> int:
        return sum(image[0] == atom for image in symmetry.frames(frame))

    def order(frame: Frame) -> tuple[int, int, bool, float, Frame]:
        return images(frame), images(frame[:2]), frame[2] not in seconds, -round(float(sines[frame]), 1), frame

    if bent:
        return min(bent, key=order)
    return (atom, min(seconds, key=lambda second: (images((atom, second)), second))) if seconds else (atom,)


def _sines(geometries: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the sines (S,) of the angle at the frame's origin."""
    arms = [geometries[:, atom] - geometries[:, frame[0]] for atom in frame[1:]]
    normals = np.linalg.norm(np.cross(*arms), axis=-1)
    return np.asarray(normals / np.prod([np.linalg.norm(arm, axis=-1) for arm in arms], axis=0))


def _moved(frame: Frame, operation: Operation) -> Frame:
    return tuple(operation.image[atom] for atom in frame)


def _closure(
    start: _Thing, operations: Sequence[Operation], move: Callable[[_Thing, Operation], _Thing]
) -> list[_Thing]:
    """Return all that operations make of a thing, itself first."""
    found, waiting = {start: None}, deque([start])
    while waiting:
        thing = waiting.popleft()
        for operation in operations:
            if (image := move(thing, operation)) not in found:
                found[image] = None
                waiting.append(image)
    return list(found)

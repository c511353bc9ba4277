"""What the files of all simulation programs share: names of atoms and sites, and constraints of a rigid molecule."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np

from shared.elements import symbol
from shared.errors import UserError
from train.fixed_charges.charge_model import ChargeModel, pair_distances

ANGSTROM_IN_NM = 0.1

_LEAST_STIFFNESS = 0.02
"""Smallest singular value of the constraints' directions: below it a constraint hardly restores what it holds."""

_MOST_ATOMS = 4
"""OpenMM's iteration for methane's nine constraints diverges."""


def atom_names(model: ChargeModel) -> list[str]:
    """Return a name for each atom: its element and its number among the atoms of this element (C1, O1, O2)."""
    seen: Counter[str] = Counter()
    names = []
    for number in model.atomic_numbers.tolist():
        seen[symbol(number)] += 1
        names.append(f"{symbol(number)}{seen[symbol(number)]}")
    return names


def site_names(model: ChargeModel) -> dict[int, str]:
    """Return a name (X1, X2, ...) for each charge that needs a site of its own, by its index."""
    return {k: f"X{count}" for count, k in enumerate(off_nuclei(model), start=1)}


def off_nuclei(model: ChargeModel) -> list[int]:
    """Return the charges that need a site of their own; those of frames of one atom are on the nucleus."""
    return [k for k, frame in enumerate(model.frames) if len(frame) > 1]


def nuclear_charges(model: ChargeModel) -> np.ndarray:
    """Return the charges (N,) in e that are on the nuclei."""
    charges = np.zeros(len(model.atomic_numbers))
    for charge, frame in zip(model.charges, model.frames, strict=True):
        if len(frame) == 1:
            charges[frame[0]] += charge
    return charges


def without_kernel(model: ChargeModel) -> ChargeModel:
    """Return the model with its charges fixed in their frames, where they are at the reference geometry."""
    if model.kernel is None:
        return model
    return replace(model, local=model.local + model.kernel.shifts(pair_distances(model.positions)), kernel=None)


def rigid_constraints(model: ChargeModel) -> list[tuple[int, int, float]] | None:
    """Return constraints (atom, atom, distance in nm) of bonds and angles that keep the molecule rigid.

    They are independent of each other. None if there are none that do: molecules with torsions, planar ones of more
    than three atoms and linear ones of more than two, in which distances hold some motions in second order only; and
    all of more than four, as methane, whose constraints simulation programs do not solve.
    """
    n = len(model.atomic_numbers)
    if n > _MOST_ATOMS:
        return None
    bonds = [(min(bond), max(bond)) for bond in model.bonds.tolist()]
    neighbours = [{i + j - atom for i, j in bonds if atom in (i, j)} for atom in range(n)]
    ends = {pair for bonded in neighbours for pair in itertools.combinations(sorted(bonded), 2)}
    chosen: list[tuple[int, int]] = []
    directions = np.zeros((0, 3 * n))
    for i, j in [*bonds, *sorted(ends.difference(bonds))]:
        direction = np.zeros((n, 3))
        direction[i] = model.positions[i] - model.positions[j]
        direction /= np.sqrt(2.0) * np.linalg.norm(direction[i])
        direction[j] = -direction[i]
        more = np.vstack([directions, direction.reshape(1, -1)])
        if np.linalg.svd(more, compute_uv=False).min() > _LEAST_STIFFNESS:
            directions, chosen = more, [*chosen, (i, j)]
    if len(chosen) != {1: 0, 2: 1}.get(n, 3 * n - 6):
        return None
    distances = [np.linalg.norm(model.positions[i] - model.positions[j]) * ANGSTROM_IN_NM for i, j in chosen]
    return [(i, j, float(distance)) for (i, j), distance in zip(chosen, distances, strict=True)]


def required_constraints(model: ChargeModel, residue: str) -> list[tuple[int, int, float]]:
    """Return the constraints (atom, atom, distance in nm) that keep the molecule rigid.

    Raises:
        UserError: none do.
    """
    constraints = rigid_constraints(model)
    if constraints is None:
        raise UserError(
            f"residue {residue}: constraints of bonds and angles do not keep it rigid; give harmonic terms with "
            "--bonded FILE"
        )
    return constraints

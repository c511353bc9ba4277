"""Refusals of what would give wrong or no numbers: molecules, points, results that are not finite, forked processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ase
import numpy as np

from shared.elements import symbol
from shared.errors import UserError
from shared.geometry import SHORTEST_PREDICTED, describe_close_atoms
from shared.input.total_charge import total_charge_of

_process_of_jax: list[int] = []
"""Process in which the first predictor started JAX, whose threads a fork would not have."""


def begin_in_this_process() -> None:
    """Remember that JAX is started here.

    Raises:
        UserError: as :func:`require_own_process`.
    """
    require_own_process()
    _process_of_jax[:] = [os.getpid()]


def require_own_process() -> None:
    """Refuse to go on in a process that was forked: JAX's threads are not in it, and it would wait for them for ever.

    Raises:
        UserError: JAX was started in the process that this one was forked from.
    """
    if _process_of_jax and _process_of_jax[0] != os.getpid():
        raise UserError(
            "this process was forked after the model was loaded, where JAX would hang; start processes by "
            'multiprocessing.get_context("spawn"), or load the model in the new process alone'
        )


def masses_of(molecule: ase.Atoms) -> np.ndarray:
    """Return the masses (N,) in u: those of the molecule itself, else of its elements."""
    return np.asarray(molecule.get_masses())


def check_molecule(molecule: ase.Atoms, elements: Sequence[int], where: str) -> float:
    """Return the total charge in e of a molecule that can be predicted.

    Args:
        molecule: to be checked.
        elements: atomic numbers that the model was trained on.
        where: beginning of the message.

    Raises:
        UserError: it cannot; says why.
    """
    if len(molecule) == 0:
        raise UserError(f"{where}no atoms")
    if molecule.pbc.any():
        raise UserError(f"{where}periodic boundaries; the model is one of molecules (set atoms.pbc = False)")
    unknown = sorted(set(molecule.numbers.tolist()) - set(elements))
    if unknown:
        names = ", ".join(symbol(number) for number in unknown)
        known = ", ".join(symbol(number) for number in elements)
        raise UserError(f"{where}the model was not trained on {names}, but on {known}")
    if not np.isfinite(molecule.positions).all():
        atom = int(np.argmin(np.isfinite(molecule.positions).all(axis=1)))
        raise UserError(f"{where}atom {atom}: its position is not finite")
    if wrong := describe_close_atoms(molecule.numbers, molecule.positions, SHORTEST_PREDICTED):
        raise UserError(f"{where}{wrong}")
    bad = ~(np.isfinite(masses_of(molecule)) & (masses_of(molecule) > 0))
    if bad.any():
        raise UserError(f"{where}atom {int(np.argmax(bad))}: its mass is not a positive number")
    try:
        return total_charge_of(molecule)
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def finite(values: np.ndarray, where: str, name: str) -> np.ndarray:
    """Return the values.

    Raises:
        UserError: one of them is not finite.
    """
    if np.isfinite(values).all():
        return values
    raise UserError(
        f"{where}the predicted {name.replace('_', ' ')} is not finite: the geometry or the total charge is too far "
        "from those of training"
    )


def checked_points(points: np.ndarray) -> np.ndarray:
    """Return points (G, 3) in Å as float64.

    Raises:
        UserError: they have another shape, or are not finite.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"points of shape {points.shape}: (G, 3) is needed, in Å; of one point, points[None]")
    if not np.isfinite(points).all():
        raise UserError(f"point {int(np.argmin(np.isfinite(points).all(axis=1)))} is not finite")
    return points

"""Harmonic bonds and angles of a molecule from its Hessian.

The Hessian of the terms, Σ k b bᵀ with b the derivatives of a length or an angle, is fitted to that of the molecule,
both mass-weighted, with k ≥ 0. Method: R. Wang, M. Ozhgibesov, H. Hirao, J. Comput. Chem. 2018, 39, 307.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from shared.elements import MASSES
from shared.normal_modes import normal_modes
from shared.units import KJ_PER_MOL_IN_EV
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.parameters import Angle, Bond, BondedTerms
from train.fixed_charges.topology import ANGSTROM_IN_NM

_LINEAR = 0.05
"""Sine of an angle below which it is 180 degrees."""

_FREE_BELOW = 1.0
"""1/cm: no term holds slower modes."""


class _Coordinate(NamedTuple):
    """A bond or an angle, first the middle one of three atoms."""

    atoms: tuple[int, ...]
    slopes: np.ndarray  # (1 or 2, N, 3) 1 or 1/Å; a linear angle opens in two directions


def fitted_terms(model: ChargeModel, hessian: np.ndarray) -> BondedTerms:
    """Return terms of all bonds and angles, with their least energy at the reference geometry.

    Args:
        model: of a molecule of N atoms.
        hessian: (3 N, 3 N) eV/Å² at its reference geometry.
    """
    coordinates = _coordinates(model)
    if not coordinates:
        return BondedTerms(())
    roots = np.repeat(np.sqrt(MASSES[model.atomic_numbers]), 3)
    weights = 1.0 / np.outer(roots, roots)
    columns = np.stack([(_stiffness([one], [1.0]) * weights).ravel() for one in coordinates], axis=1)
    constants, _ = nnls(columns, (hessian * weights).ravel())
    bonds, angles = [], []
    for (atoms, slopes), constant in zip(coordinates, (constants / KJ_PER_MOL_IN_EV).tolist(), strict=True):
        first, *others = model.positions[list(atoms)]
        arms = np.stack(others) - first
        if len(atoms) == 2:
            length = float(np.linalg.norm(arms)) * ANGSTROM_IN_NM
            bonds.append(Bond(*atoms, length=length, constant=constant / ANGSTROM_IN_NM**2))
        else:
            cosine, _ = _cosine_and_sine(arms)
            degrees = 180.0 if len(slopes) == 2 else float(np.degrees(np.arccos(cosine)))
            angles.append(Angle(atoms[1], atoms[0], atoms[2], angle=degrees, constant=constant))
    return BondedTerms(tuple(bonds), tuple(angles))


def describe_terms(model: ChargeModel, terms: BondedTerms, hessian: np.ndarray) -> str:
    """Return how well terms of :func:`fitted_terms` have the normal modes of a Hessian (3 N, 3 N) in eV/Å²."""
    constants = [one.constant * ANGSTROM_IN_NM**2 for one in terms.bonds] + [one.constant for one in terms.angles]
    own = _stiffness(_coordinates(model), np.array(constants) * KJ_PER_MOL_IN_EV)
    masses = MASSES[model.atomic_numbers]
    found, expected = (normal_modes(model.positions, masses, one).wavenumbers for one in (own, hessian))
    held = found >= _FREE_BELOW
    text = "harmonic bonds and angles from the model's Hessian (--bonded FILE: yours)"
    if held.any():
        error = np.sqrt(np.mean((found - expected)[held] ** 2))
        text += (
            f": {held.sum()} normal modes of {found[held].min():.0f} to {found.max():.0f}/cm, RMS error {error:.0f}/cm"
        )
    return text + (f"; no term holds {(~held).sum()} more, such as torsions" if not held.all() else "")


def _coordinates(model: ChargeModel) -> list[_Coordinate]:
    """Return all bonds, then all angles."""
    n = len(model.positions)
    bonded: list[list[int]] = [[] for _ in range(n)]
    found = []
    for first, second in model.bonds.tolist():
        bonded[first].append(second)
        bonded[second].append(first)
        arm = model.positions[second] - model.positions[first]
        slopes = np.zeros((1, n, 3))
        slopes[0, second] = arm / np.linalg.norm(arm)
        slopes[0, first] = -slopes[0, second]
        found.append(_Coordinate((first, second), slopes))
    for middle, others in enumerate(bonded):
        found += [
            _Coordinate((middle, *ends), _angle_slopes(model.positions, middle, ends))
            for ends in itertools.combinations(sorted(others), 2)
        ]
    return found


def _angle_slopes(positions: np.ndarray, middle: int, ends: tuple[int, int]) -> np.ndarray:
    """Return the derivatives (1, N, 3) of an angle in 1/Å; (2, N, 3) of a linear one, in two directions."""
    arms = positions[list(ends)] - positions[middle]
    lengths = np.linalg.norm(arms, axis=1)
    first, second = units = arms / lengths[:, None]
    cosine, sine = _cosine_and_sine(arms)
    if sine < _LINEAR:
        beside = np.linalg.svd(first[None])[2][1:]
        directions = np.stack([beside, beside], axis=1)
    else:
        directions = ((cosine * units - [second, first]) / sine)[None]
    slopes = np.zeros((len(directions), *positions.shape))
    slopes[:, list(ends)] = directions / lengths[:, None]
    slopes[:, middle] = -slopes[:, list(ends)].sum(axis=1)
    return slopes


def _cosine_and_sine(arms: np.ndarray) -> tuple[float, float]:
    product = float(np.prod(np.linalg.norm(arms, axis=1)))
    return float(arms[0] @ arms[1]) / product, float(np.linalg.norm(np.cross(*arms))) / product


def _stiffness(coordinates: Sequence[_Coordinate], constants: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the Hessian (3 N, 3 N) of terms with constants per Å² or radian²."""
    slopes = [one.slopes.reshape(len(one.slopes), -1) for one in coordinates]
    return np.asarray(sum(constant * one.T @ one for constant, one in zip(constants, slopes, strict=True)))

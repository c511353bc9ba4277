"""Fit of constant charges and local positions to the ESP around many geometries of a molecule.

The error is the mean square over the points of all geometries; small penalties keep charges modest and near their
atoms (L. E. Chirlian, M. M. Francl, J. Comput. Chem. 1987, 8, 894, on charges that the ESP does not determine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shared.elements import VAN_DER_WAALS_RADII
from shared.units import BOHR_IN_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.fixed_charges.charge_model import frame_axes
from train.fixed_charges.site_orbits import SiteOrbit

COULOMB = HARTREE_IN_KCAL_PER_MOL * BOHR_IN_ANGSTROM
"""Potential of 1 e at 1 Å, kcal/mol/e."""

_CHARGE_PENALTY = 1e-2
"""(kcal/mol/e)² of a charge of 1 e: charges that cancel at several e cost more than they mend."""

_DISTANCE_PENALTY = 1e-4
"""(kcal/mol/e)² of a charge 1 Å from its atom."""

_FARTHEST = 0.5
"""Largest distance of a charge from its atom, of the van der Waals radius."""

_STEPS = 60
_CONVERGED = 1e-5
"""Relative decrease of the mean square below which a fit ends."""

_STUCK = 1e6
"""Damping at which no step is left that decreases it."""

_BYTES_AT_ONCE = 64 << 20


class Target(NamedTuple):
    """The ESP around S geometries of a molecule of N atoms, at equally many points of each."""

    geometries: np.ndarray  # (S, N, 3) Å
    points: np.ndarray  # (S, G, 3) Å
    esp: np.ndarray  # (S, G) kcal/mol/e


class Fitted(NamedTuple):
    """Orbits after a fit."""

    orbits: tuple[SiteOrbit, ...]
    rmse: float  # kcal/mol/e, of the points of the fit


def potential(charges: np.ndarray, sites: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the ESP (..., G) in kcal/mol/e of charges (K,) in e at sites (..., K, 3) at points (..., G, 3) in Å."""
    distances = np.linalg.norm(points[..., :, None, :] - sites[..., None, :, :], axis=-1)
    return np.asarray(COULOMB * (charges / distances).sum(axis=-1))


def fit_orbits(
    orbits: Sequence[SiteOrbit], target: Target, atomic_numbers: np.ndarray, total_charge: int, steps: int = _STEPS
) -> Fitted:
    """Fit the charges, which sum to the total charge, and the free local coordinates of orbits.

    Args:
        orbits: where the fit begins.
        target: the ESP.
        atomic_numbers: (N,)
        total_charge: e.
        steps: most evaluations.
    """
    orbits = fit_charges(orbits, target, total_charge).orbits
    layout = _Layout(orbits, target)
    free = layout.free
    bounds = np.concatenate([np.full(orbit.freedom, farthest(orbit, atomic_numbers)) for orbit in orbits])
    if not free.any():
        return Fitted(orbits, layout.rmse())
    basis, offset = _sum_kept(layout.counts, total_charge)
    start = np.clip(layout.local[free], -0.99 * bounds, 0.99 * bounds)
    size = len(layout.counts) - 1
    variables = np.concatenate([basis.T @ (layout.charges - offset), start])

    def place(values: np.ndarray) -> None:
        layout.charges, layout.local[free] = offset + basis @ values[:size], values[size:]

    def evaluate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place(values)
        residuals, by_charge, by_local = layout.residuals()
        return residuals, np.concatenate([by_charge @ basis, by_local[:, free]], axis=1)

    limits = np.concatenate([np.full(size, np.inf), bounds])
    place(least_squares(evaluate, variables, limits, steps))
    return Fitted(layout.orbits(), layout.rmse())


def least_squares(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], start: np.ndarray, limits: np.ndarray, steps: int
) -> np.ndarray:
    """Return variables (n,) within ± limits (n,) of a least square, by Levenberg's and Marquardt's method.

    By normal equations, as there are many more residuals than variables: scipy's function of this name, which
    factorises the derivatives in each step, took four times as long for this module's tests.

    Args:
        evaluate: returns the residuals (R,) and their derivatives (R, n).
        start: (n,) within the limits.
        limits: (n,)
        steps: most evaluations.
    """
    variables, damping = start, 1e-3
    residuals, jacobian = evaluate(variables)
    cost = float(residuals @ residuals)
    gradient, normal = jacobian.T @ residuals, jacobian.T @ jacobian
    for _ in range(steps):
        # Variables that are at a limit and pushed against it stay there.
        moving = np.flatnonzero((np.abs(variables) < limits) | (gradient * variables > 0.0))
        matrix = normal[np.ix_(moving, moving)]
        scaled = matrix + damping * np.diag(np.diag(matrix))
        step = np.zeros_like(variables)
        step[moving] = -np.linalg.lstsq(scaled, gradient[moving], rcond=1e-15)[0]
        tried = np.clip(variables + step, -limits, limits)
        residuals, jacobian = evaluate(tried)
        gain = cost - float(residuals @ residuals)
        if gain <= 0.0:
            damping *= 10.0
            if damping > _STUCK:
                break
            continue
        variables, cost, damping = tried, cost - gain, max(damping / 5.0, 1e-9)
        gradient, normal = jacobian.T @ residuals, jacobian.T @ jacobian
        if gain < _CONVERGED * cost:
            break
    return variables


def fit_charges(orbits: Sequence[SiteOrbit], target: Target, total_charge: int) -> Fitted:
    """Fit the charges alone, which sum to the total charge."""
    gram = Gram.of(orbits, target)
    charges, mean_square = gram.solve(range(len(orbits)), total_charge)
    changed = [replace(orbit, charge=charge) for orbit, charge in zip(orbits, charges.tolist(), strict=True)]
    return Fitted(tuple(changed), float(np.sqrt(mean_square)))


@dataclass(frozen=True)
class Gram:
    """Normal equations of the charges of O orbits, of which any subset is solved at once."""

    matrix: np.ndarray  # (O, O)
    vector: np.ndarray  # (O,)
    square: float  # mean square of the ESP
    counts: np.ndarray  # (O,) charges in each orbit

    @classmethod
    def of(cls, orbits: Sequence[SiteOrbit], target: Target) -> Gram:
        """Return those of orbits where they are."""
        layout = _Layout(orbits, target)
        columns = layout.columns().reshape(-1, len(orbits))
        esp = target.esp.ravel()
        return cls(columns.T @ columns / len(esp), columns.T @ esp / len(esp), float(np.mean(esp**2)), layout.counts)

    def solve(self, chosen: Sequence[int] | range, total_charge: int) -> tuple[np.ndarray, float]:
        """Return the best charges of some orbits, and their mean square error in (kcal/mol/e)²."""
        rows = np.array(chosen)
        matrix, vector, counts = self.matrix[np.ix_(rows, rows)], self.vector[rows], self.counts[rows]
        basis, offset = _sum_kept(counts, total_charge)
        penalised = matrix + np.diag(_CHARGE_PENALTY * counts)
        reduced = basis.T @ penalised @ basis
        charges = offset + basis @ np.linalg.lstsq(reduced, basis.T @ (vector - penalised @ offset), rcond=1e-14)[0]
        return charges, max(float(charges @ matrix @ charges - 2.0 * vector @ charges + self.square), 0.0)


def farthest(orbit: SiteOrbit, atomic_numbers: np.ndarray) -> float:
    """Return the largest local coordinate of an orbit, Å: all of them together stay within its bound."""
    return float(_FARTHEST * VAN_DER_WAALS_RADII[atomic_numbers[orbit.atom]] / np.sqrt(max(orbit.freedom, 1)))


def _sum_kept(counts: np.ndarray, total_charge: int) -> tuple[np.ndarray, np.ndarray]:
    """Return directions (O, O - 1) that do not change Σ count · charge, and charges (O,) that have the total charge."""
    *_, right = np.linalg.svd(counts[None].astype(np.float64))
    return right[1:].T, total_charge * counts / float(counts @ counts)


class _Layout:
    """Orbits with their frames at all geometries; charges (O,) and local positions (O, 3) may change."""

    def __init__(self, orbits: Sequence[SiteOrbit], target: Target) -> None:
        self._orbits, self._target = tuple(orbits), target
        self.counts = np.array([len(orbit.images) for orbit in orbits])
        self.charges = np.array([orbit.charge for orbit in orbits])
        self.local = np.array([orbit.local for orbit in orbits])
        self.free = np.array([np.arange(3) < orbit.freedom for orbit in orbits])
        self._starts = np.cumsum([0, *self.counts[:-1]])
        images = [image for orbit in orbits for image in orbit.images]
        self._origins = target.geometries[:, [frame[0] for frame, _ in images]]
        known: dict[tuple[int, ...], np.ndarray] = {}
        for frame, _ in images:
            if frame not in known:
                known[frame] = frame_axes(target.geometries, frame)
        # (S, K, 3, 3), z turned where the sign is -1.
        self._axes = np.stack([known[frame] * np.array([1, 1, sign])[:, None] for frame, sign in images], axis=1)

    def columns(self) -> np.ndarray:
        """Return the ESP (S, G, O) in kcal/mol/e of charges of 1 e in each orbit."""
        found = np.empty((*self._target.esp.shape, len(self.counts)))
        sites = self._sites()
        for rows in self._chunks():
            offsets = self._target.points[rows, :, None] - sites[rows, None]
            inverse = COULOMB / np.sqrt(np.einsum("sgkx,sgkx->sgk", offsets, offsets))
            found[rows] = np.add.reduceat(inverse, self._starts, axis=2)
        return found

    def residuals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals, the penalties last, and derivatives by charges (R, O) and local positions (R, O, 3)."""
        sites = self._sites()
        each = np.repeat(self.charges, self.counts)
        size, n = self._target.esp.size, len(self.counts)
        by_charge, by_local = np.zeros((size + 4 * n, n)), np.zeros((size + 4 * n, n, 3))
        points = self._target.points.shape[1]
        for rows in self._chunks():
            offsets = self._target.points[rows, :, None] - sites[rows, None]
            inverse = 1.0 / np.sqrt(np.einsum("sgkx,sgkx->sgk", offsets, offsets))
            at = slice(rows.start * points, rows.stop * points)
            by_charge[at] = COULOMB * np.add.reduceat(inverse, self._starts, axis=2).reshape(-1, n)
            along = np.einsum("sgkx,skix->sgki", offsets, self._axes[rows], optimize=True)
            along *= (COULOMB * each * inverse**3)[..., None]
            by_local[at] = np.add.reduceat(along, self._starts, axis=2).reshape(-1, n, 3)
        residuals = np.zeros(size + 4 * n)
        residuals[:size] = by_charge[:size] @ self.charges - self._target.esp.ravel()
        for part in (residuals, by_charge, by_local):
            part[:size] /= np.sqrt(size)
        roots = np.sqrt(_CHARGE_PENALTY * self.counts)
        residuals[size : size + n] = roots * self.charges
        by_charge[size : size + n] = np.diag(roots)
        roots = np.repeat(np.sqrt(_DISTANCE_PENALTY * self.counts), 3)
        residuals[size + n :] = roots * self.local.ravel()
        by_local[size + n :] = np.diag(roots).reshape(-1, n, 3)
        return residuals, by_charge, by_local

    def rmse(self) -> float:
        """Return the root mean square error in kcal/mol/e."""
        return float(np.sqrt(np.mean((self.columns() @ self.charges - self._target.esp) ** 2)))

    def orbits(self) -> tuple[SiteOrbit, ...]:
        """Return the orbits as they now are."""
        changed = zip(self._orbits, self.charges.tolist(), self.local.copy(), strict=True)
        return tuple(replace(orbit, charge=charge, local=local) for orbit, charge, local in changed)

    def _sites(self) -> np.ndarray:
        local = np.repeat(self.local, self.counts, axis=0)
        return np.asarray(self._origins + np.einsum("ki,skix->skx", local, self._axes))

    def _chunks(self) -> list[slice]:
        geometries, points = self._target.esp.shape
        step = max(1, _BYTES_AT_ONCE // (8 * 12 * points * int(self.counts.sum())))
        return [slice(start, min(start + step, geometries)) for start in range(0, geometries, step)]

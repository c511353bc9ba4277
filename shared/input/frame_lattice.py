"""Fit of the shift of a cube's points, from the holes round the atoms.

No point of a cube is nearer to an atom than some distance. A wrong shift moves points into the holes: of all shifts,
those with the widest holes are the likeliest, and likelier by the number of points that a hole's surface would meet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.input.frame_multipoles import thinned
from shared.jit import jit

_SAMPLES = np.random.default_rng(0).standard_normal((768, 3))
"""Normal samples, drawn once: the result for a molecule depends on the molecule alone."""
_COARSE_SAMPLES, _COARSE_POINTS, _COARSE = 192, 800, 0.06
"""Numbers of samples and of points while the shift is not known to _COARSE Å."""

_ROUNDS = 40
_SETTLED = 0.2
"""Relative change of the spread at which the rounds end."""
_FEWEST = 40.0
"""Least effective number of samples of a mean."""
_WIDENED = 1.2
"""Spread of the samples over that of the shift."""
_TAIL = 3.0
"""Degrees of freedom of the guess's Student distribution: the ESP is occasionally far off."""
_LAYER = 0.2
"""Thickness, Å, of the layer beyond a hole's radius in which points are counted, for the density at its surface."""
_SAME_RADIUS = 15.0
"""Gain in log-likelihood at which the elements get different radii."""
_SMALLEST_GAP = 0.02
"""Least spacing of a lattice, Å."""


class HoleFit(NamedTuple):
    """Mean and spread of the shifts that leave the holes empty and agree with the first guess."""

    shift: np.ndarray  # (3,) Å
    covariance: np.ndarray  # (3, 3) Å²
    clear: bool  # the holes have sharp edges


def is_lattice(points: np.ndarray) -> bool:
    """Return whether the points (G, 3) in Å are points of a lattice along the axes, or of one of its planes."""
    return all(_is_spaced_evenly(np.sort(points[:, axis])) for axis in range(3))


def _is_spaced_evenly(values: np.ndarray) -> bool:
    first = np.flatnonzero(np.diff(values, prepend=-np.inf) > _SMALLEST_GAP)
    last = np.append(first[1:] - 1, len(values) - 1)
    planes = (values[first] + values[last]) / 2
    if len(planes) < 3:
        return len(planes) == 1
    if (values[last] - values[first]).max() > _SMALLEST_GAP / 2:
        return False
    gaps = np.diff(planes)
    spacing = gaps[gaps < 1.25 * gaps.min()].mean()
    steps = gaps / spacing
    return bool(np.abs(steps - np.rint(steps)).max() < 0.15)


def fit_holes(
    numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, guess: np.ndarray, covariance: np.ndarray
) -> HoleFit:
    """Weigh the shifts about a guess by the holes round the atoms (adaptive importance sampling).

    Args:
        numbers: (N,) atomic numbers; atoms of one element have holes of one radius.
        positions: (N, 3) in Å.
        points: (G, 3) in Å, float64.
        guess: (3,) in Å, mean of the shift's distribution without the holes.
        covariance: (3, 3) in Å², its covariance.
    """
    precision = np.linalg.inv(covariance)
    groups = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    mean, spread, width, enough = guess, covariance, float(np.sqrt(np.trace(covariance))), False
    coarse, few = width > _COARSE, points[thinned(len(points), _COARSE_POINTS)]
    for _ in range(_ROUNDS):
        normal = _SAMPLES[:_COARSE_SAMPLES] if coarse else _SAMPLES
        steps = _WIDENED * normal @ np.linalg.cholesky(spread).T
        some = few if coarse else points
        reach = 2.0 * float(np.linalg.norm(steps, axis=1).max())
        offsets, owner = _near_atoms(positions, some, groups, mean, reach + _LAYER)
        rates, radii = _edges(offsets, owner, int(groups.max()) + 1)
        if enough and groups.max() and rates @ (radii - radii.min()) < _SAME_RADIUS:
            groups, enough = np.zeros_like(groups), False
            continue
        off = mean + steps - guess
        weights = _radii(offsets, owner, steps, len(rates)) @ rates
        weights -= (_TAIL + 3.0) / 2.0 * np.log1p(np.einsum("ki,ij,kj->k", off, precision, off) / _TAIL)
        weights += 0.5 * np.einsum("ki,ki->k", normal, normal)
        weights, enough = _normalised(weights)
        move = weights @ steps
        mean = mean + move
        spread = (steps - move).T @ ((steps - move) * weights[:, None]) + 1e-10 * np.eye(3)
        last, width = width, float(np.sqrt(np.trace(spread)))
        settled = enough and abs(width / last - 1.0) < _SETTLED
        if settled and not coarse:
            break
        enough = enough and not coarse
        coarse = coarse and width > _COARSE and not settled
    return HoleFit(mean, spread, enough and _has_edges(positions, points, groups, mean))


def _normalised(logarithms: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return weights that add up to 1, flattened to enough effective samples, and whether that was not needed."""
    logarithms = logarithms - logarithms.max()
    power = 1.0
    weights = np.exp(logarithms)
    while weights.sum() ** 2 < _FEWEST * np.sum(weights**2):
        power *= 0.6
        weights = np.exp(power * logarithms)
    return weights / weights.sum(), power == 1.0


@jit()
def _near_atoms(
    positions: np.ndarray, points: np.ndarray, groups: np.ndarray, shift: np.ndarray, layer: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (pairs, 3) from atoms to points up to ``layer`` beyond their hole's radius, and their groups."""
    n_atoms = len(positions)
    nearest = np.full(groups.max() + 1, np.inf)
    squared = np.empty((len(points), n_atoms))
    for i in range(len(points)):
        for a in range(n_atoms):
            x = points[i, 0] + shift[0] - positions[a, 0]
            y = points[i, 1] + shift[1] - positions[a, 1]
            z = points[i, 2] + shift[2] - positions[a, 2]
            squared[i, a] = x * x + y * y + z * z
            nearest[groups[a]] = min(nearest[groups[a]], squared[i, a])
    most = (np.sqrt(nearest) + layer) ** 2
    n = 0
    for i in range(len(points)):
        for a in range(n_atoms):
            n += squared[i, a] <= most[groups[a]]
    offsets, owner = np.empty((n, 3)), np.empty(n, dtype=np.int64)
    n = 0
    for i in range(len(points)):
        for a in range(n_atoms):
            if squared[i, a] <= most[groups[a]]:
                offsets[n] = points[i] + shift - positions[a]
                owner[n] = groups[a]
                n += 1
    return offsets, owner


def _edges(offsets: np.ndarray, owner: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for every group the points that a hole's surface would meet, 1/Å, and the hole's radius in Å."""
    rates, radii = np.zeros(n_groups), np.zeros(n_groups)
    distances = np.linalg.norm(offsets, axis=1)
    for group in range(n_groups):
        some = distances[owner == group]
        radius = some.min()
        count = np.count_nonzero(some <= radius + _LAYER)
        rates[group] = 3.0 * radius**2 * count / ((radius + _LAYER) ** 3 - radius**3)
        radii[group] = radius
    return rates, radii


@jit()
def _radii(offsets: np.ndarray, owner: np.ndarray, steps: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the radii (K, groups) in Å of the holes after each of the (K, 3) further shifts."""
    out = np.full((len(steps), n_groups), np.inf)
    for k in range(len(steps)):
        for pair in range(len(offsets)):
            x, y, z = offsets[pair, 0] + steps[k, 0], offsets[pair, 1] + steps[k, 1], offsets[pair, 2] + steps[k, 2]
            squared = x * x + y * y + z * z
            if squared < out[k, owner[pair]]:
                out[k, owner[pair]] = squared
    return np.sqrt(out)


def _has_edges(positions: np.ndarray, points: np.ndarray, groups: np.ndarray, shift: np.ndarray) -> bool:
    """Return whether points are as dense at the holes' surfaces as farther outside."""
    offsets, owner = _near_atoms(positions, points, groups, shift, _LAYER)
    inner = outer = share = 0.0
    distances = np.linalg.norm(offsets, axis=1)
    for group in range(int(groups.max()) + 1):
        some = distances[owner == group]
        low, middle, high = some.min(), some.min() + _LAYER / 2, some.min() + _LAYER
        inside = np.count_nonzero(some <= middle) - 1
        inner, outer = inner + inside, outer + len(some) - 1 - inside
        share += (len(some) - 1) * (middle**3 - low**3) / (high**3 - low**3)
    count = inner + outer
    return bool(count and inner > share - 4.0 * np.sqrt(share))

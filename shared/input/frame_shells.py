"""Fit of the shift of grid points on spheres round the atoms, from the spheres alone.

Four points of one sphere give its centre, and the centre less its atom is the shift. Quadruples of neighbouring points
vote for a shift; the best candidates are refined until the distances of the points to their atoms coincide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.input.frame_multipoles import thinned
from shared.input.frame_votes import vote
from shared.jit import jit

MOST_POINTS = 600
"""Most points of the search; the last refinement takes all of them."""

SURE = 25.0
"""Least gain in log-likelihood of spheres over none, or of a shift over the next best: wrong shifts reach 10."""

_SMALLEST_SHARE = 0.6
"""Least share of the points on spheres."""

_LARGEST_SPREAD = 0.0035
"""Largest standard deviation, Å, of the distances from a sphere: float16 gives 0.0008, and smooth surfaces that are
almost spherical more than 0.0044."""

_FARTHEST = 1.9
"""Largest distance of a point to its own atom over that to the nearest one: the ratio of two elements' radii."""
_LARGEST_RADIUS = 8.0
"""Largest radius of a sphere, Å."""
_MOST_SPHERES = 40
"""Most different radii, of all elements together."""
_WIDTHS = np.array([0.02, 0.01, 0.004])
"""Third of the thickness, Å, of the spheres that points belong to, in the rounds of the refinement."""
_AROUND = 12
"""Widths on either side of a sphere in which points are counted for the density by chance."""
_LOOK_ELSEWHERE = 7.0
"""Log-likelihood gained by chance at a thousand places."""
_ROUNDING = 2e-6
"""Rounding of float32 coordinates, Å."""
_OTHER = 0.03
"""Least distance, Å, of different shifts."""


class ShellFit(NamedTuple):
    """A shift, and how well the distances coincide there."""

    shift: np.ndarray  # (3,) Å
    uncertainty: float  # Å, standard error of the shift's length
    score: float  # logarithm of how much likelier the distances are than spread evenly


def vote_and_refine(
    numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, guess: np.ndarray
) -> list[ShellFit]:
    """Find the shift that puts the points onto spheres round the atoms, and the next best if there is any.

    Args:
        numbers: (N,) atomic numbers; atoms of one element have spheres of the same few radii.
        positions: (N, 3) in Å.
        points: (G, 3) in Å, float64.
        guess: (3,) Å, the middle of the search.
    """
    return refine(numbers, positions, points, vote(points, positions, guess))


def refine(numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, starts: np.ndarray) -> list[ShellFit]:
    """Refine given shifts (K, 3), in Å, that are correct to some hundredths of an Å; results as vote_and_refine."""
    elements = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    some = points[thinned(len(points), MOST_POINTS)]
    shifts, scores = _refine(some, positions, elements, starts, _WIDTHS)
    found: list[ShellFit] = []
    for one in np.argsort(-scores, kind="stable"):
        if scores[one] < SURE or len(found) == 2:
            break
        if found and np.linalg.norm(shifts[one] - found[0].shift) < _OTHER:
            continue
        shift, uncertainty, spread, n = _polish(points, positions, elements, shifts[one], _WIDTHS[-1])
        if n < _SMALLEST_SHARE * len(points) or spread > _LARGEST_SPREAD:
            break
        found.append(ShellFit(shift, max(uncertainty, _ROUNDING), float(scores[one])))
    return found


@jit()
def _distances(points: np.ndarray, positions: np.ndarray, shift: np.ndarray, distance: np.ndarray) -> None:
    """Compute the distances (G, N) of the points to atoms on whose spheres they may be; infinite to the others."""
    for i in range(len(points)):
        nearest = np.inf
        for a in range(len(positions)):
            x = points[i, 0] + shift[0] - positions[a, 0]
            y = points[i, 1] + shift[1] - positions[a, 1]
            z = points[i, 2] + shift[2] - positions[a, 2]
            distance[i, a] = np.sqrt(x * x + y * y + z * z)
            nearest = min(nearest, distance[i, a])
        most = min(nearest * _FARTHEST, _LARGEST_RADIUS)
        for a in range(len(positions)):
            if distance[i, a] >= most:
                distance[i, a] = np.inf


@jit()
def _pile_up(
    distance: np.ndarray, elements: np.ndarray, width: float, radii: np.ndarray, owner: np.ndarray
) -> tuple[int, float]:
    """Find the radii at which distances coincide.

    Args:
        distance: (G, N) in Å, see _distances.
        elements: (N,) from 0.
        width: Å, width of the bins; a sphere is three of them.
        radii: (_MOST_SPHERES,) is filled with the radii in Å, the clearest first.
        owner: (_MOST_SPHERES,) is filled with their elements.

    Returns:
        The number of spheres, and the log-likelihood of the distances over that of evenly spread ones.
    """
    n_bins = int(_LARGEST_RADIUS / width) + 1
    n_elements = elements.max() + 1
    counts, sums = np.zeros((n_elements, n_bins), dtype=np.int32), np.zeros((n_elements, n_bins))
    for i in range(distance.shape[0]):
        for a in range(distance.shape[1]):
            if distance[i, a] < np.inf:
                b = int(distance[i, a] / width)
                counts[elements[a], b] += 1
                sums[elements[a], b] += distance[i, a]
    gains, where = np.empty(n_elements * n_bins), np.empty((n_elements * n_bins, 2), dtype=np.int64)
    n = 0
    for element in range(n_elements):
        around = 0
        for b in range(n_bins + _AROUND):
            around += counts[element, b] if b < n_bins else 0
            around -= counts[element, b - 2 * _AROUND - 1] if b > 2 * _AROUND else 0
            middle = b - _AROUND
            if 1 <= middle < n_bins - 1:
                inside = np.sum(counts[element, middle - 1 : middle + 2])
                if inside >= 4:
                    even = (around - inside + 3.0) * 3.0 / (2 * _AROUND - 2)
                    gain = inside * np.log(inside / even) - (inside - even) - _LOOK_ELSEWHERE
                    if gain > 0.0:
                        gains[n], where[n, 0], where[n, 1] = gain, element, middle
                        n += 1
    spheres, total = 0, 0.0
    while spheres < _MOST_SPHERES and n:
        best = np.argmax(gains[:n])
        if gains[best] <= 0.0:
            break
        element, b = where[best]
        radii[spheres] = np.sum(sums[element, b - 1 : b + 2]) / np.sum(counts[element, b - 1 : b + 2])
        owner[spheres] = element
        total += gains[best]
        spheres += 1
        for one in range(n):
            if where[one, 0] == element and abs(where[one, 1] - b) <= 2:
                gains[one] = 0.0
    return spheres, total


@jit()
def _step(
    points: np.ndarray,
    positions: np.ndarray,
    elements: np.ndarray,
    shift: np.ndarray,
    distance: np.ndarray,
    radii: np.ndarray,
    owner: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Take a Gauss-Newton step towards equal distances on every sphere; ``radii`` become the means.

    Returns:
        The step (3,) in Å, the (3, 3) normal matrix, the median absolute deviation in Å, and the points on spheres.
    """
    spheres, n_points = len(radii), len(points)
    group, mate = np.full(n_points, -1, dtype=np.int64), np.zeros(n_points, dtype=np.int64)
    direction, misfit = np.zeros((n_points, 3)), np.zeros(n_points)
    count, mean, slope = np.zeros(spheres), np.zeros(spheres), np.zeros((spheres, 3))
    for i in range(n_points):
        closest = tolerance
        for a in range(len(positions)):
            if distance[i, a] < np.inf:
                for one in range(spheres):
                    if owner[one] == elements[a] and abs(distance[i, a] - radii[one]) <= closest:
                        closest, group[i], mate[i] = abs(distance[i, a] - radii[one]), one, a
        one = group[i]
        if one >= 0:
            direction[i] = (points[i] + shift - positions[mate[i]]) / distance[i, mate[i]]
            count[one] += 1.0
            mean[one] += distance[i, mate[i]]
            slope[one] += direction[i]
    normal, moment, n = np.zeros((3, 3)), np.zeros(3), 0
    for i in range(n_points):
        one = group[i]
        if one >= 0:
            misfit[n] = distance[i, mate[i]] - mean[one] / count[one]
            u = direction[i] - slope[one] / count[one]
            for j in range(3):
                moment[j] -= u[j] * misfit[n]
                for k in range(3):
                    normal[j, k] += u[j] * u[k]
            misfit[n] = abs(misfit[n])
            n += 1
    for one in range(spheres):
        if count[one] > 0:
            radii[one] = mean[one] / count[one]
    for j in range(3):
        normal[j, j] += 1e-9 * n + 1e-12
    spread = np.median(misfit[:n]) if n else np.inf
    return np.linalg.solve(normal, moment), normal, spread, n


@jit()
def _refine(
    points: np.ndarray, positions: np.ndarray, elements: np.ndarray, candidates: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Refine the (K, 3) shifts with ever narrower spheres; return them and their log-likelihoods."""
    shifts, scores = candidates.copy(), np.zeros(len(candidates))
    distance = np.empty((len(points), len(positions)))
    radii, owner = np.empty(_MOST_SPHERES), np.empty(_MOST_SPHERES, dtype=np.int64)
    for one in range(len(candidates)):
        for width in widths:
            _distances(points, positions, shifts[one], distance)
            spheres, scores[one] = _pile_up(distance, elements, width, radii, owner)
            if spheres == 0:
                break
            step, _, _, _ = _step(
                points, positions, elements, shifts[one], distance, radii[:spheres], owner[:spheres], 1.5 * width
            )
            shifts[one] += step * min(1.0, 3.0 * width / max(np.sqrt(np.sum(step * step)), 1e-12))
        _distances(points, positions, shifts[one], distance)
        _, scores[one] = _pile_up(distance, elements, widths[-1], radii, owner)
    return shifts, scores


@jit()
def _polish(
    points: np.ndarray, positions: np.ndarray, elements: np.ndarray, shift: np.ndarray, width: float
) -> tuple[np.ndarray, float, float, int]:
    """Return the shift, its standard error, the spread of the distances and the number of points on spheres."""
    distance = np.empty((len(points), len(positions)))
    radii, owner = np.empty(_MOST_SPHERES), np.empty(_MOST_SPHERES, dtype=np.int64)
    _distances(points, positions, shift, distance)
    spheres, _ = _pile_up(distance, elements, width, radii, owner)
    tolerance, uncertainty, spread, n = 1.5 * width, np.inf, np.inf, 0
    for _ in range(6 if spheres else 0):
        step, normal, deviation, n = _step(
            points, positions, elements, shift, distance, radii[:spheres], owner[:spheres], tolerance
        )
        shift = shift + step
        # Standard deviation of a normal distribution from its median absolute deviation.
        spread = 1.4826 * deviation
        uncertainty = spread * np.sqrt(np.trace(np.linalg.inv(normal)))
        tolerance = min(max(4.0 * spread, _ROUNDING), _WIDTHS[0])
        _distances(points, positions, shift, distance)
    return shift, uncertainty, spread, n

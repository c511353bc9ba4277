"""Votes for the shift of grid points on spheres: the centres of spheres through four points, less the atoms."""

from __future__ import annotations

import numpy as np

from shared.jit import jit

_REACH = 1.5
"""Range, Å, of the search along each axis about the guess: the points' mean is up to 1 Å off the atoms'."""
_BIN = 0.03
"""Width of the voting bins, Å."""
_BINS = int(2 * _REACH / _BIN)
_MOST_VOTED = 100_000
"""Most bins with votes."""
_CANDIDATES = 10
_WINDOWS, _WINDOW = 1200, 8
"""Number of quadruples of points that follow each other, and of the consecutive points that each is drawn from."""
_SEEDS, _NEIGHBOURS, _DRAWS = 160, 15, 30
"""Numbers of points, of neighbours of each, and of quadruples drawn from these."""
_FLATTEST = 1e-4
"""Least square of the volume spanned by three unit vectors that determine a centre."""
_LARGEST_RADIUS = 8.0
"""Largest radius of a sphere, Å."""


@jit()
def vote(points: np.ndarray, positions: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Find the (candidates, 3) shifts in Å for which most quadruples of points vote.

    Args:
        points: (G, 3) in Å.
        positions: (N, 3) in Å, of the atoms.
        guess: (3,) Å, the middle of the search.
    """
    n = len(points)
    if n < 4:
        return np.empty((0, 3))
    bins = np.zeros((_BINS, _BINS, _BINS), dtype=np.int16)
    voted = np.empty((_MOST_VOTED, 3), dtype=np.int32)
    center, low = np.empty(3), guess - _REACH
    used, state, reach = 0, 1, min(_WINDOW, n - 1)
    # Grids are often written sphere by sphere: consecutive points are on one sphere.
    for window in range(min(_WINDOWS, n)):
        i = window * n // min(_WINDOWS, n)
        state, j = _random(state, reach)
        state, k = _random(state, reach)
        state, m = _random(state, reach)
        if _center(points, i, (i + 1 + j) % n, (i + 1 + k) % n, (i + 1 + m) % n, center):
            used = _cast(bins, voted, used, positions, center, low)
    close, squared = np.empty(_NEIGHBOURS, dtype=np.int64), np.empty(_NEIGHBOURS)
    for seed in range(min(_SEEDS, n)):
        i = seed * n // min(_SEEDS, n)
        found = _nearest(points, i, close, squared)
        for _ in range(_DRAWS):
            state, j = _random(state, found)
            state, k = _random(state, found)
            state, m = _random(state, found)
            if _center(points, i, close[j], close[k], close[m], center):
                used = _cast(bins, voted, used, positions, center, low)
    return _fullest(bins, voted[:used], low)


@jit()
def _random(state: int, n: int) -> tuple[int, int]:
    """Return the next state of a 31-bit linear congruential generator, and a number below n from its upper bits."""
    state = (state * 1103515245 + 12345) & 0x7FFFFFFF
    return state, (state >> 8) % n


@jit()
def _center(points: np.ndarray, i: int, j: int, k: int, m: int, out: np.ndarray) -> bool:
    """Write the centre of the sphere through four points to ``out``; return False where they are too flat."""
    a = points[j] - points[i]
    b = points[k] - points[i]
    c = points[m] - points[i]
    bc = np.array((b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]))
    ca = np.array((c[1] * a[2] - c[2] * a[1], c[2] * a[0] - c[0] * a[2], c[0] * a[1] - c[1] * a[0]))
    ab = np.array((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))
    aa, bb, cc = np.sum(a * a), np.sum(b * b), np.sum(c * c)
    volume = np.sum(a * bc)
    if not volume * volume > _FLATTEST * aa * bb * cc:
        return False
    offset = (aa * bc + bb * ca + cc * ab) / (2.0 * volume)
    if np.sum(offset * offset) > _LARGEST_RADIUS * _LARGEST_RADIUS:
        return False
    out[:] = points[i] + offset
    return True


@jit()
def _cast(
    bins: np.ndarray, voted: np.ndarray, used: int, positions: np.ndarray, center: np.ndarray, low: np.ndarray
) -> int:
    """Cast a vote for every atom that may be at the centre; return how many bins have votes."""
    for atom in range(len(positions)):
        x = int(np.floor((positions[atom, 0] - center[0] - low[0]) / _BIN))
        y = int(np.floor((positions[atom, 1] - center[1] - low[1]) / _BIN))
        z = int(np.floor((positions[atom, 2] - center[2] - low[2]) / _BIN))
        if 0 <= x < _BINS and 0 <= y < _BINS and 0 <= z < _BINS:
            if bins[x, y, z] == 0 and used < len(voted):
                voted[used, 0], voted[used, 1], voted[used, 2] = x, y, z
                used += 1
            bins[x, y, z] += 1
    return used


@jit()
def _nearest(points: np.ndarray, i: int, close: np.ndarray, squared: np.ndarray) -> int:
    """Write the nearest points of point i, unsorted, to ``close``; return their number."""
    found = 0
    worst = 0
    for j in range(len(points)):
        if j == i:
            continue
        x, y, z = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        distance = x * x + y * y + z * z
        if found < len(close):
            close[found], squared[found] = j, distance
            found += 1
            if found == len(close):
                worst = int(np.argmax(squared))
        elif distance < squared[worst]:
            close[worst], squared[worst] = j, distance
            worst = int(np.argmax(squared))
    return found


@jit()
def _fullest(bins: np.ndarray, voted: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the means of the blocks of 3 x 3 x 3 bins with most votes."""
    votes, means = np.zeros(len(voted), dtype=np.int64), np.zeros((len(voted), 3))
    for one in range(len(voted)):
        first, last = np.maximum(voted[one] - 1, 0), np.minimum(voted[one] + 2, _BINS)
        for x in range(first[0], last[0]):
            for y in range(first[1], last[1]):
                for z in range(first[2], last[2]):
                    count = bins[x, y, z]
                    votes[one] += count
                    means[one, 0] += count * x
                    means[one, 1] += count * y
                    means[one, 2] += count * z
    out = np.empty((_CANDIDATES, 3))
    for candidate in range(_CANDIDATES):
        best = int(np.argmax(votes)) if len(voted) else 0
        if len(voted) == 0 or votes[best] < 3:
            return out[:candidate]
        out[candidate] = low + _BIN * (means[best] / votes[best] + 0.5)
        for one in range(len(voted)):
            if np.max(np.abs(voted[one] - voted[best])) <= 2 and one != best:
                votes[one] = 0
        votes[best] = 0
    return out

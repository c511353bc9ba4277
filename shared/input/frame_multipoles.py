"""Fit of the shift of grid points to their ESP, by multipoles at the atoms and the density's penetration.

A shift changes the potential of every charge by a dipole, so that free dipoles at the atoms would hide it. The
moments therefore have normal prior distributions as wide as those of molecules, and the shift is the mode of the
distribution after they are integrated out (variable projection with a prior). The widths, the decays and the noise
were fitted to the shifts of RHF/6-31G* potentials on Merz-Kollman, cube and isodensity points round CO2, small organic
molecules and ions, so that the standard error is that of molecules the fit has not seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.input.small_matrices import cholesky, solve, times
from shared.jit import jit
from shared.units import BOHR_IN_ANGSTROM

MOST_POINTS = 300
"""Most points that are fitted; neighbouring points are redundant, so that more would only seem to help."""

PRIOR_SPREAD = 0.5
"""Prior standard deviation, Å, of each component of the shift about the first guess."""

_POWER, _DECAY, _SLATER = 0, 1, 2
_ORDER = np.array([0, 1, 2, 0, 0, 0, 1])
"""Order of the spherical harmonics of each channel of an atom: multipoles, then those that decay with the density."""
_RADIAL = np.array([_POWER, _POWER, _POWER, _SLATER, _DECAY, _DECAY, _DECAY])
_STEEPNESS = np.array([0.0, 0.0, 0.0, 0.0, 0.69, 0.48, 1.3])
"""Decay of each channel over the density's."""
_WIDTH = np.array(
    [
        [0.01, 0.0099, 0.0, 19.0, 0.93, 0.72, 0.12],
        [0.59, 0.019, 1.2, 5.1, 76.0, 2.7, 2.3],
        [1.1, 0.028, 0.23, 8.5, 11.0, 2.3, 1.2],
    ]
)
"""Prior standard deviations in atomic units, of the first, the second and later periods; 0 = without this channel."""
_CONTRACTION = np.array([0.81, 0.46, 0.89])
"""Decay of the density over that of Slater's orbitals."""
_SHARE = np.array([0.73, 0.2, 0.75])
"""Mean of the penetration over that of the free atom's valence electrons."""
_NOISE = 4.2e-06
"""Noise of the ESP, Hartree/e."""
_NOISE_INSIDE = 0.0055
"""Share of the penetration that the model misses."""
_REDUNDANCY = 5.4
"""Redundancy of the points: of MOST_POINTS, one in so many is independent."""
_ROOT3 = 3.0**0.5
_SHORTEST = 0.5
"""Shortest distance, Bohr."""
_FLOOR = (0.006, 0.05)
"""Least standard error, Å, of each component of the shift, and of that along the axis of two atoms, whose own dipoles
cannot be distinguished from those that a shift makes."""
_LONGEST_STEP = 0.2
"""Longest step, Å."""
_ITERATIONS = 12
_CONVERGED = 2e-4
"""Length, Å, of the last step."""


class MultipoleFit(NamedTuple):
    """The normal distribution of the shift, and the fit of the ESP at its mean."""

    shift: np.ndarray  # (3,) Å
    covariance: np.ndarray  # (3, 3) Å²
    residual: float  # root-mean-square misfit over that of the ESP
    converged: bool


class Atoms(NamedTuple):
    """Properties of the atoms for the fit."""

    positions: np.ndarray  # (N, 3) Å
    kinds: np.ndarray  # (N,) 0 hydrogen and helium, 1 second period, 2 others
    decays: np.ndarray  # (N,) 1/Bohr, of the density
    shells: np.ndarray  # (N,) principal quantum number of the valence shell, at most 3
    electrons: np.ndarray  # (N,) valence electrons times _SHARE


def atoms_of(numbers: np.ndarray, positions: np.ndarray) -> Atoms:
    """Return the atoms with Slater's valence shells; numbers (N,), positions (N, 3) in Å."""
    kinds = np.digitize(numbers, [3, 11])
    exponents, shells, electrons = (np.array(column) for column in zip(*map(_slater, numbers.tolist()), strict=True))
    return Atoms(
        np.ascontiguousarray(positions, dtype=np.float64),
        kinds,
        2.0 * exponents * _CONTRACTION[kinds],
        shells.astype(np.int64),
        electrons * _SHARE[kinds],
    )


def _slater(number: int) -> tuple[float, int, int]:
    """Return exponent (1/Bohr), principal quantum number (at most 3) and electrons of Slater's valence shell."""
    per_shell, left = [0] * 8, number
    # Subshells are filled in the order of n + l, and of n where that is equal (Madelung).
    subshells = [(shell, angular) for shell in range(1, 8) for angular in range(min(shell, 4))]
    for shell, angular in sorted(subshells, key=lambda both: (sum(both), both[0])):
        electrons = min(4 * angular + 2, left)
        per_shell[shell], left = per_shell[shell] + electrons, left - electrons
    top = max(shell for shell in range(8) if per_shell[shell])
    screening = (0.3 if top == 1 else 0.35) * (per_shell[top] - 1) + 0.85 * per_shell[top - 1]
    screening += sum(per_shell[: top - 1])
    # Hydrogen's density is denser in molecules.
    exponent = 1.2 if number == 1 else (number - screening) / top
    return max(exponent, 0.5), min(top, 3), per_shell[top]


def fit_multipoles(
    numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, esp: np.ndarray, guess: np.ndarray
) -> MultipoleFit:
    """Fit the shift to the ESP.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Å.
        points: (G, 3) in Å, float64.
        esp: (G,) in Hartree/e, float64.
        guess: (3,) Å, where the shift is sought.
    """
    atoms, some = atoms_of(numbers, positions), thinned(len(points), MOST_POINTS)
    points, esp = points[some], esp[some]
    shift, converged = guess.astype(np.float64), False
    for _ in range(_ITERATIONS):
        step, covariance, residual = _iterate(*atoms, points, esp, shift, guess)
        length = float(np.linalg.norm(step))
        shift = shift + step * min(1.0, _LONGEST_STEP / max(length, 1e-12))
        if length < _CONVERGED:
            converged = True
            break
    return MultipoleFit(shift, covariance + _FLOOR[len(numbers) == 2] ** 2 * np.eye(3), residual, converged)


def residual_at(
    numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, esp: np.ndarray, shift: np.ndarray
) -> float:
    """Return the root-mean-square misfit over that of the ESP at this shift; other arguments as fit_multipoles."""
    some = thinned(len(points), MOST_POINTS)
    return float(_iterate(*atoms_of(numbers, positions), points[some], esp[some], shift, shift)[2])


def thinned(n: int, most: int) -> np.ndarray:
    """Return indices of at most ``most`` of n points, which depend on n and ``most`` alone.

    They are drawn at random: points at equal intervals in the order of a cube may all be in one plane.
    """
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


@jit()
def _iterate(
    positions: np.ndarray,
    kinds: np.ndarray,
    decays: np.ndarray,
    shells: np.ndarray,
    electrons: np.ndarray,
    points: np.ndarray,
    esp: np.ndarray,
    shift: np.ndarray,
    guess: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return one Gauss-Newton step of the shift, its covariance and the relative residual."""
    columns, target, noise = _design(positions, kinds, decays, shells, electrons, points, esp, shift)
    # The inverse of 1 + columns columns^T from the smaller one of the two products.
    few = columns.shape[1] < len(points)
    transposed = np.ascontiguousarray(columns.T)
    factor = cholesky(transposed if few else columns)
    if few:
        moments = solve(factor, times(transposed, target))
        misfit = target - times(columns, moments)
    else:
        misfit = solve(factor, target)
        moments = times(transposed, misfit)
    slopes = _slopes(positions, kinds, decays, shells, electrons, points, shift, moments)
    slopes /= noise.reshape(-1, 1)
    hessian, gradient = np.empty((3, 3)), np.empty(3)
    for axis in range(3):
        slope = np.ascontiguousarray(slopes[:, axis])
        gradient[axis] = np.sum(slope * misfit)
        slope = slope - times(columns, solve(factor, times(transposed, slope))) if few else solve(factor, slope)
        for other in range(3):
            hessian[axis, other] = np.sum(slope * slopes[:, other])
    # The width of the normal distribution is not known; the points count with their redundancy.
    scale = _REDUNDANCY * np.sum(target * misfit) / len(points)
    hessian /= scale
    gradient /= scale
    for axis in range(3):
        hessian[axis, axis] += 1.0 / PRIOR_SPREAD**2
        gradient[axis] -= (shift[axis] - guess[axis]) / PRIOR_SPREAD**2
    covariance = np.linalg.inv(hessian)
    power = np.sum(esp * esp)
    residual = np.sqrt(np.sum((misfit * noise) ** 2) / power) if power > 0.0 else 1.0
    return np.sum(covariance * gradient, axis=1), covariance, residual


@jit()
def _radial(radial: int, order: int, steepness: float, d: float, decay: float, shell: int) -> tuple[float, float]:
    """Return a channel's radial factor of the solid harmonic, and its derivative; d in Bohr."""
    if radial == _POWER:
        value = d ** -(2 * order + 1)
        return value, -(2 * order + 1) * value / d
    if radial == _DECAY:
        value = np.exp(-steepness * decay * d) * d ** -(order + 1)
        return value, -(steepness * decay + (order + 1) / d) * value
    # Potential of a nucleus and a Slater density of one electron.
    x = decay * d
    term, total = np.exp(-x), 0.0
    for k in range(2 * shell):
        total += term
        term *= x / (k + 1)
    # total, and total + term: regularised upper incomplete gamma functions of 2n and 2n + 1.
    return (total + term) / d - decay / (2 * shell) * total, -(total + term) / (d * d)


@jit()
def _design(
    positions: np.ndarray,
    kinds: np.ndarray,
    decays: np.ndarray,
    shells: np.ndarray,
    electrons: np.ndarray,
    points: np.ndarray,
    esp: np.ndarray,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return potentials (G, M) of unit moments and the ESP less its mean (G,), over the noise, and the noise (G,)."""
    size = 0
    for a in range(len(positions)):
        for channel in range(len(_ORDER)):
            if _WIDTH[kinds[a], channel] > 0.0:
                size += 2 * _ORDER[channel] + 1
    columns, target, noise = np.empty((len(points), size)), esp.copy(), np.full(len(points), _NOISE)
    for i in range(len(points)):
        k = 0
        for a in range(len(positions)):
            x = (points[i, 0] + shift[0] - positions[a, 0]) / BOHR_IN_ANGSTROM
            y = (points[i, 1] + shift[1] - positions[a, 1]) / BOHR_IN_ANGSTROM
            z = (points[i, 2] + shift[2] - positions[a, 2]) / BOHR_IN_ANGSTROM
            d = max(np.sqrt(x * x + y * y + z * z), _SHORTEST)
            for channel in range(len(_ORDER)):
                width = _WIDTH[kinds[a], channel]
                if width > 0.0:
                    order = _ORDER[channel]
                    value, _ = _radial(_RADIAL[channel], order, _STEEPNESS[channel], d, decays[a], shells[a])
                    if _RADIAL[channel] == _SLATER:
                        target[i] -= electrons[a] * value
                        noise[i] += _NOISE_INSIDE * electrons[a] * value
                    value *= width
                    if order == 0:
                        columns[i, k] = value
                    elif order == 1:
                        columns[i, k], columns[i, k + 1], columns[i, k + 2] = value * x, value * y, value * z
                    else:
                        columns[i, k], columns[i, k + 1] = value * _ROOT3 * x * y, value * _ROOT3 * x * z
                        columns[i, k + 2] = value * _ROOT3 * y * z
                        columns[i, k + 3] = value * _ROOT3 * (x * x - y * y) / 2.0
                        columns[i, k + 4] = value * (2.0 * z * z - x * x - y * y) / 2.0
                    k += 2 * order + 1
        for k in range(size):
            columns[i, k] /= noise[i]
        target[i] /= noise[i]
    return columns, target, noise


@jit()
def _slopes(
    positions: np.ndarray,
    kinds: np.ndarray,
    decays: np.ndarray,
    shells: np.ndarray,
    electrons: np.ndarray,
    points: np.ndarray,
    shift: np.ndarray,
    moments: np.ndarray,
) -> np.ndarray:
    """Return the gradient (G, 3) of the fitted potential in Hartree/e/Å; ``moments`` (M,) in units of their widths."""
    slopes = np.zeros((len(points), 3))
    for i in range(len(points)):
        k = 0
        for a in range(len(positions)):
            x = (points[i, 0] + shift[0] - positions[a, 0]) / BOHR_IN_ANGSTROM
            y = (points[i, 1] + shift[1] - positions[a, 1]) / BOHR_IN_ANGSTROM
            z = (points[i, 2] + shift[2] - positions[a, 2]) / BOHR_IN_ANGSTROM
            d = max(np.sqrt(x * x + y * y + z * z), _SHORTEST)
            for channel in range(len(_ORDER)):
                width = _WIDTH[kinds[a], channel]
                if width > 0.0:
                    order = _ORDER[channel]
                    value, change = _radial(_RADIAL[channel], order, _STEEPNESS[channel], d, decays[a], shells[a])
                    m = moments[k : k + 2 * order + 1] * width
                    if order == 0:
                        moment = m[0] + (electrons[a] if _RADIAL[channel] == _SLATER else 0.0)
                        harmonic, along_x, along_y, along_z = moment, 0.0, 0.0, 0.0
                    elif order == 1:
                        harmonic, along_x, along_y, along_z = m[0] * x + m[1] * y + m[2] * z, m[0], m[1], m[2]
                    else:
                        along_x = _ROOT3 * (m[0] * y + m[1] * z + m[3] * x) - m[4] * x
                        along_y = _ROOT3 * (m[0] * x + m[2] * z - m[3] * y) - m[4] * y
                        along_z = _ROOT3 * (m[1] * x + m[2] * y) + 2.0 * m[4] * z
                        harmonic = (along_x * x + along_y * y + along_z * z) / 2.0
                    radial = change * harmonic / d
                    slopes[i, 0] += radial * x + value * along_x
                    slopes[i, 1] += radial * y + value * along_y
                    slopes[i, 2] += radial * z + value * along_z
                    k += 2 * order + 1
    return slopes / BOHR_IN_ANGSTROM

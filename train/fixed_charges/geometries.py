"""Geometries of a molecule at a temperature, and the points around them."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from tqdm import tqdm

from shared.errors import UserError
from shared.geometry import distances_and_bonds, overlap
from shared.normal_modes import normal_modes, thermal_spread
from train.fixed_charges.orbit_fit import Target

_DRAWS = 100

_STEP_FS = 0.5
_FRICTION_PER_FS = 0.01
_FIRST_PS = 0.5
"""Of a trajectory, five times the time in which its friction forgets where it began."""

_FITTED_VALUES = 8_000
"""Values of the ESP that charges are fitted to, of all geometries together."""


def thermal_geometries(
    relaxed: ase.Atoms, hessian: np.ndarray, samples: int, temperature: float, statistics: str, seed: int
) -> np.ndarray:
    """Draw geometries (samples, N, 3) in Å of harmonic oscillators; modes below 50/cm stay at rest.

    Args:
        relaxed: molecule of N atoms at a minimum.
        hessian: (3 N, 3 N) eV/Å² there.
        samples: number of geometries.
        temperature: K.
        statistics: ``quantum`` or ``classical``.
        seed: of the random numbers.

    Raises:
        UserError: a geometry has overlapping atoms in every draw.
    """
    modes = normal_modes(relaxed.positions, relaxed.get_masses(), hessian)
    spread = thermal_spread(modes.quanta, temperature, statistics)
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for _ in range(_DRAWS * samples):
        amplitudes = spread * random.normal(size=len(spread))
        drawn = relaxed.positions + np.einsum("m,mac->ac", amplitudes, modes.displacements)
        if not overlap(relaxed.numbers, drawn):
            found.append(drawn)
        if len(found) == samples:
            return np.stack(found)
    raise UserError(f"--temperature {temperature:g}: atoms overlap in nearly all geometries; lower it")


def thermal_trajectory(
    relaxed: ase.Atoms, picoseconds: float, samples: int, temperature: float, seed: int
) -> np.ndarray:
    """Return geometries (samples, N, 3) in Å of Langevin's dynamics, equal times apart, in random order.

    Args:
        relaxed: molecule of N atoms with its calculator.
        picoseconds: length of the trajectory, after half a picosecond that is left out.
        samples: number of geometries.
        temperature: K.
        seed: of the random numbers.

    Raises:
        UserError: fewer steps than geometries, or the molecule falls apart or together.
    """
    steps, first = round(1000.0 * picoseconds / _STEP_FS), round(1000.0 * _FIRST_PS / _STEP_FS)
    if steps < samples:
        raise UserError(f"--md-ps {picoseconds:g}: {steps} steps of {_STEP_FS:g} fs are fewer than --samples {samples}")
    moving = relaxed.copy()
    moving.calc = relaxed.calc
    random = np.random.default_rng(seed)
    thermalize_momenta(moving, temperature_K=temperature, rng=random)
    dynamics = Langevin(
        moving,
        _STEP_FS * units.fs,
        temperature_K=temperature,
        friction=_FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=random,
    )
    found = []
    with tqdm(total=first + steps, desc="dynamics", unit="step", leave=False, disable=None) as bar:
        for stop in [first, *(first + (np.arange(1, samples + 1) * steps) // samples).tolist()]:
            forward = stop - dynamics.get_number_of_steps()
            try:
                dynamics.run(forward)
            except UserError as error:
                raise UserError(f"--md-ps: {error}; lower --temperature {temperature:g}") from error
            bar.update(forward)
            found.append(moving.positions.copy())
            _require_whole(relaxed, moving, temperature)
    # The last of a trajectory, which are held out, would be of one place.
    return random.permutation(np.stack(found[1:]))


def _require_whole(relaxed: ase.Atoms, moving: ase.Atoms, temperature: float) -> None:
    before, now = (distances_and_bonds(one.numbers, one.positions)[1] for one in (relaxed, moving))
    if overlap(moving.numbers, moving.positions) or (before & ~now).any():
        raise UserError(f"--md-ps: at --temperature {temperature:g} the molecule falls apart or together; lower it")


def equal_points(
    geometries: np.ndarray, points: Sequence[np.ndarray], esp: Sequence[np.ndarray], at_once: int, seed: int
) -> Target:
    """Return equally many points of each geometry, drawn at random, for a fit that takes ``at_once`` geometries."""
    fewest = min(map(len, points))
    size = min(fewest, max(_FITTED_VALUES // at_once, 60))
    random = np.random.default_rng(seed)
    chosen = [np.sort(random.choice(len(one), size, replace=False)) for one in points]
    return Target(
        geometries,
        np.stack([one[rows] for one, rows in zip(points, chosen, strict=True)]),
        np.stack([one[rows] for one, rows in zip(esp, chosen, strict=True)]),
    )

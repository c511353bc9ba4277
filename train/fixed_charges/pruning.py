"""From many charges to few: one orbit at a time is left out or moved to a plane, an axis or nucleus; all are refitted.

Method of distributing few charges: O. T. Unke et al., J. Chem. Phys. 2017, 147, 161712.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np

from shared.errors import UserError
from train.fixed_charges.charge_model import Frame, frame_axes
from train.fixed_charges.orbit_fit import Gram, Target, farthest, fit_charges, fit_orbits
from train.fixed_charges.site_orbits import Freedom, SiteOrbit, site_orbit
from train.fixed_charges.symmetry import Symmetry, choose_frame

_ZERO = 0.01
"""Å: a mean coordinate that is smaller is taken for zero by symmetry."""

_OFFSET = 0.3
"""Å from the nucleus where charges begin that the network does not place."""

_TRIED = 2
"""Changes that are refitted, of those that cost least with all positions kept."""

_STEPS = 10
"""Evaluations of a refit while charges are left out."""

_NEAR_BEST = 1.1
"""Errors up to this factor above the least are as good, and fewer charges better."""


class Stage(NamedTuple):
    """A fit with some number of charges."""

    orbits: tuple[SiteOrbit, ...]
    rmse: float  # kcal/mol/e, of the geometries of the fit
    held_out_rmse: float  # kcal/mol/e

    @property
    def charges(self) -> int:
        """Return the number of charges."""
        return count(self.orbits)


def count(orbits: Sequence[SiteOrbit]) -> int:
    """Return the number of charges of some orbits."""
    return sum(len(orbit.images) for orbit in orbits)


def first_orbits(
    symmetry: Symmetry, geometries: np.ndarray, charges: np.ndarray, sites: np.ndarray
) -> tuple[SiteOrbit, ...]:
    """Return the orbits to begin with: the network's charges, averaged in local frames, and more of each kind.

    Args:
        symmetry: of the molecule of N atoms.
        geometries: (S, N, 3) Å.
        charges: (S, N, n) in e, of the network.
        sites: (S, N, n, 3) Å, of the network.
    """
    found = []
    for atoms in symmetry.classes:
        frame = choose_frame(symmetry, atoms[0], geometries)
        found += _of_network(symmetry, frame, geometries, charges, sites)
        found.append(site_orbit(symmetry, frame, 0, 0.0, np.zeros(3)))
        if len(frame) > 1:
            found += [site_orbit(symmetry, frame, 1, 0.0, np.array([x, 0.0, 0.0])) for x in (_OFFSET, -_OFFSET)]
        if len(frame) > 2 and symmetry.atomic_numbers[atoms[0]] > 1:
            found.append(site_orbit(symmetry, frame, 3, 0.0, np.array([-0.5, 0.0, 1.0]) * _OFFSET))
    return tuple(found)


def _of_network(
    symmetry: Symmetry, frame: Frame, geometries: np.ndarray, charges: np.ndarray, sites: np.ndarray
) -> list[SiteOrbit]:
    images = symmetry.signed_frames(frame)
    local, values = np.zeros((len(images), charges.shape[-1], 3)), np.zeros((len(images), charges.shape[-1]))
    for row, (image, sign) in enumerate(images):
        atom = image[0]
        axes = frame_axes(geometries, image) * np.array([1, 1, sign])[:, None]
        offsets = sites[:, atom] - geometries[:, None, atom]
        local[row] = np.einsum("snx,six->sni", offsets, axes).mean(axis=0)
        values[row] = charges[:, atom].mean(axis=0)
    found = []
    for place, value in zip(local.mean(axis=0), values.mean(axis=0).tolist(), strict=True):
        used = np.flatnonzero(np.abs(place) > _ZERO)
        freedom = cast(Freedom, min(int(used.max()) + 1 if len(used) else 0, len(frame) - (len(frame) < 3)))
        orbit = site_orbit(symmetry, frame, freedom, 0.0, place)
        # An atom's charge is shared by all images at it.
        shared = value / sum(image[0] == orbit.atom for image, _ in orbit.images)
        found.append(site_orbit(symmetry, frame, freedom, shared, place))
    return found


def prune(
    start: Sequence[SiteOrbit],
    symmetry: Symmetry,
    fitted: Target,
    held_out: Target,
    total_charge: int,
    done: Callable[[int], object] = lambda _: None,
) -> list[Stage]:
    """Return fits with ever fewer charges, until there are no more of them than atoms, or one orbit is left.

    Args:
        start: where the first fit begins.
        symmetry: of the molecule.
        fitted: the ESP of the fit.
        held_out: the ESP that only measures.
        total_charge: e.
        done: called with the number of charges of each stage.
    """
    numbers = symmetry.atomic_numbers

    def refitted(orbits: Sequence[SiteOrbit], steps: int) -> Stage:
        found = fit_orbits(orbits, fitted, numbers, total_charge, steps)
        return Stage(found.orbits, found.rmse, rmse_of(found.orbits, held_out))

    stages = [refitted(_with_room(start, numbers), 2 * _STEPS)]
    done(stages[-1].charges)
    while len(stages[-1].orbits) > 1 and stages[-1].charges > len(numbers):
        smaller = _smaller(stages[-1].orbits, symmetry, fitted, total_charge)
        tried = [refitted(orbits, _STEPS) for orbits in smaller[:_TRIED]]
        before = stages[-1]
        stages.append(min(tried, key=lambda one: _price(one.rmse, before.rmse, before.charges - one.charges)))
        done(stages[-1].charges)
    return stages


def choose_stage(stages: Sequence[Stage], max_charges: int | None, budget: float | None) -> Stage:
    """Return the stage that is wanted.

    Args:
        stages: of :func:`prune`.
        max_charges: most charges, if limited.
        budget: largest error on the held-out geometries, kcal/mol/e; None: 1.1 times the least of the stages.

    Raises:
        UserError: none has so few charges, or so small an error.
    """
    few = [stage for stage in stages if max_charges is None or stage.charges <= max_charges]
    if not few:
        least = min(stage.charges for stage in stages)
        raise UserError(f"--max-charges {max_charges}: at least {least} are needed, equal on equivalent atoms")
    best = min(stage.held_out_rmse for stage in few)
    limit = _NEAR_BEST * best if budget is None else budget
    good = [stage for stage in few if stage.held_out_rmse <= limit]
    if not good:
        raise UserError(
            f"--esp-budget {budget:g}: the least error on held-out geometries is {best:.3g} kcal/mol/e, with "
            f"{min(few, key=lambda stage: stage.held_out_rmse).charges} charges; raise it"
        )
    return min(good, key=lambda stage: (stage.charges, stage.held_out_rmse))


def rmse_of(orbits: Sequence[SiteOrbit], target: Target) -> float:
    """Return the root mean square error of orbits in kcal/mol/e."""
    gram = Gram.of(orbits, target)
    charges = np.array([orbit.charge for orbit in orbits])
    square = charges @ gram.matrix @ charges - 2.0 * gram.vector @ charges + gram.square
    return float(np.sqrt(max(square, 0.0)))


def fit_nuclear_charges(symmetry: Symmetry, fitted: Target, total_charge: int) -> tuple[SiteOrbit, ...]:
    """Return charges at the nuclei, equal on equivalent atoms, fitted to the ESP."""
    orbits = [site_orbit(symmetry, (atoms[0],), 0, 0.0, np.zeros(3)) for atoms in symmetry.classes]
    return fit_charges(orbits, fitted, total_charge).orbits


def _with_room(orbits: Sequence[SiteOrbit], numbers: np.ndarray) -> list[SiteOrbit]:
    """Return orbits without any that lies where another does: within _ZERO of it, in the same frames."""
    kept: list[SiteOrbit] = []
    for orbit in orbits:
        reach = 0.9 * farthest(orbit, numbers)
        orbit = replace(orbit, local=np.clip(orbit.local, -reach, reach))
        same = (other for other in kept if other.images == orbit.images)
        if not any(np.linalg.norm(other.local - orbit.local) < _ZERO for other in same):
            kept.append(orbit)
    return kept


def _smaller(
    orbits: tuple[SiteOrbit, ...], symmetry: Symmetry, fitted: Target, total_charge: int
) -> list[tuple[SiteOrbit, ...]]:
    """Return the orbits with one left out or on fewer images, those first that cost least for each charge less."""
    moved: list[tuple[int, SiteOrbit]] = []
    for place, orbit in enumerate(orbits):
        (frame, sign), *_ = orbit.images
        for freedom in range(orbit.freedom):
            other = site_orbit(symmetry, frame, cast(Freedom, freedom), orbit.charge, orbit.local * [1, 1, sign])
            taken = any(other.images == one.images and (other.local == one.local).all() for one in orbits)
            if len(other.images) < len(orbit.images) and not taken:
                moved.append((place, other))
    gram = Gram.of([*orbits, *(other for _, other in moved)], fitted)
    everything = range(len(orbits))
    before = gram.solve(everything, total_charge)[1]
    choices: list[tuple[list[int], int, SiteOrbit | None]]
    choices = [([one for one in everything if one != place], place, None) for place in everything]
    choices += [
        ([*(one for one in everything if one != place), len(orbits) + row], place, other)
        for row, (place, other) in enumerate(moved)
    ]
    priced: list[tuple[float, int, tuple[SiteOrbit, ...]]] = []
    for chosen, place, replacement in choices:
        fewer = len(orbits[place].images) - (len(replacement.images) if replacement else 0)
        left = [orbits[one] for one in everything if one != place]
        mean_square = gram.solve(chosen, total_charge)[1]
        price = _price(np.sqrt(mean_square), np.sqrt(before), fewer)
        priced.append((price, len(priced), tuple([*left, replacement] if replacement else left)))
    return [kept for _, _, kept in sorted(priced, key=lambda one: one[:2])]


def _price(after: float, before: float, fewer: int) -> float:
    return (after - before) / fewer

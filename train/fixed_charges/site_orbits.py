"""Charges of equivalent atoms: one value and one local position for all images of a site."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np

from train.fixed_charges.charge_model import ChargeModel, Frame
from train.fixed_charges.symmetry import SignedFrame, Symmetry

DECIMALS = 6
"""Decimals of the charges that are written; their sum is the total charge to the last digit."""

Freedom = Literal[0, 1, 2, 3]
"""Local coordinates of a site that are not zero: none (the nucleus), x (an axis), x and y (a plane), all three."""


@dataclass(frozen=True)
class SiteOrbit:
    """Equal charges at the images of one site."""

    images: tuple[SignedFrame, ...]  # frames of as many atoms as the freedom needs
    freedom: Freedom
    charge: float  # e, of each
    local: np.ndarray  # (3,) Å, of an image with the sign 1

    @property
    def atom(self) -> int:
        """Return the atom of the first image."""
        return self.images[0][0][0]


def site_orbit(symmetry: Symmetry, frame: Frame, freedom: Freedom, charge: float, local: np.ndarray) -> SiteOrbit:
    """Return the images of a site.

    Args:
        symmetry: of the molecule.
        frame: of the site; atoms beyond those that the freedom needs are left out.
        freedom: at most that of the frame: 0 of one atom, 1 of two.
        charge: e.
        local: (3,) Å; coordinates that are not free are set to zero.
    """
    frame = frame[: min(freedom + 1, 3)]
    signed = symmetry.signed_frames(frame) if freedom == 3 else [(image, 1) for image in symmetry.frames(frame)]
    return SiteOrbit(tuple(signed), freedom, charge, np.where(np.arange(3) < freedom, local, 0.0))


def as_model(symmetry: Symmetry, orbits: Sequence[SiteOrbit], total_charge: int) -> ChargeModel:
    """Return the charges of all images; charges and local positions have six decimals."""
    orbits = sorted(orbits, key=lambda orbit: (orbit.atom, orbit.freedom))
    charges = rounded_charges(
        np.array([orbit.charge for orbit in orbits]), [len(orbit.images) for orbit in orbits], total_charge
    )
    local = [orbit.local * [1.0, 1.0, sign] for orbit in orbits for _, sign in orbit.images]
    return ChargeModel(
        atomic_numbers=symmetry.atomic_numbers,
        positions=symmetry.positions,
        bonds=symmetry.bonds,
        total_charge=total_charge,
        charges=charges,
        frames=tuple(frame for orbit in orbits for frame, _ in orbit.images),
        local=np.array(local).reshape(-1, 3).round(DECIMALS) + 0.0,
    )


def rounded_charges(charges: np.ndarray, counts: Sequence[int], total_charge: int) -> np.ndarray:
    """Return charges (Σ counts,) of six decimals, equal within an orbit, whose decimal sum is the total charge.

    The fewest units of the last decimal are moved. Where no equal charges have the sum (an ion all of whose orbits
    are divisible by three), single charges of the largest orbit differ by one unit.

    Args:
        charges: (orbits,) in e; with their counts they sum nearly to the total charge.
        counts: charges in each orbit.
        total_charge: e.
    """
    units = np.rint(charges * 10**DECIMALS).astype(np.int64)
    rest = total_charge * 10**DECIMALS - int(units @ np.array(counts, np.int64))
    by_size = np.argsort(-np.abs(units), kind="stable").tolist()
    # What equal charges cannot share is less than the greatest common divisor of the counts.
    shared = rest - rest % int(np.gcd.reduce(counts))
    units += _fewest_steps(shared, [counts[orbit] for orbit in by_size])[np.argsort(by_size)]
    single = np.repeat(units, counts)
    largest = int(np.cumsum([0, *counts])[by_size[0]])
    single[largest : largest + rest - shared] += 1
    return np.array([float(Decimal(int(value)).scaleb(-DECIMALS)) for value in single])


def _fewest_steps(total: int, counts: Sequence[int]) -> np.ndarray:
    """Return the integers n (orbits,) of the least Σ |n| with Σ n · counts = total, the first orbits preferred."""
    reach = abs(total) + max(counts)
    came: dict[int, tuple[int, int]] = {0: (-1, 0)}  # sum: orbit and direction of the last step
    waiting = deque([0])
    while total not in came:
        here = waiting.popleft()
        for orbit, count in enumerate(counts):
            for step in (1, -1):
                there = here + step * count
                if there not in came and abs(there) <= reach:
                    came[there] = (orbit, step)
                    waiting.append(there)
    steps = np.zeros(len(counts), np.int64)
    while total:
        orbit, step = came[total]
        steps[orbit] += step
        total -= step * counts[orbit]
    return steps

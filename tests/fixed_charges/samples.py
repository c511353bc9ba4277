"""Molecules of ASE, geometries and points around them, and charge models to be found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ase.build import molecule

from train.fixed_charges.charge_model import ChargeModel, Kernel, pair_distances
from train.fixed_charges.kernels import Surroundings
from train.fixed_charges.orbit_fit import Target, potential
from train.fixed_charges.pruning import count
from train.fixed_charges.site_orbits import SiteOrbit, site_orbit
from train.fixed_charges.symmetry import Symmetry, choose_frame, symmetry_of

COULOMB = 332.0637  # kcal/mol·Å/e², CODATA 2018


def symmetry(name: str) -> Symmetry:
    atoms = molecule(name)
    return symmetry_of(atoms.numbers, atoms.positions)


def shaken(of: Symmetry, count: int, seed: int = 0, size: float = 0.05) -> np.ndarray:
    random = np.random.default_rng(seed)
    return of.positions + size * random.normal(size=(count, *of.positions.shape))


def points_around(geometries: np.ndarray, count: int = 60) -> np.ndarray:
    """Random directions, 3 to 4 Å beyond the atoms' mean."""
    random = np.random.default_rng(9)
    arms = random.normal(size=(len(geometries), count, 3))
    radii = random.uniform(3.0, 4.5, size=(len(geometries), count, 1))
    return geometries.mean(axis=1)[:, None] + radii * arms / np.linalg.norm(arms, axis=-1, keepdims=True)


def target_of(model: ChargeModel, geometries: np.ndarray) -> Target:
    points = points_around(geometries)
    return Target(geometries, points, potential(model.charges, model.sites(geometries), points))


def all_kinds(of: Symmetry, total_charge: int = 0) -> list[SiteOrbit]:
    """A site of each freedom at every class of atoms, with charges of no symmetry."""
    random = np.random.default_rng(4)
    found = []
    for atoms in of.classes:
        frame = choose_frame(of, atoms[0], of.positions[None])
        for freedom in range(4 if len(frame) > 2 else len(frame)):
            local = random.uniform(-0.4, 0.4, 3)
            found.append(site_orbit(of, frame, freedom, random.normal(), local))  # type: ignore[arg-type]
    total = sum(orbit.charge * len(orbit.images) for orbit in found) - total_charge
    return [replace(orbit, charge=orbit.charge - total / count(found)) for orbit in found]


def with_a_kernel(model: ChargeModel, seed: int = 1) -> ChargeModel:
    random = np.random.default_rng(seed)
    known = pair_distances(model.positions + 0.05 * random.normal(size=(5, *model.positions.shape)))
    thirds = tuple(
        next(iter({*range(len(model.positions))} - {*frame}), None) if len(frame) == 2 else None
        for frame in model.frames
    )
    return replace(model, kernel=Kernel(known, 0.3, 0.1 * random.normal(size=(5, len(model.charges), 3)), thirds))


def known_water() -> tuple[Symmetry, list[SiteOrbit]]:
    """A charge at each hydrogen and two beside the oxygen, in the plane."""
    water = symmetry("H2O")
    orbits = [
        site_orbit(water, (1,), 0, 0.4, np.zeros(3)),
        site_orbit(water, (0, 1, 2), 2, -0.4, np.array([0.05, 0.3, 0.0])),
    ]
    return water, orbits


def mean_error(model: ChargeModel, around: Sequence[Surroundings]) -> float:
    errors = [potential(model.charges, model.sites(one.geometry), one.points) - one.esp for one in around]
    return float(np.sqrt(np.mean(np.square(errors))))

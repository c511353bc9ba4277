"""Charges that move with the geometry: derivatives against differences, symmetry, known motions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.fixed_charges.samples import (
    all_kinds,
    known_water,
    mean_error,
    points_around,
    shaken,
    symmetry,
    target_of,
    with_a_kernel,
)
from train.fixed_charges.charge_model import charge_model_from_json, pair_distances
from train.fixed_charges.kernels import Surroundings, fit_kernel, with_whole_frames
from train.fixed_charges.orbit_fit import potential
from train.fixed_charges.site_orbits import as_model, site_orbit


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "H"])
def test_derivatives_of_sites_are_those_of_finite_differences(name: str) -> None:
    found = symmetry(name)
    model = as_model(found, all_kinds(found), 0)
    (geometry,) = shaken(found, 1)
    for one in (model, with_a_kernel(model)) if len(geometry) > 1 else (model,):
        steps = 1e-5 * np.eye(geometry.size).reshape(-1, *geometry.shape)
        expected = (one.sites(geometry + steps) - one.sites(geometry - steps)) / 2e-5
        expected = np.moveaxis(expected.reshape(*geometry.shape, -1, 3), (0, 1), (2, 3))
        np.testing.assert_allclose(one.site_derivatives(geometry), expected, atol=1e-8)
        # A translation moves all sites with it.
        moved = one.site_derivatives(geometry).sum(axis=2)
        np.testing.assert_allclose(moved, np.broadcast_to(np.eye(3), moved.shape), atol=1e-10)


def test_a_model_comes_back_from_json() -> None:
    found = symmetry("CH3OH")
    model = with_a_kernel(as_model(found, all_kinds(found), 0))
    again = charge_model_from_json(model.as_json())
    (geometry,) = shaken(found, 1)
    np.testing.assert_allclose(again.sites(geometry), model.sites(geometry), rtol=0, atol=1e-14)
    assert again.frames == model.frames
    # As it was written before kernels had third atoms.
    record = model.as_json()
    del record["kernel"]["thirds"]
    assert model.kernel
    older = replace(model, kernel=replace(model.kernel, thirds=(None,) * len(model.charges)))
    np.testing.assert_allclose(charge_model_from_json(record).sites(geometry), older.sites(geometry), atol=1e-14)


@pytest.mark.parametrize("name", ["H2O", "CH3OH", "CO2"])
def test_the_esp_turns_with_the_molecule_and_does_not_know_equivalent_atoms_apart(name: str) -> None:
    """Of kernels too, which a fit makes symmetric; a methyl group's turn is among the permutations."""
    found = symmetry(name)
    orbits = all_kinds(found)
    geometries = shaken(found, 6)
    target = target_of(with_a_kernel(as_model(found, orbits, 0)), geometries)
    whole = as_model(found, with_whole_frames(orbits, found, geometries), 0)
    with_kernels = fit_kernel(whole, found, [Surroundings(*one) for one in zip(*target, strict=True)])
    assert with_kernels
    (geometry,) = shaken(found, 1, seed=5)
    points = points_around(geometry[None])[0]
    for model in (as_model(found, orbits, 0), with_kernels):
        expected = potential(model.charges, model.sites(geometry), points)
        turn = Rotation.random(random_state=0).as_matrix()
        turned = potential(model.charges, model.sites(geometry @ turn.T + 3.0), points @ turn.T + 3.0)
        np.testing.assert_allclose(turned, expected, rtol=1e-8)
        motions = [(operation.image, operation.sign) for operation in found.operations if operation.sign]
        if name == "CH3OH":
            motions.append(((0, 1, 4, 3, 5, 2), 1))
        for image, sign in motions:
            mirror = np.array([1, 1, sign])
            exchanged = np.empty_like(geometry)
            exchanged[list(image)] = geometry * mirror
            other = potential(model.charges, model.sites(exchanged), points * mirror)
            np.testing.assert_allclose(other, expected, rtol=1e-6, atol=1e-6)


def test_kernels_follow_sites_that_move_with_the_geometry() -> None:
    """Charges beside the hydrogens, whose distance grows with the bond."""
    water, orbits = known_water()
    model = as_model(water, [orbits[1], site_orbit(water, (1, 0, 2), 2, 0.4, np.array([0.1, 0.1, 0.0]))], 0)
    geometries = shaken(water, 50, size=0.04)
    stretched = pair_distances(geometries)[:, :2] - pair_distances(water.positions)[:2]
    sites = model.sites(geometries)
    hydrogens = [place for place, frame in enumerate(model.frames) if frame[0] > 0]
    for place in hydrogens:
        atom = model.frames[place][0]
        away = geometries[:, atom] - geometries[:, 0]
        sites[:, place] += stretched[:, atom - 1, None] * away
    points = points_around(geometries)
    around = [
        Surroundings(*one) for one in zip(geometries, points, potential(model.charges, sites, points), strict=True)
    ]
    found = fit_kernel(model, water, around[:40])
    assert found
    assert mean_error(found, around[40:]) < 0.2 * mean_error(model, around[40:])


def test_kernels_follow_a_bend_away_from_the_line() -> None:
    """Charges between the atoms of CO2 that stay behind where it bends, on the chord."""
    found = symmetry("CO2")
    orbits = [
        site_orbit(found, (0, 1), 1, 0.4, np.array([0.6, 0.0, 0.0])),
        site_orbit(found, (1,), 0, -0.4, np.zeros(3)),
    ]
    model = as_model(found, orbits, 0)
    geometries = shaken(found, 50, size=0.1)
    sites = model.sites(geometries)
    carbon, *oxygens = geometries.swapaxes(0, 1)
    for place, frame in enumerate(model.frames):
        if len(frame) == 2:
            sites[:, place] += 0.3 * (oxygens[0] + oxygens[1] - 2.0 * carbon)
    points = points_around(geometries)
    esp = potential(model.charges, sites, points)
    around = [Surroundings(*one) for one in zip(geometries, points, esp, strict=True)]
    whole = as_model(found, with_whole_frames(orbits, found, geometries), 0)
    bent = fit_kernel(whole, found, around[:40])
    assert bent
    assert mean_error(bent, around[40:]) < 0.1 * mean_error(model, around[40:])
    # A single geometry, and copies of one that are turned, give no kernel.
    turn = Rotation.random(random_state=0).as_matrix()
    turned = Surroundings(geometries[0] @ turn.T, points[0] @ turn.T, esp[0])
    for same in (around[:1], [around[0], turned]):
        assert fit_kernel(whole, found, same) is None

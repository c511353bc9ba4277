"""Fits of charges: known ones come back, within their bounds, and as few as are wanted."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize

from shared.elements import MASSES
from shared.errors import UserError
from tests.fixed_charges.samples import (
    COULOMB,
    known_water,
    shaken,
    symmetry,
    target_of,
)
from train.fixed_charges.charge_errors import Charges, measure
from train.fixed_charges.fitting import fit_molecule
from train.fixed_charges.orbit_fit import Fitted, fit_orbits, least_squares, potential
from train.fixed_charges.pruning import Stage, choose_stage, count, first_orbits, fit_nuclear_charges, prune, rmse_of
from train.fixed_charges.site_orbits import SiteOrbit, as_model


def test_a_known_model_comes_back_from_its_own_esp() -> None:
    water, orbits = known_water()
    target = target_of(as_model(water, orbits, 0), shaken(water, 8))
    start = [replace(orbit, charge=0.1, local=0.5 * orbit.local) for orbit in orbits]
    found = fit_orbits(start, target, water.atomic_numbers, 0)
    assert found.rmse < 0.02  # the penalties'
    for one, other in zip(found.orbits, orbits, strict=True):
        assert one.charge == pytest.approx(other.charge, abs=5e-3)
        np.testing.assert_allclose(one.local, other.local, atol=0.01)


def test_fits_keep_their_bounds_and_the_charge_of_the_molecule() -> None:
    """Of sites that lie farther away than charges may."""
    water, orbits = known_water()
    far = as_model(water, [orbits[0], replace(orbits[1], local=np.array([0.5, 1.5, 0.0]))], 0)
    target = target_of(replace(far, charges=far.charges + 0.25), shaken(water, 3))
    found = fit_orbits(orbits, target, water.atomic_numbers, 1)
    assert sum(orbit.charge * len(orbit.images) for orbit in found.orbits) == pytest.approx(1.0, abs=1e-9)
    assert np.linalg.norm(found.orbits[1].local) <= 0.5 * 1.5  # half the radius of oxygen


def test_charges_are_left_out_until_the_known_ones_remain() -> None:
    water, orbits = known_water()
    model = as_model(water, orbits, 0)
    geometries = shaken(water, 10)
    target, held_out = (target_of(model, part) for part in (geometries[:8], geometries[8:]))
    # A network with two charges at each atom, which are not the known ones.
    charges = np.tile(np.array([[-0.5, -0.3], [0.3, 0.1], [0.3, 0.1]]), (8, 1, 1))
    offsets = 0.05 * np.random.default_rng(0).normal(size=(1, 3, 2, 3))
    start = first_orbits(water, geometries[:8], charges, geometries[:8, :, None] + offsets)
    stages = prune(start, water, target, held_out, 0)
    counts = [stage.charges for stage in stages]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[0] == count(stages[0].orbits) > 10
    assert min(stage.held_out_rmse for stage in stages if stage.charges <= 6) < 0.05
    assert choose_stage(stages, None, 0.05).charges <= 6
    # Nearly monotone, until charges are missing.
    errors = [stage.rmse for stage in stages]
    assert all(after > 0.5 * before - 0.02 for before, after in itertools.pairwise(errors))
    nuclei = fit_nuclear_charges(water, target, 0)
    assert count(nuclei) == 3
    assert rmse_of(nuclei, held_out) > 5.0 * choose_stage(stages, None, 0.05).held_out_rmse


@pytest.mark.parametrize(("name", "charge", "charges"), [("H", 1, 1), ("C2H2", 0, 4)])
def test_an_atom_and_a_line_of_atoms(name: str, charge: int, charges: int) -> None:
    """Of a network that puts all charge on the nuclei."""
    found = symmetry(name)
    geometries = shaken(found, 8, size=0.02) if len(found.positions) > 1 else np.tile(found.positions, (8, 1, 1))
    values = np.where(found.atomic_numbers == 1, 0.2, -0.2)
    values += (charge - values.sum()) / len(values)
    fitted = fit_molecule(found, geometries, np.tile(values[:, None], (8, 1, 1)), geometries[:, :, None], charge)
    assert len(fitted.model.charges) == charges
    assert fitted.model.charges.sum() == pytest.approx(charge)
    assert max(one.esp_rmse_kcal_per_mol_e for one in fitted.errors) < 0.01


def test_a_budget_that_cannot_be_met_shows_what_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    found = symmetry("H2")
    geometries = shaken(found, 5)
    charges, sites = np.tile([[0.1], [-0.1]], (5, 1, 1)), geometries[:, :, None] + 0.1
    with pytest.raises(UserError, match=r"--esp-budget 1e-09: the least error"):
        fit_molecule(found, geometries, charges, sites, 0, budget=1e-9, kernels=False)
    assert re.search(r"charges +ESP RMSE.*\n +\d+ +\d\.\d{3}", capsys.readouterr().out)


def test_a_longer_fit_that_is_worse_on_held_out_geometries_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(orbits: tuple[SiteOrbit, ...], *_: object) -> Fitted:
        return Fitted(tuple(replace(orbit, charge=1.1 * orbit.charge) for orbit in orbits), 0.0)

    monkeypatch.setattr("train.fixed_charges.fitting.fit_orbits", worse)
    found = symmetry("HCl")
    geometries = shaken(found, 8, size=0.02)
    charges = np.where(found.atomic_numbers == 1, 0.2, -0.2)
    fitted = fit_molecule(found, geometries, np.tile(charges[:, None], (8, 1, 1)), geometries[:, :, None], 0)
    assert max(one.esp_rmse_kcal_per_mol_e for one in fitted.errors) < 0.01


def test_the_wanted_number_of_charges() -> None:
    orbits = known_water()[1]
    stages = [
        Stage(tuple(orbits[:1]) * n, 0.1, error) for n, error in ((6, 0.1), (5, 0.105), (4, 0.2), (3, 0.3), (1, 2.0))
    ]
    assert choose_stage(stages, None, None).charges == 10
    assert choose_stage(stages, 8, None).charges == 8
    assert choose_stage(stages, None, 0.35).charges == 6
    with pytest.raises(UserError, match=r"--max-charges 1: at least 2"):
        choose_stage(stages, 1, None)
    with pytest.raises(UserError, match=r"--esp-budget 0\.05: the least error .* is 0\.1 kcal/mol/e, with 12 charges"):
        choose_stage(stages, None, 0.05)


def test_errors_are_those_of_sums() -> None:
    """Of two charges and their network, written out."""
    numbers, geometries = np.array([9, 1]), np.array([[[0, 0, 0], [0, 0, 0.92]], [[0, 0, 0], [0, 0, 1.0]]], float)
    points = [np.array([[0, 0, 2.6], [0, 1.89, 0]]), np.array([[0, 0, 2.68]])]
    mine = Charges("mine", np.array([-0.4, 0.4]), geometries)
    network = Charges("network", np.array([[-0.5, 0.5], [-0.6, 0.6]]), geometries)
    esp = [potential(one, at, p) for one, at, p in zip(network.values, geometries, points, strict=True)]
    found = measure(mine, network, numbers, geometries, points, esp)
    axial = COULOMB * np.array([0.1 * (1 / 1.68 - 1 / 2.6), 0.2 * (1 / 1.68 - 1 / 2.68)])
    beside = COULOMB * 0.1 * (1 / np.hypot(1.89, 0.92) - 1 / 1.89)
    expected = np.sqrt(np.mean([*axial**2, beside**2]))
    assert found.esp_rmse_kcal_per_mol_e == pytest.approx(expected, rel=1e-5)
    assert found.by_element == pytest.approx({"H": np.sqrt(np.mean(axial**2)), "F": abs(beside)}, rel=1e-5)
    assert found.by_shell == pytest.approx({"1.4": expected}, rel=1e-5)
    dipoles = np.array([0.1 * 0.92, 0.2 * 1.0])
    assert found.dipole_rmse_debye == pytest.approx(np.sqrt(np.mean(dipoles**2)) * 4.80320, rel=1e-5)
    share = MASSES[9] / MASSES[[9, 1]].sum()
    second = dipoles * np.array([0.92, 1.0]) * (share**2 - (1 - share) ** 2)  # Σ q z² about the centre of mass
    components = second**2 * (1 + 0.25 + 0.25) / 9
    assert found.quadrupole_rmse_e_angstrom2 == pytest.approx(np.sqrt(np.mean(components)), rel=1e-5)
    assert (found.largest_charge_e, found.shortest_distance_angstrom) == (0.4, 0.92)


def test_least_squares_are_those_of_scipy() -> None:
    """A decay, whose rate would be beyond its limit, and a wave."""
    times, wanted = np.linspace(0.0, 3.0, 200), np.array([1.0, 2.5, 0.7, 3.0])
    limits = np.array([np.inf, 2.0, np.inf, 5.0])

    def model(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[0] * np.exp(-values[1] * times) + values[2] * np.sin(values[3] * times))

    def evaluate(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decay, phase = np.exp(-values[1] * times), values[3] * times
        slopes = [decay, -values[0] * times * decay, np.sin(phase), values[2] * times * np.cos(phase)]
        return model(values) - model(wanted), np.stack(slopes, axis=1)

    start = np.array([0.5, 1.0, 0.3, 2.7])
    expected = optimize.least_squares(lambda values: evaluate(values)[0], start, bounds=(-limits, limits), xtol=1e-12)
    found = least_squares(evaluate, start, limits, 50)
    np.testing.assert_allclose(found, expected.x, rtol=1e-2)
    assert found[1] == limits[1]

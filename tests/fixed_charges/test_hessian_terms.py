"""Harmonic terms from a Hessian: those come back whose Hessian it is, by OpenMM's own forces."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from shared.units import KJ_PER_MOL_IN_EV
from tests.fixed_charges import hand_made
from tests.fixed_charges.test_openmm_files import Molecules
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.hessian_terms import describe_terms, fitted_terms
from train.fixed_charges.openmm_files import openmm_xml
from train.fixed_charges.parameters import BondedTerms


def model_of(name: str) -> ChargeModel:
    return hand_made.random_model(name, ((0,), (1,)))


def other_constants(terms: BondedTerms, seed: int = 0) -> BondedTerms:
    rng = np.random.default_rng(seed)
    bonds = tuple(bond._replace(constant=rng.uniform(1e5, 5e5)) for bond in terms.bonds)
    return replace(terms, bonds=bonds, angles=tuple(a._replace(constant=rng.uniform(100, 800)) for a in terms.angles))


def hessian_of(model: ChargeModel, terms: BondedTerms) -> np.ndarray:
    """Differences of OpenMM's forces, in eV/Å²."""
    lone = Molecules(model, xml=openmm_xml(model, "MOL", bonded=terms))
    rows, step = [], 1e-4
    for place in np.ndindex(model.positions.shape):
        forces = []
        for sign in (1, -1):
            moved = model.positions.copy()
            moved[place] += sign * step
            lone.set([moved])
            forces.append(lone.forces().ravel())
        rows.append((forces[1] - forces[0]) / (2.0 * step))
    return np.array(rows) * KJ_PER_MOL_IN_EV


@pytest.mark.parametrize(("name", "angles", "free"), [("CO2", 1, 0), ("CH4", 6, 0), ("H2CO", 3, 1), ("H2O2", 2, 1)])
def test_terms_come_back_from_their_own_hessian(name: str, angles: int, free: int) -> None:
    model = model_of(name)
    n = len(model.positions)
    terms = other_constants(fitted_terms(model, np.eye(3 * n)))
    assert (len(terms.bonds), len(terms.angles)) == (len(model.bonds), angles)
    hessian = hessian_of(model, terms)
    found = fitted_terms(model, hessian)
    np.testing.assert_allclose(found.bonds, terms.bonds, rtol=1e-4)
    np.testing.assert_allclose(found.angles, terms.angles, rtol=1e-3)
    said = describe_terms(model, found, hessian)
    assert re.search(rf": {3 * n - (5 if name == 'CO2' else 6) - free} normal modes .* RMS error 0/cm", said)
    assert (f"no term holds {free} more" in said) == bool(free)


def test_what_terms_do_not_have_is_an_error_of_wavenumbers() -> None:
    """Two bonds that know each other: k ± c of the symmetric and the antisymmetric stretch become k."""
    model = model_of("CO2")
    terms = other_constants(fitted_terms(model, np.eye(9)))
    terms = replace(terms, bonds=tuple(bond._replace(constant=8e5) for bond in terms.bonds))
    arms = np.array([[[0, 0, -1], [0, 0, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, -1]]], float).reshape(2, 9)
    coupling = 1e5 * 0.01 * KJ_PER_MOL_IN_EV * (np.outer(*arms) + np.outer(*arms[::-1]))
    hessian = hessian_of(model, terms) + coupling
    found = fitted_terms(model, hessian)
    constants = [bond.constant for bond in found.bonds]
    assert constants[0] == pytest.approx(constants[1], rel=1e-4)
    # The coupling moves the lighter carbon too, and the fit with it.
    assert 7e5 < constants[0] < 9e5
    error = re.search(r"RMS error (\d+)/cm", describe_terms(model, found, hessian))
    assert error
    assert 10 < int(error[1]) < 200

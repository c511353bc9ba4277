"""Constants against numbers typed from CODATA tables, not computed from the library that supplies them."""

from __future__ import annotations

import numpy as np
import pytest

from shared import elements, units


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0 / units.BOHR_IN_ANGSTROM, 1.8897261),
        (units.BOHR_IN_ANGSTROM, 0.52917721),
        (units.HARTREE_IN_EV, 27.211386),
        (units.COULOMB_CONSTANT_EV_ANGSTROM, 14.399645),
        (units.DEBYE_IN_E_ANGSTROM, 0.20819434),
        (units.E_BOHR_IN_E_ANGSTROM, 0.52917721),
        (units.HARTREE_IN_KCAL_PER_MOL, 627.50947),
        (units.KCAL_PER_MOL_IN_EV, 0.043364104),
        (units.LENGTH_UNITS_IN_ANGSTROM["bohr"], 0.52917721),
        (units.ENERGY_UNITS_IN_EV["hartree"], 27.211386),
        (units.ENERGY_UNITS_IN_EV["kcal/mol"], 0.043364104),
        (units.FORCE_UNITS_IN_EV_PER_ANGSTROM["hartree/bohr"], 51.422067),
        (units.FORCE_UNITS_IN_EV_PER_ANGSTROM["kcal/mol/angstrom"], 0.043364104),
        (units.DIPOLE_UNITS_IN_E_ANGSTROM["debye"], 0.20819434),
        (units.DIPOLE_UNITS_IN_E_ANGSTROM["au"], 0.52917721),
    ],
)
def test_constants_are_codatas(value: float, expected: float) -> None:
    """To seven digits."""
    assert value == pytest.approx(expected, rel=1e-7)


def test_angstrom_in_bohr_is_not_the_misprint() -> None:
    """1.889726, not 1.88873, which is off by half a thousandth."""
    assert abs(1.0 / units.BOHR_IN_ANGSTROM - 1.889726) < 1e-6
    assert abs(1.0 / units.BOHR_IN_ANGSTROM - 1.88873) > 9e-4


def test_projects_own_units_have_factor_one() -> None:
    """Å, eV, eV/Å and e·Å are the units of the cache."""
    tables = [units.LENGTH_UNITS_IN_ANGSTROM["angstrom"], units.ENERGY_UNITS_IN_EV["ev"]]
    tables += [units.FORCE_UNITS_IN_EV_PER_ANGSTROM["ev/angstrom"], units.DIPOLE_UNITS_IN_E_ANGSTROM["e-angstrom"]]
    assert tables == [1.0, 1.0, 1.0, 1.0]


def test_element_tables_are_indexed_by_atomic_number() -> None:
    """H, C, O, Cl at their numbers; padding weighs nothing and has no radius."""
    np.testing.assert_allclose(elements.MASSES[[0, 1, 6, 8, 17]], [0, 1.008, 12.011, 15.999, 35.45], atol=1e-3)
    np.testing.assert_allclose(elements.VAN_DER_WAALS_RADII[[0, 1, 6, 8, 17]], [0, 1.20, 1.77, 1.50, 1.82], atol=1e-6)
    assert len(elements.MASSES) == len(elements.VAN_DER_WAALS_RADII) == elements.MAX_ATOMIC_NUMBER + 1 == 119
    assert np.isfinite(elements.VAN_DER_WAALS_RADII).all()
    assert [elements.symbol(z) for z in (1, 6, 8, 17, 118)] == ["H", "C", "O", "Cl", "Og"]

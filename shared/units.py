"""Units and constants. Inside the project: Å, eV, e, e·Å, e·Å²; the electrostatic potential in Hartree/e.

All numbers come from :mod:`ase.units` (CODATA 2014), so that predictions agree with ASE's to the last digit.
"""

from __future__ import annotations

from ase import units as _ase

BOHR_IN_ANGSTROM: float = _ase.Bohr
HARTREE_IN_EV: float = _ase.Hartree
DEBYE_IN_E_ANGSTROM: float = _ase.Debye
E_BOHR_IN_E_ANGSTROM: float = _ase.Bohr
HARTREE_IN_KCAL_PER_MOL: float = _ase.Hartree / (_ase.kcal / _ase.mol)
KCAL_PER_MOL_IN_EV: float = _ase.kcal / _ase.mol
KJ_PER_MOL_IN_EV: float = _ase.kJ / _ase.mol

COULOMB_CONSTANT_EV_ANGSTROM: float = _ase.Hartree * _ase.Bohr
"""k_e in eV·Å/e²: the energy of two unit charges 1 Å apart (14.399645 eV)."""

LENGTH_UNITS_IN_ANGSTROM = {"angstrom": 1.0, "bohr": BOHR_IN_ANGSTROM}
ENERGY_UNITS_IN_EV = {
    "ev": 1.0,
    "hartree": HARTREE_IN_EV,
    "kcal/mol": KCAL_PER_MOL_IN_EV,
    "kj/mol": KJ_PER_MOL_IN_EV,
}
DIPOLE_UNITS_IN_E_ANGSTROM = {"debye": DEBYE_IN_E_ANGSTROM, "e-angstrom": 1.0, "au": E_BOHR_IN_E_ANGSTROM}
QUADRUPOLE_UNITS_IN_E_ANGSTROM2 = {
    "e-angstrom2": 1.0,
    "debye-angstrom": DEBYE_IN_E_ANGSTROM,
    "au": BOHR_IN_ANGSTROM**2,
}
FORCE_UNITS_IN_EV_PER_ANGSTROM = {
    "ev/angstrom": 1.0,
    "hartree/bohr": HARTREE_IN_EV / BOHR_IN_ANGSTROM,
    "kcal/mol/angstrom": KCAL_PER_MOL_IN_EV,
    "kj/mol/angstrom": KJ_PER_MOL_IN_EV,
    "hartree/angstrom": HARTREE_IN_EV,
    "ev/bohr": 1.0 / BOHR_IN_ANGSTROM,
}
ESP_UNITS_IN_HARTREE_PER_E = {
    "hartree/e": 1.0,
    "ev/e": 1.0 / HARTREE_IN_EV,
    "kcal/mol/e": 1.0 / HARTREE_IN_KCAL_PER_MOL,
    "kj/mol/e": KJ_PER_MOL_IN_EV / HARTREE_IN_EV,
}

CODATA_2018_HARTREE_IN_EV: float = 27.211386245988
"""Hartree of the total energies of reference data, as of the carried sample: CODATA 2014's value is smaller by 8e-9 of
itself, which is 4e-5 eV for carbon dioxide. Differences of energies are not affected."""

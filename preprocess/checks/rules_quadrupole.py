"""Rules about quadrupoles: their origin, unit, convention and sign against the multipoles fitted to the ESP."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import Finding
from preprocess.checks.molecule_groups import FEWEST, MoleculeGroup
from preprocess.checks.physical_constants import QUADRUPOLE_UNITS
from preprocess.checks.rules_grid import GOOD_FIT

_LARGE = 0.5
"""e·Å² (2.4 Debye·Å): norms of fitted quadrupoles above it are exact to a few per cent."""
_ALIKE = 0.95
_APART = 0.01
_MOST, _NEARLY_ALL = 0.6, 0.8

_OURS = "½ Σ q (3 x xᵀ - |x|² 1)"
_CONVENTIONS = {
    _OURS: (1.0, ""),
    "Σ q (3 x xᵀ - |x|² 1)": (2.0, "halve it"),
    "Σ q (x xᵀ - ⅓ |x|² 1)": (2.0 / 3.0, "multiply it by 1.5"),
}
"""Conventions of traceless quadrupoles: their size over the first one, the project's, and how to change to that."""


def judge_quadrupoles(group: MoleculeGroup) -> list[Finding]:
    """Compare quadrupoles with those of the ESP, where grid, unit and sign of the ESP are right."""
    m = group.molecules
    fitted = (m["fitted_quadrupole"] > _LARGE) & (m["residual"] < GOOD_FIT) & np.isfinite(m["quadrupole"])
    known = fitted & (m["quadrupole"] > 0)
    if known.sum() < FEWEST:
        return []
    cosines = np.abs(m["quadrupole_cosines"].astype(np.float64))
    alike = cosines > _ALIKE
    apart = known & (np.abs(cosines[:, 0] - cosines[:, 1]) > _APART)
    elsewhere = apart & alike[:, 1] & (cosines[:, 1] > cosines[:, 0])
    if elsewhere.sum() >= max(FEWEST, _NEARLY_ALL * apart.sum()):
        origin, name = {"mass": ("zero", "the zero of R"), "zero": ("mass", "the centre of mass")}[
            group.file.quadrupole_origin
        ]
        what = f"the quadrupole of {elsewhere.sum()} of {apart.sum()} molecules is about {name}"
        return [group.find("quadrupole-origin", "error", elsewhere, what, f"--quadrupole-origin {origin}", apart)]
    same = known & alike[:, 0]
    if same.sum() < _MOST * known.sum():
        other = known & ~same
        what = f"the ESP has another quadrupole in {other.sum()} of {known.sum()} molecules"
        remedy = "look at its frame and the order of its components; until then train with --quadrupole-weight 0"
        # No error: nothing is known to be amiss with what is trained by default.
        return [group.find("quadrupole-frame", "warning", other, what, remedy, known)]
    ratio = m["quadrupole_product"] / np.where(known, m["quadrupole"].astype(np.float64) ** 2, 1.0)
    factor = float(np.median(ratio[same]))
    agree = same & (np.abs(ratio / factor - 1) < 0.1)
    return _unit_and_convention(group, factor, agree, known) if agree.sum() >= _MOST * known.sum() else []


def _unit_and_convention(group: MoleculeGroup, factor: float, agree: np.ndarray, known: np.ndarray) -> list[Finding]:
    numbers = f"the quadrupole of the ESP is {factor:.3f} times that given in {agree.sum()} of {known.sum()} molecules"
    if factor < 0:
        what = f"the quadrupole has the opposite sign: {numbers}"
        return [group.find("quadrupole-sign", "error", agree, what, "negate it in the file", known)]
    given = group.units.quadrupole_unit
    # The given reading comes first, then those that a flag mends.
    units = [given, *(unit for unit in QUADRUPOLE_UNITS if unit != given)]
    readings = {
        (unit, convention): QUADRUPOLE_UNITS[unit] / QUADRUPOLE_UNITS[given] / size
        for convention, (size, _) in _CONVENTIONS.items()
        for unit in units
    }
    unit, convention = min(readings, key=lambda one: round(abs(np.log(factor / readings[one])), 6))
    off = abs(np.log(factor / readings[unit, convention]))
    if (unit, convention) == (given, _OURS) and off < 0.1:
        return []
    if off > 0.05:
        what = f"{numbers}, which no unit and no convention explains"
        remedy = "look at its unit (--quadrupole-unit) and convention; until then train with --quadrupole-weight 0"
        return [group.find("quadrupole-unit", "warning", agree, what, remedy, known)]
    flag = "" if unit == given else f"--quadrupole-unit {unit}"
    if convention == _OURS:
        what = f"the quadrupole is given as {given}, but fits as {unit}: {numbers}"
        return [group.find("quadrupole-unit", "error", agree, what, flag, known)]
    what = f"the quadrupole fits as {convention} in {unit}: {numbers}"
    remedy = f"{_CONVENTIONS[convention][1]} in the file, to make it {_OURS}" + (f", and {flag}" if flag else "")
    return [group.find("quadrupole-convention", "error", agree, what, remedy, known)]

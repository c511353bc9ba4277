"""Rules about the ESP: its unit and sign, and the dipoles and total charges fitted to it."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import CANDIDATES, Finding, Severity
from preprocess.checks.measure_esp import POLAR
from preprocess.checks.molecule_groups import FEWEST, FEWEST_ALL_AGREE, MoleculeGroup, median
from preprocess.checks.physical_constants import DIPOLE_UNITS, ESP_UNITS
from preprocess.checks.rules_grid import (
    GOOD_FIT,
    esp_of_nothing,
    grid_unit_and_frame,
    is_bohr,
    misplaced_nuclei,
    nuclei_in_angstrom,
    points_inside_atoms,
    values_cut_off,
)
from preprocess.checks.rules_quadrupole import judge_quadrupoles
from shared.units import ESP_UNITS_IN_HARTREE_PER_E


def judge_esp(group: MoleculeGroup) -> list[Finding]:
    """Apply all rules about grid and ESP; those that need a correct grid only where it is correct."""
    zero = zero_esp(group)
    nuclei = misplaced_nuclei(group)
    if nuclei:
        return zero + nuclei
    grid = grid_unit_and_frame(group)
    if grid:
        return zero + grid
    unfit = esp_of_nothing(group)
    if unfit:
        return zero + unfit
    unit = dipole_and_esp_unit(group)
    rest = points_inside_atoms(group) + values_cut_off(group) + zero + zero_dipoles(group)
    if any(one.check.startswith("esp") for one in unit):
        return unit + rest
    return unit + total_charge(group) + dipole_origin(group) + judge_quadrupoles(group) + single_rows(group) + rest


def dipole_and_esp_unit(group: MoleculeGroup) -> list[Finding]:
    """Find wrong units and signs of D and the ESP from the ratio of the fitted dipole to D.

    The ratio is the median over polar molecules, the confidence the share within 10 % of it. Ratios of dipole units
    are attributed to the dipole, those of ESP units to the ESP; whose sign is wrong follows from the correlation of
    the fitted charges with electronegativity.
    """
    m = group.molecules
    ions = _esp_of_ions(group)
    if ions:
        return ions
    # Dipoles of ions about another origin have their own rule.
    polar = group.polar() & ~(m["origin_gain"] > 0)
    few = polar.sum() < FEWEST
    if polar.sum() < FEWEST_ALL_AGREE:
        return _large_charges(group)
    ratio = np.where(polar, m["dipole_product"] / np.where(polar, m["dipole"].astype(np.float64) ** 2, 1.0), np.nan)
    factor = float(np.median(ratio[polar]))
    agree = polar & (np.abs(ratio / factor - 1) < 0.1)
    if agree.sum() < (1.0 if few else 0.6) * polar.sum():
        return _large_charges(group) if few else []
    numbers = f"the dipole of the ESP is {factor:.3f} times D in {agree.sum()} of {polar.sum()} molecules"
    findings = _reversed_sign(group, agree, polar, numbers) if factor < 0 else []
    size = abs(factor)
    if abs(np.log(size)) < 0.1:
        return findings
    names = {f"dipole {u}": s / DIPOLE_UNITS[group.units.dipole_unit] for u, s in DIPOLE_UNITS.items()}
    given = ESP_UNITS[group.units.esp_unit]
    names |= {f"esp {u}": given / s for u, s in ESP_UNITS.items() if u != group.units.esp_unit}
    # A grid whose points are outside the atoms in Bohr too is in Bohr.
    fits_in_bohr = median(m["tried"][:, CANDIDATES.index("times bohr")]) < GOOD_FIT
    if is_bohr(size) and fits_in_bohr and group.units.dipole_unit != "au":
        return [*findings, nuclei_in_angstrom(group, agree, polar, numbers)]
    # Rounded, so that the first of equal factors, a dipole's, is taken.
    kind, unit = min(names, key=lambda name: round(abs(np.log(size / names[name])), 6)).split(" ", 1)
    if abs(np.log(size / names[f"{kind} {unit}"])) > 0.06:
        what = f"{numbers}, which no unit explains"
        if few:
            return findings
        remedy = "look at the units of Dxyz (--dipole-unit), esp (--esp-unit) and at the atoms' order"
        severity: Severity = "error" if abs(np.log(size)) > np.log(2.0) else "warning"
        return [*findings, group.find("dipole-unit", severity, agree, what, remedy, polar)]
    if kind == "dipole":
        what = f"Dxyz is given as {group.units.dipole_unit}, but fits as {unit}: {numbers}"
        return [*findings, group.find("dipole-unit", "error", agree, what, f"--dipole-unit {unit}", polar)]
    return [*findings, _esp_unit(group, unit, agree, polar, numbers)]


def _reversed_sign(group: MoleculeGroup, agree: np.ndarray, polar: np.ndarray, numbers: str) -> list[Finding]:
    polarity = median(group.molecules["polarity"])
    which = "esp" if polarity > 0.3 else "dipole" if polarity < -0.3 else "esp or dipole"
    what = {
        "esp": f"esp has the opposite sign (electronegative atoms come out positive): {numbers}",
        "dipole": f"Dxyz has the opposite sign (the ESP's charges are as they should be): {numbers}",
        "esp or dipole": f"esp or Dxyz has the opposite sign: {numbers}",
    }[which]
    remedy = {
        "esp": "negate esp",
        "dipole": "negate Dxyz (it points from minus to plus)",
        "esp or dipole": "negate esp (V of a positive charge is positive) or Dxyz (it points from minus to plus)",
    }[which]
    check = "dipole-sign" if which == "dipole" else "esp-sign"
    return [group.find(check, "error", agree, what, remedy, polar, of_esp=which != "dipole")]


def _esp_of_ions(group: MoleculeGroup) -> list[Finding]:
    """Find a fitted total charge that is -1 times the given one, or a unit's factor times, in all ions alike."""
    m = group.molecules
    ions = (np.abs(m["charge"]) > 0.5) & (m["residual"] < GOOD_FIT)
    if ions.sum() < FEWEST:
        return []
    ratio = np.where(ions, m["fitted_charge"] / np.where(ions, m["charge"], 1.0), np.nan)
    factor = float(np.median(ratio[ions]))
    agree = ions & (np.abs(ratio / factor - 1) < 0.1)
    if agree.sum() < 0.6 * ions.sum():
        return []
    numbers = f"its charge is {factor:.3f} times Q in {agree.sum()} of {ions.sum()} ions"
    if abs(factor + 1) < 0.1:
        what = f"esp has the opposite sign: {numbers}"
        return [group.find("esp-sign", "error", agree, what, "negate esp", ions, of_esp=True)]
    given = ESP_UNITS[group.units.esp_unit]
    unit = min(ESP_UNITS, key=lambda name: abs(np.log(abs(factor) * ESP_UNITS[name] / given)))
    if unit == group.units.esp_unit or abs(np.log(abs(factor) * ESP_UNITS[unit] / given)) > 0.06:
        return []
    return [_esp_unit(group, unit, agree, ions, numbers)]


def _esp_unit(group: MoleculeGroup, unit: str, agree: np.ndarray, among: np.ndarray, numbers: str) -> Finding:
    known = unit in ESP_UNITS_IN_HARTREE_PER_E
    remedy = f"--esp-unit {unit}" if known else f"multiply esp by {ESP_UNITS[unit]:.6g} (to Hartree/e)"
    what = f"esp is given as {group.units.esp_unit}, but fits as {unit}: {numbers}"
    return group.find("esp-unit", "error", agree, what, remedy, among, of_esp=True)


def _large_charges(group: MoleculeGroup) -> list[Finding]:
    """Find charges of tens of e, which show a wrong unit of the ESP where no dipoles can be compared."""
    charge = group.molecules["largest_charge"]
    known = np.isfinite(charge)
    if known.sum() < FEWEST or np.median(charge[known]) < 8:
        return []
    what = f"the ESP is that of atomic charges of {np.median(charge[known]):.0f} e"
    remedy = "name its unit: --esp-unit (1 Hartree/e = 27.2114 V = 627.509 kcal/mol/e)"
    return [group.find("esp-unit", "error", known & (charge > 8), what, remedy, known, of_esp=True)]


def total_charge(group: MoleculeGroup) -> list[Finding]:
    """Compare Q with the sum of the fitted charges, exact to 0.01 e where the grid surrounds the molecule."""
    m = group.molecules
    difference = m["fitted_charge"] - m["charge"]
    known = (m["charge_error"] < 0.05) & (m["residual"] < GOOD_FIT)
    # A charge is a whole number; fitted to an ESP in another unit it is not.
    bad = known & (np.abs(difference) > 0.4) & (np.abs(m["fitted_charge"] - np.rint(m["fitted_charge"])) < 0.25)
    if not bad.any():
        return []
    given, fitted = float(np.median(m["charge"][bad])), float(np.median(m["fitted_charge"][bad]))
    what = (
        f"Q is {given:+.2f} e where the ESP has a charge of {fitted:+.2f} e, in {bad.sum()} of {known.sum()} molecules"
    )
    remedy = "give the total charge as Q in the EFD file (it is 0 where the key is missing)"
    return [group.find("total-charge", "error", bad, what, remedy)]


def dipole_origin(group: MoleculeGroup) -> list[Finding]:
    """Find ions whose D fits about the origin of R rather than about the centre of mass."""
    gain = group.molecules["origin_gain"]
    known = np.isfinite(gain)
    about_origin = known & (gain > 0.8)
    if known.sum() < FEWEST or about_origin.sum() < 0.8 * known.sum():
        return []
    what = f"the dipole of {about_origin.sum()} of {known.sum()} ions is about the origin of R"
    remedy = "give Dxyz of ions about the centre of mass: subtract Q times its position"
    return [group.find("dipole-origin", "warning", about_origin, what, remedy, known)]


def single_rows(group: MoleculeGroup) -> list[Finding]:
    """Find single molecules whose ESP and D disagree, where most agree."""
    polar = group.polar()
    m = group.molecules
    # For a single molecule the fit has to be beyond doubt.
    bad = polar & (np.abs(m["cosine"]) < 0.8) & (m["fitted_dipole"] > 2 * POLAR) & (m["n_grid"] >= 100)
    if polar.sum() < FEWEST or not bad.any():
        return []
    what = f"the ESP's dipole points elsewhere than D in {bad.sum()} of {polar.sum()} molecules"
    remedy = "look at these rows: is the grid, the ESP or D that of another molecule or frame?"
    return [group.find("outlier-esp", "warning", bad, what, remedy, of_esp=True)]


def zero_esp(group: MoleculeGroup) -> list[Finding]:
    """Find ESPs that are exactly 0 at all points: all molecules are an error, some a warning."""
    m = group.molecules
    known = (m["n_grid"] > 0) & (m["n_atoms"] > 1)
    zero = known & (m["esp"] == 0)
    if not zero.any():
        return []
    everywhere = bool(zero.sum() == known.sum() and known.sum() > 2)
    what = f"esp is 0 at all points of {zero.sum()} of {known.sum()} molecules"
    remedy = "fill in esp, or remove these molecules from both files"
    return [group.find("zero-target", "error" if everywhere else "warning", zero, what, remedy, of_esp=True)]


def zero_dipoles(group: MoleculeGroup) -> list[Finding]:
    """Find molecules with D exactly 0 whose ESP has a dipole."""
    m = group.molecules
    polar = m["fitted_dipole"] > POLAR
    zero = polar & (m["dipole"] == 0)
    if not zero.any():
        return []
    everywhere = bool(zero.sum() == polar.sum() and polar.sum() >= FEWEST)
    what = f"Dxyz is 0 in {zero.sum()} of {polar.sum()} molecules whose ESP has a dipole"
    remedy = "fill in Dxyz, or train with --dipole-weight 0"
    return [group.find("zero-target", "error" if everywhere else "warning", zero, what, remedy)]

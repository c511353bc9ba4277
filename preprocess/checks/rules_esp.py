"""Rules about the ESP: the grid's unit and frame, the ESP's unit and sign, dipoles, total charges, points in atoms."""

from __future__ import annotations

import numpy as np

from preprocess.checks.esp import AXES, POLAR, POLAR_AS_GIVEN
from preprocess.checks.evidence import CANDIDATES, TOO_FEW_POINTS, Finding, UnitFlags
from preprocess.checks.group import FEWEST, Group
from preprocess.checks.tables import DIPOLE_UNITS, ESP_UNITS
from shared.units import BOHR_IN_ANGSTROM, LENGTH_UNITS_IN_ANGSTROM

_BETTER = 0.8
_GOOD = 0.3
"""A candidate mends a molecule whose residual it lowers by a fifth and below this. On right data none ever did."""
_FEWEST_MENDED = 4
_SHARE_MENDED = 0.1
_NOTABLE_ESP = 1e-3
"""Hartree/e: below it (atoms, some hydrocarbons) a poor fit says little."""
_GRID_REMEDY = {
    "plus mass": ("the grid is relative to the centre of mass", "add each molecule's centre of mass to vdw_surface"),
    "plus centroid": ("the grid is relative to the atoms' centroid", "add each molecule's centroid to vdw_surface"),
    "plus atom": ("the grid is relative to the first atom", "add the first atom's position to vdw_surface"),
    "centred": (
        "the grid and R have different origins",
        "give vdw_surface and R in one frame (is one of them centred and the other not?)",
    ),
}


def judge_esp(group: Group, flags: UnitFlags) -> list[Finding]:
    """All rules of this module; those that build on a sound grid only where it is sound."""
    zero = zero_esp(group)
    grid = grid_unit_and_frame(group, flags)
    if grid:
        return zero + grid
    unit = dipole_and_esp_unit(group, flags)
    rest = points_inside_atoms(group) + zero + zero_dipoles(group)
    if any(one.check.startswith("esp") for one in unit):
        return unit + rest
    return unit + total_charge(group) + dipole_origin(group) + single_rows(group) + rest


def grid_unit_and_frame(group: Group, flags: UnitFlags) -> list[Finding]:
    """Grid indices; another unit or origin, which mend at least a tenth of the molecules tried; other frames."""
    m = group.molecules
    gridded = m["n_grid"] > 0
    whole = m["integer_grid"]
    if whole.sum() >= max(_FEWEST_MENDED, 0.5 * gridded.sum()):
        what = (
            f"the coordinates of vdw_surface are whole numbers in {whole.sum()} of {gridded.sum()} molecules: indices"
        )
        remedy = "convert the indices to Å: origin + index times spacing, of each molecule's cube file"
        return [group.find("grid-unit", "error", whole, what, remedy, gridded, of_esp=True)]
    return _another_unit_or_origin(group, flags) or _another_frame(group)


def _another_unit_or_origin(group: Group, flags: UnitFlags) -> list[Finding]:
    """The candidate that mends most molecules, if more than it leaves with a dipole in another direction."""
    m = group.molecules
    tried = np.asarray(np.isfinite(m["gain"]).all(axis=1) & (m["n_atoms"] > 1))
    if tried.sum() < FEWEST:
        return []
    polar = (m["dipole"] > POLAR_AS_GIVEN) & (m["fitted_dipole"] > POLAR)
    turned = (tried & polar)[:, None] & (np.abs(m["cosine_tried"]) < 0.9)
    mended = tried[:, None] & ~turned & (m["gain"] < _BETTER) & (m["tried"] < _GOOD)
    counts, quality = mended.sum(axis=0), np.median(m["gain"][tried], axis=0)
    best = max(range(len(CANDIDATES)), key=lambda c: (counts[c] >= 0.9 * counts.max(), -quality[c]))
    if counts[best] < max(_FEWEST_MENDED, _SHARE_MENDED * tried.sum(), turned[:, best].sum()):
        return []
    found = mended[:, best]
    now = np.median(m["residual"][found])
    numbers = (
        f"multipoles fit the ESP of {counts[best]} of {tried.sum()} molecules better so: residual "
        f"{np.median(m['tried'][found, best]):.1%} instead of "
        f"{f'{now:.1%}' if now < TOO_FEW_POINTS else 'no fit (the points lie in the atoms)'}"
    )
    spoilt = tried & (m["gain"][:, best] > 1 / _BETTER)
    partly = bool(spoilt.sum() >= max(_FEWEST_MENDED, _SHARE_MENDED * tried.sum()))
    check, wrong, remedy = _name_candidate(CANDIDATES[best], flags, partly)
    if partly:
        numbers += f", while {spoilt.sum()} fit as given"
    return [group.find(check, "error", found, f"{wrong}; {numbers}", remedy, tried, of_esp=True)]


def _name_candidate(name: str, flags: UnitFlags, partly: bool) -> tuple[str, str, str]:
    """Check, fault and remedy; ``partly``: other molecules of the file are right as they are."""
    only = " (only of the molecules that need it)" if partly else ""
    if name in _GRID_REMEDY:
        wrong, remedy = _GRID_REMEDY[name]
        return "grid-frame", wrong, remedy + only
    factor = {"times bohr": BOHR_IN_ANGSTROM, "over bohr": 1 / BOHR_IN_ANGSTROM}[name]
    actual = LENGTH_UNITS_IN_ANGSTROM[flags.grid_unit] * factor
    unit = next((one for one, size in LENGTH_UNITS_IN_ANGSTROM.items() if abs(size / actual - 1) < 0.01), None)
    wrong = f"vdw_surface is given as {flags.grid_unit}, but fits as {unit or f'multiples of {actual:.4f} Å'}"
    remedy = f"multiply vdw_surface by {factor:.6f}{only}"
    return "grid-unit", wrong, remedy if partly or not unit else f"--grid-unit {unit}"


def _another_frame(group: Group) -> list[Finding]:
    """The dipole of the ESP points elsewhere than D in a tenth of the polar molecules, or other axes fit as well."""
    m = group.molecules
    polar = _polar(group)
    turned = polar & (np.abs(m["cosine"]) < 0.9)
    many = polar.sum() >= FEWEST and turned.sum() >= max(_FEWEST_MENDED, _SHARE_MENDED * polar.sum())
    tried = (m["axes"] >= 0) & (m["esp"] > _NOTABLE_ESP)
    # In right frames hardly any of the 47 exchanges fit better (less than 1 % on average), in wrong ones 20 to 60 %.
    loose = tried & (m["axes_better"] > 0.05)
    grid_is_loose = bool(tried.sum() >= 6 and m["axes_better"][tried].mean() > 0.08)
    if not (many or grid_is_loose):
        return []
    bad, among = (turned, polar) if many else (loose, tried)
    level = f"residual of the ESP fit {_median(m['residual'][bad]):.1%}"
    if many:
        level = f"the dipole of the ESP points elsewhere than D in {turned.sum()} of {polar.sum()} molecules; {level}"
    axes = int(np.bincount(m["axes"][tried].astype(np.int64)).argmax()) if tried.any() else 0
    agree = tried & (m["axes"] == axes) & (m["axes_residual"] < 0.5 * m["residual"])
    if agree.sum() >= max(_FEWEST_MENDED, 0.6 * tried.sum()):
        name = _name_axes(AXES[axes])
        what = f"{level}; with the grid's axes as ({name}) it is {_median(m['axes_residual'][agree]):.1%}"
        remedy = f"give vdw_surface as ({name}) of what it is now"
        return [group.find("grid-frame", "error", bad, what, remedy, among, of_esp=True)]
    if many and tried.sum() >= _FEWEST_MENDED and not grid_is_loose:
        what = f"{level}, less than with other axes: R and the grid agree, D does not"
        remedy = "give Dxyz in the frame of R (a program's standard orientation?), in the same order of rows"
        return [group.find("dipole-frame", "error", bad, what, remedy, among)]
    what = f"{level}, no less than with other axes; neither another unit nor a shift mends it"
    remedy = "give vdw_surface, esp, R and Dxyz in one frame, rows in one order (rotated, or rows of other molecules?)"
    return [group.find("grid-frame", "error", bad, what, remedy, among, of_esp=True)]


def _name_axes(turn: np.ndarray) -> str:
    names = []
    for row in turn:
        axis = int(np.abs(row).argmax())
        names.append(("-" if row[axis] < 0 else "") + "xyz"[axis])
    return ", ".join(names)


def _polar(group: Group) -> np.ndarray:
    """Mask of the molecules whose dipole is large enough to compare and whose total charge is right."""
    m = group.molecules
    right_charge = np.abs(m["fitted_charge"] - m["charge"]) < 0.4
    return np.asarray((m["fitted_dipole"] > POLAR) & (m["dipole"] > POLAR_AS_GIVEN) & right_charge)


def dipole_and_esp_unit(group: Group, flags: UnitFlags) -> list[Finding]:
    """The ratio of the fitted dipole to D tells their units and signs apart.

    Median over polar molecules; the confidence is the share within 10 % of it. Ratios of dipole units are taken for
    the dipole's fault, those of ESP units for the ESP's; of the sign, the fitted charges' electronegativity decides.
    """
    m = group.molecules
    ions = _esp_of_ions(group)
    if ions:
        return ions
    # The dipole of an ion about another origin has a rule of its own.
    polar = _polar(group) & ~(m["origin_gain"] > 0)
    if polar.sum() < FEWEST:
        return _large_charges(group)
    ratio = np.where(polar, m["dipole_product"] / np.where(polar, m["dipole"].astype(np.float64) ** 2, 1.0), np.nan)
    factor = float(np.median(ratio[polar]))
    agree = polar & (np.abs(ratio / factor - 1) < 0.1)
    if agree.sum() < 0.6 * polar.sum():
        return []
    numbers = f"the dipole of the ESP is {factor:.3f} times D in {agree.sum()} of {polar.sum()} molecules"
    findings = _reversed_sign(group, agree, polar, numbers) if factor < 0 else []
    size = abs(factor)
    if abs(np.log(size)) < 0.1:
        return findings
    names = {f"dipole {u}": s / DIPOLE_UNITS[flags.dipole_unit] for u, s in DIPOLE_UNITS.items()}
    names |= {f"esp {u}": 1 / s for u, s in ESP_UNITS.items()}
    kind, unit = min(names, key=lambda name: abs(np.log(size / names[name]))).split(" ", 1)
    if abs(np.log(size / names[f"{kind} {unit}"])) > 0.06:
        what = f"{numbers}, which no unit explains"
        remedy = "look at the units of Dxyz (--dipole-unit), esp (Hartree/e) and at the atoms' order"
        return [*findings, group.find("dipole-unit", "warning", agree, what, remedy, polar)]
    if kind == "dipole":
        what = f"Dxyz is given as {flags.dipole_unit}, but fits as {unit}: {numbers}"
        return [*findings, group.find("dipole-unit", "error", agree, what, f"--dipole-unit {unit}", polar)]
    return [*findings, _esp_unit(group, unit, agree, polar, numbers)]


def _reversed_sign(group: Group, agree: np.ndarray, polar: np.ndarray, numbers: str) -> list[Finding]:
    polarity = _median(group.molecules["polarity"])
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


def _esp_of_ions(group: Group) -> list[Finding]:
    """The ratio of the fitted to the given total charge is -1, or that of a unit, for ions alike."""
    m = group.molecules
    ions = (np.abs(m["charge"]) > 0.5) & (m["residual"] < _GOOD)
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
    unit = min(ESP_UNITS, key=lambda name: abs(np.log(abs(factor) * ESP_UNITS[name])))
    if abs(np.log(abs(factor) * ESP_UNITS[unit])) > 0.06:
        return []
    return [_esp_unit(group, unit, agree, ions, numbers)]


def _esp_unit(group: Group, unit: str, agree: np.ndarray, among: np.ndarray, numbers: str) -> Finding:
    remedy = f"multiply esp by {ESP_UNITS[unit]:.6g} (to Hartree/e)"
    what = f"esp is in {unit}, not in Hartree/e: {numbers}"
    return group.find("esp-unit", "error", agree, what, remedy, among, of_esp=True)


def _large_charges(group: Group) -> list[Finding]:
    """Without dipoles to compare, only charges of tens of e betray the unit of the ESP."""
    charge = group.molecules["largest_charge"]
    known = np.isfinite(charge)
    if known.sum() < FEWEST or np.median(charge[known]) < 8:
        return []
    what = f"the ESP is that of atomic charges of {np.median(charge[known]):.0f} e"
    remedy = "give esp in Hartree/e (1 Hartree/e = 27.2114 V = 627.509 kcal/mol/e)"
    return [group.find("esp-unit", "error", known & (charge > 8), what, remedy, known, of_esp=True)]


def total_charge(group: Group) -> list[Finding]:
    """Q against the sum of the fitted charges, which is exact to 0.01 e where the grid surrounds the molecule."""
    m = group.molecules
    difference = m["fitted_charge"] - m["charge"]
    known = (m["charge_error"] < 0.05) & (m["residual"] < _GOOD)
    # A charge is a whole number; of an ESP in another unit the fitted one is not.
    bad = known & (np.abs(difference) > 0.4) & (np.abs(m["fitted_charge"] - np.rint(m["fitted_charge"])) < 0.25)
    if not bad.any():
        return []
    given, fitted = float(np.median(m["charge"][bad])), float(np.median(m["fitted_charge"][bad]))
    what = (
        f"Q is {given:+.2f} e where the ESP has a charge of {fitted:+.2f} e, in {bad.sum()} of {known.sum()} molecules"
    )
    remedy = "give the total charge as Q in the EFD file (it is 0 where the key is missing)"
    return [group.find("total-charge", "error", bad, what, remedy)]


def dipole_origin(group: Group) -> list[Finding]:
    """Ions whose D fits about the origin of R rather than about the centre of mass."""
    gain = group.molecules["origin_gain"]
    known = np.isfinite(gain)
    about_origin = known & (gain > 0.8)
    if known.sum() < FEWEST or about_origin.sum() < 0.8 * known.sum():
        return []
    what = f"the dipole of {about_origin.sum()} of {known.sum()} ions is about the origin of R"
    remedy = "give Dxyz of ions about the centre of mass: subtract Q times its position"
    return [group.find("dipole-origin", "warning", about_origin, what, remedy, known)]


def single_rows(group: Group) -> list[Finding]:
    """A few molecules whose ESP and D disagree, where most agree."""
    polar = _polar(group)
    bad = polar & (np.abs(group.molecules["cosine"]) < 0.8) & (group.molecules["fitted_dipole"] > 2 * POLAR)
    if polar.sum() < FEWEST or not bad.any():
        return []
    what = f"the ESP's dipole points elsewhere than D in {bad.sum()} of {polar.sum()} molecules"
    remedy = "look at these rows: is the grid, the ESP or D that of another molecule or frame?"
    return [group.find("outlier-esp", "warning", bad, what, remedy, of_esp=True)]


def points_inside_atoms(group: Group) -> list[Finding]:
    """Grid points within 0.55 van der Waals radii of a nucleus, where the ESP is that of the nucleus."""
    inside = group.molecules["inside"]
    bad = inside > 0
    if not bad.any():
        return []
    what = (
        f"{np.nanmean(inside):.2%} of the grid points, in {bad.sum()} of {np.isfinite(inside).sum()} molecules, lie "
        "within 0.55 van der Waals radii of an atom"
    )
    remedy = "train with --esp-radius-factor 1 or more (the default is 1) or --esp-min-distance, or remove the points"
    return [group.find("grid-inside-atom", "warning", bad, what, remedy, of_esp=True)]


def zero_esp(group: Group) -> list[Finding]:
    """An ESP that is exactly 0 at all points: all molecules are an error, some a warning."""
    m = group.molecules
    known = (m["n_grid"] > 0) & (m["n_atoms"] > 1)
    zero = known & (m["esp"] == 0)
    if not zero.any():
        return []
    everywhere = bool(zero.sum() == known.sum() and known.sum() > 2)
    what = f"esp is 0 at all points of {zero.sum()} of {known.sum()} molecules"
    remedy = "fill in esp, or remove these molecules from both files"
    return [group.find("zero-target", "error" if everywhere else "warning", zero, what, remedy, of_esp=True)]


def zero_dipoles(group: Group) -> list[Finding]:
    """D exactly 0 where the ESP has a dipole."""
    m = group.molecules
    polar = m["fitted_dipole"] > POLAR
    zero = polar & (m["dipole"] == 0)
    if not zero.any():
        return []
    everywhere = bool(zero.sum() == polar.sum() and polar.sum() >= FEWEST)
    what = f"Dxyz is 0 in {zero.sum()} of {polar.sum()} molecules whose ESP has a dipole"
    remedy = "fill in Dxyz, or train with --dipole-weight 0"
    return [group.find("zero-target", "error" if everywhere else "warning", zero, what, remedy)]


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")

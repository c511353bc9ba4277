"""Rules about the grid: its unit and frame against R, points inside atoms."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import CANDIDATES, TOO_FEW_POINTS, Finding
from preprocess.checks.measure_esp import AXES, POLAR
from preprocess.checks.molecule_groups import FEWEST, FEWEST_ALL_AGREE, MoleculeGroup, median
from preprocess.input.grid_points import FAR_ANGSTROM
from shared.units import BOHR_IN_ANGSTROM, HARTREE_IN_KCAL_PER_MOL, LENGTH_UNITS_IN_ANGSTROM

_BETTER = 0.8
GOOD_FIT = 0.3
"""A candidate corrects a molecule if it lowers the residual by a fifth and below this. On correct data none did."""
_MUCH_BETTER = 0.5
_VERY_GOOD_FIT = 0.06
"""GOOD_FIT where fewer than eight molecules are known: all of them have to reach it."""
_FEWEST_CORRECTED = 4
_SHARE_CORRECTED = 0.1
_NOTABLE_ESP = 1e-3
"""Hartree/e: for a smaller ESP (atoms, some hydrocarbons) a poor fit says little."""
_NUCLEI_MOVED = 0.3
_OTHER_GEOMETRY = 0.05
_OTHER_AXES = 0.03
"""Share of the 47 exchanges of axes that may fit better by chance: one."""
_WRONG_ORIGIN = {
    "as stored": "the grid is in the frame of R as it is in the file",
    "plus mass": "the grid is relative to the centre of mass",
    "plus centroid": "the grid is relative to the atoms' centroid",
    "plus atom": "the grid is relative to the first atom",
    "centred": "the grid and R have different origins",
}


def grid_unit_and_frame(group: MoleculeGroup) -> list[Finding]:
    """Find grid indices, another unit or origin that corrects a tenth of the molecules tried, and other frames."""
    m = group.molecules
    gridded = m["n_grid"] > 0
    whole = m["integer_grid"]
    if whole.sum() >= max(_FEWEST_CORRECTED, 0.5 * gridded.sum()):
        what = (
            f"the coordinates of vdw_surface are whole numbers in {whole.sum()} of {gridded.sum()} molecules: indices"
        )
        remedy = "convert the indices to Å: origin + index times spacing, of each molecule's cube file"
        return [group.find("grid-unit", "error", whole, what, remedy, gridded, of_esp=True)]
    nowhere = points_nowhere(group)
    if nowhere:
        return nowhere
    return _another_unit_or_origin(group) or (_another_frame(group) if len(m) >= FEWEST else [])


def _another_unit_or_origin(group: MoleculeGroup) -> list[Finding]:
    """Find the candidate that corrects most molecules, unless dipoles then point elsewhere or other axes fit better.

    Among several that correct as many as well, it is the first of CANDIDATES.
    """
    m = group.molecules
    tried = np.asarray(np.isfinite(m["gain"]).all(axis=1) & (m["n_atoms"] > 1))
    few = tried.sum() < FEWEST
    if tried.sum() < FEWEST_ALL_AGREE:
        return []
    turned = (tried & (m["dipole"] > POLAR))[:, None] & (np.abs(m["cosine_tried"]) < 0.9)
    better, good = (_MUCH_BETTER, _VERY_GOOD_FIT) if few else (_BETTER, GOOD_FIT)
    corrected = tried[:, None] & ~turned & (m["gain"] < better) & (m["tried"] < good)
    counts, gain = corrected.sum(axis=0), np.median(m["gain"][tried], axis=0)
    able = np.flatnonzero(counts >= 0.9 * counts.max())
    best = int(able[gain[able] < 1.1 * gain[able].min()][0])
    found = corrected[:, best]
    fewest = tried.sum() if few else max(_FEWEST_CORRECTED, _SHARE_CORRECTED * tried.sum(), 2 * turned[:, best].sum())
    if counts[best] < fewest:
        return []
    axes, turned_axes = _best_axes(group)
    if axes is not None and median(m["axes_residual"][turned_axes] / m["residual"][turned_axes]) < gain[best]:
        return []
    now = np.median(m["residual"][found])
    numbers = (
        f"multipoles fit the ESP of {counts[best]} of {tried.sum()} molecules better so: residual "
        f"{np.median(m['tried'][found, best]):.1%} instead of "
        f"{f'{now:.1%}' if now < TOO_FEW_POINTS else 'no fit (the points are inside the atoms)'}"
    )
    lost = (m["tried"][:, best] == TOO_FEW_POINTS) & (m["residual"] < TOO_FEW_POINTS)
    spoilt = tried & (lost | (m["gain"][:, best] > 1 / _BETTER))
    partly = bool(spoilt.sum() >= max(_FEWEST_CORRECTED, _SHARE_CORRECTED * tried.sum()))
    if CANDIDATES[best] == "over bohr" and is_bohr(median(m["dipole_over_bohr"][found])):
        return [nuclei_in_angstrom(group, found, tried, f"its dipole is then 1.89 times D; {numbers}")]
    check, wrong, remedy = _name_candidate(CANDIDATES[best], group, partly)
    if partly:
        numbers += f", while {spoilt.sum()} fit as given"
    return [group.find(check, "error", found, f"{wrong}; {numbers}", remedy, tried, of_esp=True)]


def is_bohr(ratio: float) -> bool:
    """Return whether a ratio of dipoles is that of lengths in Bohr taken for Å."""
    return bool(abs(ratio * BOHR_IN_ANGSTROM - 1) < 0.1)


def nuclei_in_angstrom(group: MoleculeGroup, bad: np.ndarray, among: np.ndarray, numbers: str) -> Finding:
    """Return the finding of an ESP computed with nuclei in Å and points in Bohr, which no unit flag corrects."""
    what = f"esp was computed with nuclei in Å against points in Bohr: {numbers}"
    remedy = "compute esp again with nuclei and points in one unit (R and vdw_surface are no other), or leave it out"
    return group.find("esp-nuclei", "error", bad, what, remedy, among, of_esp=True)


def misplaced_nuclei(group: MoleculeGroup) -> list[Finding]:
    """Find ESPs that nearly vanish after their nuclei are moved from Å to Bohr, in nearly all molecules tried."""
    size = group.molecules["nuclei"]
    tried = np.isfinite(size).all(axis=1)
    bad = tried & (size.min(axis=1) < _NUCLEI_MOVED)
    if tried.sum() < FEWEST_ALL_AGREE or bad.sum() < 0.8 * tried.sum():
        return []
    numbers = (
        f"with its nuclei in Bohr it is {median(size[bad].min(axis=1)):.1%} as large in {bad.sum()} of {tried.sum()} "
        "molecules"
    )
    return [nuclei_in_angstrom(group, bad, tried, numbers)]


def _name_candidate(name: str, group: MoleculeGroup, partly: bool) -> tuple[str, str, str]:
    """Return check, fault and remedy of a candidate; ``partly``: other molecules of the file are correct."""
    only = " (only of the molecules that need it)" if partly else ""
    if name in _WRONG_ORIGIN:
        remedy = "--grid-frame given" if name == "as stored" else _frame_remedy(group)
        return "grid-frame", _WRONG_ORIGIN[name], remedy
    factor = {"times bohr": BOHR_IN_ANGSTROM, "over bohr": 1 / BOHR_IN_ANGSTROM}[name]
    actual = LENGTH_UNITS_IN_ANGSTROM[group.units.grid_unit] * factor
    unit = next((one for one, size in LENGTH_UNITS_IN_ANGSTROM.items() if abs(size / actual - 1) < 0.01), None)
    wrong = f"vdw_surface is given as {group.units.grid_unit}, but fits as {unit or f'multiples of {actual:.4f} Å'}"
    remedy = f"multiply vdw_surface by {factor:.6f}{only}"
    return "grid-unit", wrong, remedy if partly or not unit else f"--grid-unit {unit}"


def _frame_remedy(group: MoleculeGroup) -> str:
    """Return the flag that corrects another origin: by the cubes' origins if the file keeps them, else by the data."""
    if group.file.grid_frame == "fit":
        return "leave these molecules' ESP out (n_grid 0): a shift does not put their grids into the frame of R"
    cube = group.file.has_origin and group.file.grid_frame != "cube"
    return "--grid-frame cube" if cube else "--grid-frame fit"


def _another_frame(group: MoleculeGroup) -> list[Finding]:
    """Find grids whose ESP dipole points elsewhere than D in a tenth of the polar molecules, or with other axes."""
    m = group.molecules
    polar = group.polar()
    turned = polar & (np.abs(m["cosine"]) < 0.9)
    many = polar.sum() >= FEWEST and turned.sum() >= max(_FEWEST_CORRECTED, _SHARE_CORRECTED * polar.sum())
    tried = (m["axes"] >= 0) & (m["esp"] > _NOTABLE_ESP)
    loose = _is_loose(m, tried)
    # The ESP of an ion is nearly that of its charge, whatever the frame: reason to doubt D, but not the grid.
    doubtful = _is_loose(m, tried & (np.abs(m["charge"]) < 0.5))
    axes, agree = _best_axes(group)
    if not (many or doubtful or axes is not None):
        return []
    bad, among = (turned, polar) if many else (tried & (m["axes_better"] > _OTHER_AXES) | agree, tried)
    fit = f"residual of the ESP fit {median(m['residual'][bad]):.1%}"
    if many:
        fit = f"the dipole of the ESP points elsewhere than D in {turned.sum()} of {polar.sum()} molecules; {fit}"
    if axes is not None:
        what = f"{fit}; with the grid's axes as ({axes}) it is {median(m['axes_residual'][agree]):.1%}"
        remedy = f"give vdw_surface as ({axes}) of what it is now"
        return [group.find("grid-frame", "error", bad, what, remedy, among, of_esp=True)]
    if many and tried.sum() >= _FEWEST_CORRECTED and not loose:
        what = f"{fit}, less than with other axes: R and the grid agree, D does not"
        remedy = "give Dxyz in the frame of R (a program's standard orientation?), in the same order of rows"
        if np.median(np.abs(m["charge"][bad])) > 0.5:
            remedy += "; of ions about the centre of mass"
        return [group.find("dipole-frame", "error", bad, what, remedy, among)]
    what = f"{fit}, no less than with other axes; neither another unit nor a shift corrects it"
    remedy = "give vdw_surface, esp, R and Dxyz in one frame, rows in one order (rotated, or rows of other molecules?)"
    if group.file.has_origin and group.file.grid_frame == "given":
        remedy = _frame_remedy(group)
    return [group.find("grid-frame", "error", bad, what, remedy, among, of_esp=True)]


def _is_loose(molecules: np.ndarray, tried: np.ndarray) -> bool:
    """Return whether other axes often fit better: in correct frames 0 to 25 % of molecules do, in wrong 50 to 100 %."""
    other = tried & (molecules["axes_better"] > _OTHER_AXES)
    return bool(tried.sum() >= 6 and other.sum() >= 0.4 * tried.sum())


def _best_axes(group: MoleculeGroup) -> tuple[str | None, np.ndarray]:
    """Find the exchange of axes that halves the residual of six in ten of the molecules tried; return these too."""
    m = group.molecules
    tried = m["axes"] >= 0
    if not tried.any():
        return None, tried
    axes = int(np.bincount(m["axes"][tried].astype(np.int64)).argmax())
    agree = tried & (m["axes"] == axes) & (m["axes_residual"] < 0.5 * m["residual"])
    known = agree.sum() >= max(_FEWEST_CORRECTED, 0.6 * tried.sum())
    return (_name_axes(AXES[axes]) if known else None), agree & known


def _name_axes(turn: np.ndarray) -> str:
    names = []
    for row in turn:
        axis = int(np.abs(row).argmax())
        names.append(("-" if row[axis] < 0 else "") + "xyz"[axis])
    return ", ".join(names)


def points_inside_atoms(group: MoleculeGroup) -> list[Finding]:
    """Find grid points within 0.55 van der Waals radii of a nucleus, where the ESP is that of the nucleus."""
    inside = group.molecules["inside"]
    bad = inside > 0
    if not bad.any():
        return []
    what = (
        f"{np.nanmean(inside):.2%} of the grid points, in {bad.sum()} of {np.isfinite(inside).sum()} molecules, are "
        "within 0.55 van der Waals radii of an atom"
    )
    remedy = "train with --esp-radius-factor 1 or more (the default is 1) or --esp-min-distance, or remove the points"
    return [group.find("grid-inside-atom", "warning", bad, what, remedy, of_esp=True)]


def values_cut_off(group: MoleculeGroup) -> list[Finding]:
    """Find a greatest |ESP| that half of the molecules share: points beyond it were left out.

    In sets of 8 to 400 molecules with all their points, at most 4 in 10 are within 2 % of the greatest one; in sets
    cut at 10 or 20 kcal/mol/e, more than half.
    """
    m = group.molecules
    known = (m["n_grid"] > 0) & (m["largest_esp"] > 0)
    if known.sum() < FEWEST:
        return []
    largest = float(m["largest_esp"][known].max())
    bad = known & (m["largest_esp"] > 0.98 * largest)
    # Nearly equal frames have nearly equal greatest values.
    differ = np.ptp(m["lengths"][bad], axis=0).max() > _OTHER_GEOMETRY
    if bad.sum() < 0.5 * known.sum() or not differ:
        return []
    what = (
        f"|esp| ends at {largest:.4g} Hartree/e ({largest * HARTREE_IN_KCAL_PER_MOL:.3g} kcal/mol/e), which "
        f"{bad.sum()} of {known.sum()} molecules reach: points with larger values seem to be left out, and errors look "
        "smaller than they are"
    )
    remedy = "give all points; training leaves out those near the nuclei by their distance (--esp-radius-factor)"
    return [group.find("esp-cut", "warning", bad, what, remedy, known, of_esp=True)]


def points_nowhere(group: MoleculeGroup) -> list[Finding]:
    """Find grid points that the file counts although they are padding."""
    nowhere = group.molecules["nowhere"]
    bad = nowhere > 0
    if not bad.any():
        return []
    what = (
        f"{nowhere.mean():.1%} of the points that n_grid or espMask count, in {bad.sum()} of "
        f"{len(nowhere)} molecules, are no points of a grid (the same one again and again, or farther than "
        f"{FAR_ANGSTROM:g} Å from every atom)"
    )
    remedy = "they are padding: count the real points in n_grid, or leave n_grid out of the file: then it is recognised"
    return [group.find("grid-padding", "error", bad, what, remedy, of_esp=True)]


def esp_of_nothing(group: MoleculeGroup) -> list[Finding]:
    """Find ESPs that no multipoles on the atoms explain: those of other molecules, of other points, or of none.

    In an ESP file without geometries, whose rows are paired by number alone, a tenth of such molecules is enough.
    """
    residual = group.molecules["residual"]
    known = (residual < TOO_FEW_POINTS) & (group.molecules["esp"] > _NOTABLE_ESP) & (group.molecules["n_atoms"] > 1)
    bad = known & (residual > GOOD_FIT)
    share = _SHARE_CORRECTED if group.file.paired_by_row else 0.5
    if known.sum() < FEWEST_ALL_AGREE or bad.sum() <= share * known.sum():
        return []
    what = (
        f"the ESP of {bad.sum()} of {known.sum()} molecules is not that of the atoms in the same row (multipoles leave "
        f"{median(residual[bad]):.0%} of it unexplained)"
    )
    if group.file.paired_by_row:
        what += "; the file has no R and Z of its own, so rows are paired by their number alone"
    remedy = "give esp in the order of its points, and both files with the same molecules in the same order"
    return [group.find("esp-fit", "error", bad, what, remedy, known, of_esp=True)]

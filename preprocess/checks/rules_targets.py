"""Rules about energies and forces: frames, outliers, values that are constant or zero."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import Evidence, Finding, Severity
from preprocess.checks.molecule_groups import FEWEST, MoleculeGroup
from preprocess.checks.rules_resolution import stored_resolution
from preprocess.checks.rules_target_units import energy_and_force_units, normalised_energies

_FEWEST_TURNED = 4
_DEVIATIONS = 25.0
_TIMES_TENTH = 10.0
_LARGEST_LEFT = 3.0
"""eV per atom beyond a sum over the atoms, median over molecules: right data stay below 0.5."""
_FEWEST_WITH_OUTLIERS = 40
"""An outlier is 25 robust standard deviations off and 10 times as far as nine in ten; vibrations reach 15 and 6."""


def judge_energies_and_forces(group: MoleculeGroup) -> list[Finding]:
    """Apply all rules about energies and forces."""
    trivial = zero_and_constant(group) + stored_resolution(group)
    if any(one.severity == "error" for one in trivial):
        return trivial
    frame = force_frame(group)
    units = normalised_energies(group, bool(frame)) or energy_and_force_units(group, bool(frame))
    if not any(one.check.startswith("energy") and one.severity == "error" for one in units):
        units = energies_of_other_rows(group) or units
    return trivial + frame + units + outliers(group)


def energies_of_other_rows(group: MoleculeGroup) -> list[Finding]:
    """Find energies that do not follow the composition: bonds leave less than 1 eV per atom of a sum over the atoms."""
    m = group.molecules[np.isfinite(group.molecules["energy"])]
    if not len(m):
        return []
    left = np.abs(_beyond_atoms(group.evidence, m)) / m["n_atoms"]
    if np.median(left) < _LARGEST_LEFT:
        return []
    what = (
        f"E does not follow the composition: the best sum over the atoms is {np.median(left):.3g} eV per atom off in "
        "half the molecules, where bonds make less than 1"
    )
    remedy = "give E of whole molecules in the rows of R and Z, by one method, and its unit (--energy-unit)"
    bad = np.ones(len(group.molecules), dtype=bool)
    return [group.find("energy-rows", "error", bad, what, remedy)]


def force_frame(group: MoleculeGroup) -> list[Finding]:
    """Find forces that sum to 0, as without a field, but turn the molecule: they belong to other positions."""
    m = group.molecules
    known = (m["n_atoms"] > 1) & (m["force"] > 0.1) & (m["net_force"] < 0.02)
    bad = known & (m["torque"] > 0.05)
    if bad.sum() < max(_FEWEST_TURNED, 0.1 * known.sum()):
        return []
    what = (
        f"the forces turn the molecule ({np.median(m['torque'][bad]):.0%} of the greatest possible torque) "
        f"in {bad.sum()} of {known.sum()} molecules, though their sum is 0"
    )
    remedy = "give F in the frame of R, in the same order of atoms and rows"
    return [group.find("force-frame", "error", bad, what, remedy, known)]


def zero_and_constant(group: MoleculeGroup) -> list[Finding]:
    """Find E or F exactly 0, or equal in all molecules although the geometries differ."""
    m = group.molecules
    several = m["n_atoms"] > 1
    findings = []
    for key, values, known in (("E", m["energy"], several), ("F", m["force"], m["n_atoms"] > 2)):
        zero = known & (values == 0)
        everywhere = bool(zero.sum() == known.sum() and known.sum() > 2)
        several = several & np.isfinite(values)
        differ = several.sum() >= FEWEST and np.ptp(m["lengths"][several], axis=0).max() > 1e-3
        if zero.any():
            what = f"{key} is exactly 0 in {zero.sum()} of {known.sum()} molecules"
            weight = {"E": "--energy-weight 0", "F": "--forces-weight 0"}[key]
            remedy = f"fill in {key} or train with {weight}" if everywhere else "remove these molecules or fill in"
            severity: Severity = "error" if everywhere else "warning"
            findings.append(group.find("zero-target", severity, zero, what, remedy))
        elif differ and np.ptp(values[several]) == 0:
            what = f"{key} is {values[several][0]:.6g} in all molecules, although their geometries differ"
            findings.append(group.find("constant-target", "error", several, what, f"fill in {key}", several))
    return findings


def outliers(group: MoleculeGroup) -> list[Finding]:
    """Find single molecules whose energy or greatest force is far from all others."""
    m = group.molecules
    findings = []
    unexplained = energy_beyond_composition(group.evidence, m)
    for check, key, values, unit in (
        ("outlier-energy", "E (less what its composition explains)", unexplained, "eV"),
        ("outlier-force", "the greatest force", m["force"].astype(np.float64), "eV/Å"),
    ):
        bad = _far_off(values)
        if bad.any():
            worst = values[bad][np.abs(values[bad]).argmax()]
            what = f"{key} is far off in {bad.sum()} of {len(m)} molecules, up to {worst:.4g} {unit}"
            remedy = "look at these rows (unconverged, fragments, another unit or method?) and remove what is wrong"
            findings.append(group.find(check, "warning", bad, what, remedy))
    return findings


def _far_off(values: np.ndarray) -> np.ndarray:
    """Return the mask of outliers: many robust standard deviations off, and far beyond the other nine in ten."""
    bad = np.zeros(len(values), dtype=bool)
    known = np.isfinite(values)
    if known.sum() < _FEWEST_WITH_OUTLIERS:
        return bad
    bad[known] = _far_off_known(values[known])
    return bad


def _far_off_known(values: np.ndarray) -> np.ndarray:
    deviation = np.abs(values - np.median(values))
    floor = 1e-6 * max(1.0, float(np.abs(values).max()))
    spread = max(1.4826 * float(np.median(deviation)), floor)
    usual = max(float(np.quantile(deviation, 0.9)), floor)
    return np.asarray((deviation > _DEVIATIONS * spread) & (deviation > _TIMES_TENTH * usual))


def energy_beyond_composition(evidence: Evidence, molecules: np.ndarray) -> np.ndarray:
    """Return E less a sum over the atoms (least absolute deviations), less the median of its composition, (n,) eV.

    The median is taken only over five molecules or more: it would be the outlier itself. The result is 0 if there are
    too few molecules for their elements, since the sum would then explain all.
    """
    energies = np.full(len(molecules), np.nan)
    known = np.isfinite(molecules["energy"])
    energies[known] = _beyond_composition(evidence, molecules[known])
    return energies


def _beyond_composition(evidence: Evidence, molecules: np.ndarray) -> np.ndarray:
    left = _beyond_atoms(evidence, molecules)
    for members in _by_composition(molecules).values():
        if len(members) >= 5:
            left[members] -= np.median(left[members])
    return left


def _beyond_atoms(evidence: Evidence, molecules: np.ndarray) -> np.ndarray:
    """Return E less a sum over the atoms (least absolute deviations), (n,) eV; 0 for too few molecules."""
    present, index = np.unique(molecules["composition"], return_inverse=True)
    rows = [np.bincount(np.frombuffer(evidence.compositions[one], np.uint8), minlength=256) for one in present]
    table = np.array(rows, dtype=np.float64).reshape(-1, 256)
    # A column of ones beside them: all energies may have another zero.
    counts = np.column_stack([table[:, table.any(axis=0)], np.ones(len(table))])[index.reshape(-1)]
    left = molecules["energy"].astype(np.float64)
    if len(left) < FEWEST + 3 * counts.shape[1]:
        return np.zeros(len(left))
    weight = np.ones(len(left))
    for _ in range(10):  # reweighted least squares, so that an outlier does not bend the fit
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(counts * root, molecules["energy"] * root[:, 0], rcond=None)[0]
        left = molecules["energy"] - counts @ solution
        weight = 1 / np.maximum(np.abs(left), 1e-3)
    return left


def _by_composition(molecules: np.ndarray) -> dict[int, np.ndarray]:
    """Return the indices of the molecules of each composition."""
    order = np.argsort(molecules["composition"], kind="stable")
    numbers, first = np.unique(molecules["composition"][order], return_index=True)
    parts: list[np.ndarray] = np.split(order, first[1:])
    return dict(zip(numbers.tolist(), parts, strict=False))


def energy_shift(evidence: Evidence) -> list[Finding]:
    """Find files whose energies are offset from those of the same compositions in the others.

    The largest file is the standard. The offset is a median, in units of the spread within compositions: data of other
    temperatures differ by 1 or 2, of other methods, references and units by many. It is a warning from 10 on.
    """
    m = evidence.molecules[np.isfinite(evidence.molecules["energy"])]
    findings = []
    largest = int(np.bincount(m["file"]).argmax()) if len(m) else 0
    for number, file in enumerate(evidence.files):
        if number == largest:
            continue
        own = m["file"] == number
        offset, inner = _offsets(m[own], m[~own])
        if len(offset) < FEWEST:
            continue
        shift, spread = float(np.median(offset)), 1.4826 * float(np.median(np.abs(inner)))
        agree = float((np.abs(offset - shift) < 5 * max(spread, 1e-3)).mean())
        if abs(shift) > 10 * max(spread, 1e-3) and agree > 0.5:
            what = f"{file[0]} ({file[1]}): E is {shift:+.4g} eV from that of the same compositions in the other files"
            remedy = "give the energies of all files in one unit, by one method and with one reference"
            findings.append(Finding("energy-shift", "warning", round(agree, 3), what, remedy))
    return findings


def _offsets(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E of ``own`` and of ``others`` less the median of ``others``, for compositions that both hold thrice."""
    offset, inner = [np.empty(0)], [np.empty(0)]
    of_others = _by_composition(others)
    for composition, rows in _by_composition(own).items():
        known = of_others.get(composition, rows[:0])
        if len(rows) > 2 and len(known) > 2:
            middle = np.median(others["energy"][known])
            offset.append(own["energy"][rows] - middle)
            inner.append(others["energy"][known] - middle)
    return np.concatenate(offset), np.concatenate(inner)

"""Rules about the units and signs of energies and forces: atomic energies, and the work of the forces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocess.checks.evidence import Finding
from preprocess.checks.molecule_groups import FEWEST, FEWEST_ALL_AGREE, MoleculeGroup
from preprocess.checks.physical_constants import ENERGY_UNITS, FORCE_UNITS, atomic_energy_sum
from shared import units

_NEAR_ANGSTROM = 0.1
_BEYOND_DOUBT = 1.0
_FORCE_BESIDE = {
    "ev": "ev/angstrom",
    "hartree": "hartree/bohr",
    "kcal/mol": "kcal/mol/angstrom",
    "kj/mol": "kj/mol/angstrom",
}
_NEAREST_UNIT = 0.25
"""Largest logarithm of a factor from few pairs over a unit's: the trapezoid rule errs by a tenth at 0.2 Å."""
_LARGEST_FORCE = 25.0
"""eV/Å, median over molecules: a bond breaks at some 5; geometries distorted far beyond vibrations reach 9."""
_FEWEST_TO_LOOK_NORMALISED = 32


@dataclass(frozen=True)
class Slope:
    """The ratio of the work of the forces to the energy difference, over pairs of near frames."""

    value: float  # weighted median; 1 in right data, to 3 % from 8 pairs on
    agree: float  # weighted share of the pairs within 25 % of it
    error: float  # standard error of the value
    near: float  # the same share among the pairs within 0.1 Å, NaN if there are fewer than 8
    count: int


def normalised_energies(group: MoleculeGroup, turned: bool) -> list[Finding]:
    """Find energies of mean 0 and standard deviation 1 whose slope F is not: they have no unit.

    It is a warning where no near frames give the slope. ``turned``: the forces are known to be wrong.
    """
    energy = group.molecules["energy"] / ENERGY_UNITS[group.units.energy_unit]
    known = np.isfinite(energy)
    count = int(known.sum())
    if count < FEWEST:
        return []
    mean, spread = float(energy[known].mean()), float(energy[known].std())
    slope = None if turned else measure_slope(group.pairs, FEWEST_ALL_AGREE)
    # A sample's own mean and deviation are off by 1/√n; without a slope the margin is wider.
    margin = 0.3 if slope is None else 3 / np.sqrt(count) + 0.05
    if max(abs(mean), abs(spread - 1)) > margin or (slope is None and count < _FEWEST_TO_LOOK_NORMALISED):
        return []
    what = f"E looks normalised (mean {mean:.2f}, standard deviation {spread:.2f})"
    remedy = "give the energies as they were computed, in a unit (E times their standard deviation, plus their mean)"
    if slope is None:
        what += "; no two near frames of one molecule show whether F is its slope"
        return [group.find("energy-normalised", "warning", known, what, remedy)]
    if slope.value > 0 and abs(np.log(slope.value)) < max(0.12, 4 * slope.error / abs(slope.value)):
        return []
    what += f", and F is not its slope: between near frames the work of the forces is {slope.value:.4g} times as large"
    unit = _nearest_force_unit(group, slope.value)
    if unit:
        remedy += f"; only if they are in {group.units.energy_unit} less their mean: --force-unit {unit}"
    return [group.find("energy-normalised", "error", known, what, remedy, known)]


def energy_and_force_units(group: MoleculeGroup, turned: bool) -> list[Finding]:
    """Find wrong units of E, from sums of atomic energies, and of F, from the slope of E.

    Where E is not an all-electron total (atomisation or pseudopotential energies), a unit of E or of F has to explain
    the slope alone. ``turned``: the forces are known to be wrong, so that the slope says nothing.
    """
    unit, agree, ratio = energy_unit(group)
    findings = []
    flagged = ENERGY_UNITS[group.units.energy_unit]
    if unit and unit != group.units.energy_unit:
        what = (
            f"E is given as {group.units.energy_unit}, but is {ratio:.4g} times the atoms' total energies, as in {unit}"
        )
        everyone = np.ones(len(agree), dtype=bool)
        findings.append(group.find("energy-unit", "error", agree, what, _remedy("energy", unit), everyone))
    if unit is None:
        per_atom = _energies_per_atom(group)
        if per_atom:
            return per_atom
    slope = None if turned else measure_slope(group.pairs, FEWEST_ALL_AGREE)
    if slope is None:
        return findings + _unchecked_forces(group, unit)
    if slope.count < FEWEST:
        return findings + _explain_few(group, slope, unit)
    if slope.agree < 0.5:
        return findings + (_unrelated(group, slope) if slope.near < 0.4 else [])
    force_factor = slope.value * (flagged / ENERGY_UNITS[unit] if unit else 1.0)
    if force_factor > 0 and abs(np.log(force_factor)) < max(0.12, 4 * slope.error / abs(slope.value)):
        return findings
    return findings + _explain(group, slope, force_factor, unit is not None)


def energy_unit(group: MoleculeGroup) -> tuple[str | None, np.ndarray, float]:
    """Find the unit in which E is within 6 % of the sum of its atoms' total energies, for nine in ten molecules.

    Returns:
        The unit, or None if E is no such total; the molecules that agree; the median ratio of E to the sum.
    """
    return _unit_of_totals(group, group.molecules["energy"])


def _energies_per_atom(group: MoleculeGroup) -> list[Finding]:
    """Find energies that are those of a molecule divided by its number of atoms."""
    several = group.molecules["n_atoms"] > 1
    unit, agree, _ = _unit_of_totals(group, group.molecules["energy"] * group.molecules["n_atoms"])
    if unit is None or several.sum() < 0.9 * len(several):
        return []
    what = f"E times the number of atoms is the atoms' total energy in {unit}: these are energies per atom"
    remedy = "multiply E by the number of atoms N"
    if unit != group.units.energy_unit:
        remedy += f", then: {_remedy('energy', unit)}"
    return [group.find("energy-per-atom", "error", agree, what, remedy, several)]


def _unit_of_totals(group: MoleculeGroup, energy: np.ndarray) -> tuple[str | None, np.ndarray, float]:
    m = group.molecules
    sums = np.array([atomic_energy_sum(one) for one in group.evidence.compositions])[m["composition"]]
    ratio = energy / sums
    known = np.isfinite(ratio)
    if not known.any():
        return None, known, float("nan")
    few = known.sum() < FEWEST
    median = float(np.median(ratio[known]))
    for name, size in ENERGY_UNITS.items():
        agree = known & (np.abs(ratio * size / ENERGY_UNITS[group.units.energy_unit] - 1) < (0.02 if few else 0.06))
        if agree.sum() >= (1.0 if few else 0.9) * known.sum():
            return name, agree, median
    return None, known, median


def _unchecked_forces(group: MoleculeGroup, unit: str | None) -> list[Finding]:
    """Find what is odd about F where no near frames give its unit: a unit of another system than E's, or its size."""
    force = group.units.force_unit
    energy = unit or group.units.energy_unit
    size = group.molecules["force"]
    known = np.isfinite(size) & (size > 0)
    if not known.any():
        return []
    usual = float(np.median(size[known]))
    beside = _FORCE_BESIDE.get(energy, force)
    if usual > _LARGEST_FORCE and known.sum() >= FEWEST:
        what = f"the largest force of half the molecules is more than {usual:.3g} eV/Å, which no bond withstands"
    elif force.split("/")[0] != energy.split("/")[0]:
        what = f"E is in {energy} and F is taken for {force}"
    else:
        return []
    remedy = f"name the unit of F with --force-unit (in the units of E: {beside})"
    what += "; no two near frames of one molecule show whether F is in that unit"
    return [group.find("force-unit", "warning", known, what, remedy)]


def measure_slope(pairs: np.ndarray, fewest: int = FEWEST) -> Slope | None:
    """Measure the slope: far pairs have less weight, large differences more; None if there are few pairs."""
    pairs = pairs[np.isfinite(pairs["energy"]) & np.isfinite(pairs["work"])]
    energy, work = pairs["energy"].astype(np.float64), pairs["work"].astype(np.float64)
    used = (np.abs(energy) > 1e-9) & (np.abs(work) > 0) & (pairs["apart"] > 1e-3)
    if used.sum() < fewest:
        return None
    size = np.abs(energy[used])
    weight = np.minimum(size, 5 * np.median(size)) / (1 + (pairs["apart"][used] / _NEAR_ANGSTROM) ** 2)
    ratio = work[used] / energy[used]
    order = np.argsort(ratio)
    total = np.cumsum(weight[order])
    value = float(ratio[order][np.searchsorted(total, total[-1] / 2)])
    agree = np.abs(ratio / value - 1) < 0.25
    # 1.25 times the standard error of a mean: that of a median.
    error = 1.25 * 1.4826 * float(np.median(np.abs(ratio - value))) / np.sqrt(used.sum())
    near = (pairs["apart"][used] < _NEAR_ANGSTROM) & (size > 0.2 * np.median(size))
    near_share = float(agree[near].mean()) if near.sum() >= FEWEST else float("nan")
    return Slope(value, float(weight[agree].sum() / total[-1]), error, near_share, int(used.sum()))


def _explain_few(group: MoleculeGroup, slope: Slope, unit: str | None) -> list[Finding]:
    """Find a wrong unit of F from two to seven pairs that agree, if it is far from the given one."""
    flagged = ENERGY_UNITS[group.units.energy_unit]
    factor = slope.value * (flagged / ENERGY_UNITS[unit] if unit else 1.0)
    if slope.agree < 1.0 or factor <= 0 or abs(np.log(factor)) < _BEYOND_DOUBT:
        return []
    name = _nearest_force_unit(group, factor)
    if not name:
        return []
    everyone = np.ones(len(group.molecules), dtype=bool)
    what = (
        f"F is given as {group.units.force_unit}, but fits as {name}: between near frames the work of the forces is "
        f"{slope.value:.4g} times the change of E ({slope.count} pairs, all agree)"
    )
    return [group.find("force-unit", "error", everyone, what, _remedy("force", name), everyone)]


def _nearest_force_unit(group: MoleculeGroup, factor: float) -> str:
    """Return the unit that makes F nearest to ``factor`` times smaller; empty if none is near."""
    given = FORCE_UNITS[group.units.force_unit]
    known = units.FORCE_UNITS_IN_EV_PER_ANGSTROM.items()
    distance = {name: abs(np.log(factor * size / given)) for name, size in known} if factor > 0 else {}
    name = min(distance, key=lambda one: distance[one], default="")
    return name if distance.get(name, np.inf) < _NEAREST_UNIT else ""


def _explain(group: MoleculeGroup, slope: Slope, factor: float, energy_known: bool) -> list[Finding]:
    """Find what makes F ``factor`` times the slope of E; a factor that is no unit's needs 8 very near pairs."""
    numbers = f"between near frames the work of the forces is {slope.value:.4g} times the change of E"
    names = {f"force {u}": FORCE_UNITS[group.units.force_unit] / s for u, s in FORCE_UNITS.items()}
    if not energy_known:
        names |= {f"energy {u}": s / ENERGY_UNITS[group.units.energy_unit] for u, s in ENERGY_UNITS.items()}
    names |= {"times 2": 2.0, "times 0.5": 0.5}
    names.pop(f"force {group.units.force_unit}")
    size = abs(factor)
    name = min(names, key=lambda one: abs(np.log(size / names[one])))
    known = abs(np.log(size / names[name])) < 0.08
    everyone = np.ones(len(group.molecules), dtype=bool)
    if abs(np.log(size)) < 0.12:
        check, what = "force-sign", f"F has the opposite sign: {numbers}"
        remedy = "negate F: forces are minus the gradient of E (or E, if it is a positive binding energy)"
    elif not known and not slope.near > 0.5:
        return []
    elif not known:
        check, what, remedy = "force-unit", f"{numbers}, which no unit explains", "look at the units of E and F"
    elif name.startswith("times"):
        check, what = "force-unit", f"F is {names[name]:g} times what E says: {numbers}"
        remedy = f"divide F by {names[name]:g} (or see whether E is twice or half of what it should be)"
        near = [unit for unit, one in names.items() if unit.startswith("force") and abs(np.log(size / one)) < 0.12]
        if near:
            remedy += f"; or F is in {near[0].split(' ', 1)[1]}, which would look nearly alike"
    else:
        kind, unit = name.split(" ", 1)
        check, given = f"{kind}-unit", getattr(group.units, f"{kind}_unit")
        what = f"{'E' if kind == 'energy' else 'F'} is given as {given}, but fits as {unit}: {numbers}"
        remedy = _remedy(kind, unit)
    if factor < 0 and check != "force-sign":
        what, remedy = f"{what}; the sign is reversed too", f"{remedy}, and negate F (minus the gradient of E)"
    found = group.find(check, "error", everyone, f"{what} ({slope.count} pairs, {slope.agree:.0%} agree)", remedy)
    return [Finding(check, "error", round(slope.agree, 3), found.what, remedy, found.rows)]


def _unrelated(group: MoleculeGroup, slope: Slope) -> list[Finding]:
    what = f"F does not explain how E changes between near frames ({slope.count} pairs, {slope.near:.0%} agree)"
    remedy = "look whether E, F and R are of the same rows, atoms and method"
    found = group.find("energy-force", "warning", np.ones(len(group.molecules), dtype=bool), what, remedy)
    return [Finding(found.check, "warning", round(1 - slope.near, 3), found.what, remedy, found.rows)]


def _remedy(kind: str, unit: str) -> str:
    flags = units.ENERGY_UNITS_IN_EV if kind == "energy" else units.FORCE_UNITS_IN_EV_PER_ANGSTROM
    if unit in flags:
        return f"--{kind}-unit {unit}"
    if kind == "energy":
        return f"convert E to eV: multiply by {ENERGY_UNITS[unit]:.8g} (and give --energy-unit ev)"
    return f"convert F to eV/Å: multiply by {FORCE_UNITS[unit]:.8g} (and give --force-unit ev/angstrom)"

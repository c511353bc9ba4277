"""Rules about stored digits: targets that were rounded, or kept in a type of few bits, are too coarse to learn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocess.checks.evidence import Finding, Severity
from preprocess.checks.molecule_groups import FEWEST, FEWEST_ALL_AGREE, MoleculeGroup, median
from preprocess.checks.physical_constants import ENERGY_UNITS
from preprocess.checks.steps import common_step
from shared import units

_COARSE_EV = 0.5e-3
_USELESS_EV = 0.1
_MOST_DECIMALS = 6
_NOISE_EV = 1e-6
"""Differences of energies below this are rounding of the conversion to eV."""


class _Coarse(NamedTuple):
    """A target other than the energy."""

    key: str
    column: str  # of MOLECULE: the step of each molecule's values
    dtype: str  # of CheckedFile
    size: str  # of MOLECULE: the largest value of each molecule
    unit: str
    shown: float  # factor to the unit that is shown
    step: float  # in the project's unit: from here on it is as large as the errors of good models


_OTHERS = (
    _Coarse("F", "force_step", "force_dtype", "force", "meV/Å", 1e3, 2e-3),
    _Coarse("D", "dipole_step", "dipole_dtype", "dipole", "D", 1.0 / units.DEBYE_IN_E_ANGSTROM, 1e-3),
    _Coarse("esp", "esp_step", "esp_dtype", "largest_esp", "kcal/mol/e", units.HARTREE_IN_KCAL_PER_MOL, 5e-5),
)


def stored_resolution(group: MoleculeGroup) -> list[Finding]:
    """Find targets whose stored digits are too coarse: by their dtype, and by their values."""
    energy = _of_energies(group)
    return energy + [found for target in _OTHERS for found in _of_target(group, target)]


def _of_energies(group: MoleculeGroup) -> list[Finding]:
    """Find energies with 0.5 meV and more between neighbouring values.

    This follows from the dtype (float32 has 24 bits: 1 meV at -13,580 eV), and for float64 from the values: their
    differences are multiples of a step, whatever unit they were rounded in.
    """
    m = group.molecules
    known = np.isfinite(m["energy"]) & (m["energy"] != 0)
    if known.sum() < FEWEST_ALL_AGREE or np.ptp(m["energy"][known]) == 0:
        return []
    scale = ENERGY_UNITS[group.units.energy_unit]
    step, why = _energy_step(
        m["energy"][known] / scale, m["composition"][known], np.dtype(group.file.energy_dtype), scale
    )
    if step * scale < _COARSE_EV:
        return []
    what = f"{why}: neighbouring values of E are {1000 * step * scale:.3g} meV apart, and no model can know more"
    remedy = "write E as float64, as the program that computed it printed it (or subtract atomic energies before)"
    severity: Severity = "error" if step * scale > _USELESS_EV else "warning"
    return [group.find("energy-resolution", severity, known, what, remedy)]


def _energy_step(values: np.ndarray, kinds: np.ndarray, dtype: np.dtype, scale: float) -> tuple[float, str]:
    """Return the distance of neighbouring values as stored, and how that is known; 0 if it is not coarse.

    Args:
        values: (n,) energies in the file's unit.
        kinds: (n,) composition of each, of which a constant may have been subtracted.
        dtype: of the file.
        scale: the file's unit in eV.
    """
    largest = float(np.abs(values).max())
    if dtype.kind in "iu":
        return 1.0, f"E is stored as whole numbers ({dtype})"
    if dtype.itemsize < 8:
        own = dtype.newbyteorder("=")
        return float(np.spacing(np.array(largest, own))), f"E is stored as {own}"
    if len(values) < FEWEST:
        return 0.0, ""
    for decimals in range(_MOST_DECIMALS):
        if np.allclose(values, np.rint(values * 10**decimals) / 10**decimals, rtol=0, atol=1e-12 * largest):
            return 10.0**-decimals, f"E is rounded to {decimals} decimals"
    # Not quite equal: the values were scaled to eV and back.
    if (np.abs(values.astype(np.float32).astype(np.float64) - values) <= 4 * np.spacing(np.abs(values))).all():
        return float(np.spacing(np.float32(largest))), "E was float32 before it was stored as float64"
    parts = [values[kinds == kind] * scale for kind in np.unique(kinds)]
    differences = np.concatenate([part - part[0] for part in parts])
    if np.count_nonzero(np.abs(differences) > _NOISE_EV) < FEWEST:
        return 0.0, ""
    return common_step(differences, _NOISE_EV) / scale, "E was rounded or float32 in another unit"


def _of_target(group: MoleculeGroup, target: _Coarse) -> list[Finding]:
    m, dtype = group.molecules, np.dtype(getattr(group.file, target.dtype))
    known = np.isfinite(m[target.size]) & (m[target.size] > 0)
    if known.sum() < FEWEST:
        return []
    if dtype.kind in "iu":
        step, why = median(m[target.column][known]), f"{target.key} is stored as whole numbers ({dtype})"
    elif dtype.itemsize < 4:
        # Relative to its size: eleven bits.
        step = float(np.median(m[target.size][known])) * float(np.finfo(np.float16).eps)
        why = f"{target.key} is stored as {dtype.newbyteorder('=')}"
    else:
        steps = m[target.column][known & np.isfinite(m[target.column])]
        # Of every molecule: values of few may be multiples of a step by chance.
        step, why = float(steps.min()) if len(steps) >= FEWEST else 0.0, f"{target.key} was rounded"
    if dtype.itemsize >= 4 and not step >= target.step:
        return []
    what = f"{why}: values are {step * target.shown:.2g} {target.unit} apart, and no model can know more"
    remedy = f"write {target.key} as float32 or float64, as the program that computed it printed it"
    return [group.find(f"{target.key.lower()}-resolution", "warning", known, what, remedy, of_esp=target.key == "esp")]

"""Names of units as flags and records spell them, and what each unit is in the project's own."""

from __future__ import annotations

import re
from typing import Literal

from shared import units
from shared.errors import UserError

Kind = Literal["position", "grid", "energy", "force", "dipole", "quadrupole", "esp"]
KINDS: tuple[Kind, ...] = ("position", "grid", "energy", "force", "dipole", "quadrupole", "esp")

SCALES: dict[Kind, dict[str, float]] = {
    "position": units.LENGTH_UNITS_IN_ANGSTROM,
    "grid": units.LENGTH_UNITS_IN_ANGSTROM,
    "energy": units.ENERGY_UNITS_IN_EV,
    "force": units.FORCE_UNITS_IN_EV_PER_ANGSTROM,
    "dipole": units.DIPOLE_UNITS_IN_E_ANGSTROM,
    "quadrupole": units.QUADRUPOLE_UNITS_IN_E_ANGSTROM2,
    "esp": units.ESP_UNITS_IN_HARTREE_PER_E,
}
"""Names of the units of each kind, and their size in the project's unit of that kind."""

DOCUMENTED: dict[Kind, str] = {
    "position": "angstrom",
    "grid": "angstrom",
    "energy": "ev",
    "force": "ev/angstrom",
    "dipole": "debye",
    "quadrupole": "e-angstrom2",
    "esp": "hartree/e",
}
"""The input format's own unit of each kind."""

_WORDS = {
    **dict.fromkeys(("a", "å", "ang", "angs", "angstroms", "ångström", "ångstrom"), "angstrom"),
    **dict.fromkeys(("a0", "bohrs"), "bohr"),
    **dict.fromkeys(("ha", "eh", "hartrees", "h"), "hartree"),
    **dict.fromkeys(("electronvolt", "electronvolts"), "ev"),
    **dict.fromkeys(("v", "volts"), "volt"),
    **dict.fromkeys(("debyes", "d"), "debye"),
    **dict.fromkeys(("elementary", "electron"), "e"),
    "ea": "e angstrom",
    "eå": "e angstrom",
    "ea0": "e bohr",
    **dict.fromkeys(("a2", "å2", "ang2"), "angstrom2"),
    "a02": "bohr2",
    "a.u.": "au",
    "atomic": "au",
}
"""Spellings of one word. ``au`` means the atomic unit of its kind."""

_SAME: dict[Kind, dict[str, str]] = {
    "position": {"au": "bohr"},
    "grid": {"au": "bohr"},
    "energy": {"au": "hartree"},
    "force": {"au": "hartree/bohr"},
    "dipole": {"e/angstrom": "e-angstrom", "angstrom/e": "e-angstrom", "e/bohr": "au", "bohr/e": "au"},
    "quadrupole": {
        **dict.fromkeys(("e/angstrom2", "angstrom2/e"), "e-angstrom2"),
        **dict.fromkeys(("debye/angstrom", "angstrom/debye", "buckingham"), "debye-angstrom"),
        **dict.fromkeys(("e/bohr2", "bohr2/e"), "au"),
    },
    "esp": {"au": "hartree/e", "hartree": "hartree/e", "ev": "ev/e", "volt": "ev/e", "kcal/mol": "kcal/mol/e"},
}


def parse_unit(name: str, kind: Kind, where: str) -> str:
    """Return the unit's name in :data:`SCALES`, whatever the spelling (``eV/A``, ``ev_angstrom``, ``kcal_per_mol``).

    Args:
        name: as a flag or a record has it.
        kind: what it is a unit of.
        where: flag, or file and key, for the message.

    Raises:
        UserError: no known unit of this kind; lists those that are.
    """
    plain = re.sub(r"²|\^2|\*\*2", "2", name.strip().lower())
    words = [word for word in re.split(r"[\s_/·*\-⋅]+|\^-1", plain) if word and word != "per"]
    words = " ".join(_WORDS.get(word, word) for word in words).split()
    if words[-1:] == ["units"] or words[-1:] == ["unit"]:
        words = words[:-1]
    joined = "/".join(words)
    joined = _SAME[kind].get(joined, joined)
    if joined not in SCALES[kind]:
        known = ", ".join(SCALES[kind])
        raise UserError(f"{where}: {name!r} is no unit of {_MEANING[kind]} that is known here; known are {known}")
    return joined


_MEANING: dict[Kind, str] = {
    "position": "positions",
    "grid": "the ESP's grid",
    "energy": "energies",
    "force": "forces",
    "dipole": "dipoles",
    "quadrupole": "quadrupoles",
    "esp": "the ESP",
}

"""Names of units as files and people write them, and what they are in the project's units (Å, eV, e·Å)."""

from __future__ import annotations

from typing import Literal

from shared import units
from shared.errors import UserError

Kind = Literal["length", "energy", "force", "dipole"]

_ANGSTROM, _BOHR = ("angstrom", "ang", "a", "å"), ("bohr", "a0")
_EV, _HARTREE = ("ev",), ("hartree", "ha", "eh")
_KCAL = ("kcal/mol",)

_KNOWN: dict[Kind, dict[str, tuple[float, tuple[str, ...]]]] = {
    "length": {"angstrom": (1.0, _ANGSTROM), "bohr": (units.BOHR_IN_ANGSTROM, (*_BOHR, "au"))},
    "energy": {
        "ev": (1.0, _EV),
        "hartree": (units.HARTREE_IN_EV, (*_HARTREE, "au")),
        "kcal_mol": (units.KCAL_PER_MOL_IN_EV, _KCAL),
    },
    "force": {
        "ev_angstrom": (1.0, tuple(f"{e}/{a}" for e in _EV for a in _ANGSTROM)),
        "hartree_bohr": (
            units.FORCE_UNITS_IN_EV_PER_ANGSTROM["hartree/bohr"],
            (*(f"{e}/{a}" for e in _HARTREE for a in _BOHR), "au"),
        ),
        "kcal_mol_angstrom": (units.KCAL_PER_MOL_IN_EV, tuple(f"{e}/{a}" for e in _KCAL for a in _ANGSTROM)),
    },
    "dipole": {
        "debye": (units.DEBYE_IN_E_ANGSTROM, ("debye", "d")),
        "e_angstrom": (1.0, tuple(f"e/{a}" for a in _ANGSTROM)),
        "e_bohr": (units.E_BOHR_IN_E_ANGSTROM, (*(f"e/{a}" for a in _BOHR), "au")),
    },
}
"""Kind: name in a file's record of units -> (factor, other spellings as ``_squash`` leaves them)."""


def record_name(kind: Kind, written: str) -> str | None:
    """The name of a unit in a file's record (``ev_angstrom``), however it is written; None if it is not known."""
    squashed = _squash(written)
    return next((name for name, (_, spellings) in _KNOWN[kind].items() if squashed in spellings), None)


def factor(kind: Kind, written: str, where: str) -> float:
    """The unit in the project's own.

    Raises:
        UserError: it is not known; begins with ``where`` and lists those that are.
    """
    name = record_name(kind, written)
    if name is None:
        raise UserError(f"{where}: unknown {kind} unit {written!r}; known are {', '.join(_KNOWN[kind])}")
    return _KNOWN[kind][name][0]


def _squash(written: str) -> str:
    """Lower case, ``_per_``, ``_``, ``-``, ``*``, ``·`` and spaces as one slash: ``kcal_mol_angstrom``, ``eV / Å``."""
    text = written.strip().lower().replace("a.u.", "au").replace("_per_", "/").replace(" per ", "/")
    for sign in "_-*· ":
        text = text.replace(sign, "/")
    return "/".join(part for part in text.split("/") if part)

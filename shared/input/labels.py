"""A molecule of a user's file with its labels, and the names of the labels in such files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shared.input.total_charge import NAMES

Quantity = Literal["energy", "forces", "dipole", "quadrupole", "charge"]

RECOGNISED: dict[Quantity, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy", "E"),
    "forces": ("REF_forces", "forces", "dft_forces", "force"),
    "dipole": ("REF_dipole", "dipole", "dft_dipole", "dipole_moment", "mu"),
    "quadrupole": ("REF_quadrupole", "quadrupole", "dft_quadrupole", "quadrupole_moment"),
    "charge": NAMES,
}
"""Names of the quantities in files of MACE, NequIP, schnetpack and ASE; the first one that a frame holds is taken."""

_WORDS: dict[Quantity, frozenset[str]] = {
    "energy": frozenset(("energy", "energies", "e")),
    "forces": frozenset(("force", "forces", "f")),
    "dipole": frozenset(("dipole", "dipoles")),
}
_BESIDE = frozenset(
    {"ref", "reference", "dft", "scf", "qm", "total", "tot", "potential", "label", "true", "target", "moment"}
    | {"ev", "hartree", "ha", "kcal", "kj", "mol", "ang", "angstrom", "bohr", "debye", "au", "a", "per"}
)
"""Words that a name of a quantity may have beside its own."""


def looks_like(quantity: Quantity, name: str) -> bool:
    """Return whether a name that is not recognised says this quantity in other words: Energy, energy_ev, totEnergy."""
    words = {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    own = _WORDS.get(quantity, frozenset())
    return bool(words & own) and words <= own | _BESIDE


@dataclass(frozen=True)
class FrameKeys:
    """Names of the quantities in files that ASE reads; an empty one is recognised (``RECOGNISED``)."""

    energy: str = ""
    forces: str = ""
    dipole: str = ""
    quadrupole: str = ""
    charge: str = ""


@dataclass(frozen=True)
class LabelledMolecule:
    """A molecule of N atoms with labels, in its file's units until :func:`shared.input.labelled.read_labelled`."""

    where: str  # file and frame, for messages
    numbers: np.ndarray  # (N,) int64
    positions: np.ndarray  # (N, 3) float64
    energy: float = np.nan  # NaN where the file has none
    forces: np.ndarray | None = None  # (N, 3)
    dipole: np.ndarray | None = None  # (3,)
    quadrupole: np.ndarray | None = None  # (3, 3), or second moments (there, made traceless), about the centre of mass
    charge: float = 0.0  # total, e
    masses: np.ndarray | None = None  # (N,) u, where the file states them
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)  # other numbers and texts of this molecule in the file


@dataclass
class Summary:
    """What was understood of a file, complete after it has been read to its end."""

    keys: dict[str, str] = field(default_factory=dict)  # quantity -> name that was taken
    also: dict[str, list[str]] = field(default_factory=dict)  # quantity -> other recognised names, not taken
    units: dict[str, str] = field(default_factory=dict)  # record: array name -> unit
    units_from: str = ""  # source of the units
    frames: int = 0
    lacking: dict[str, int] = field(default_factory=dict)  # quantity -> frames without it
    alike: dict[Quantity, list[str]] = field(default_factory=dict)  # quantity that no frame has -> names that may be it
    notes: list[str] = field(default_factory=list)  # one line each, for the user

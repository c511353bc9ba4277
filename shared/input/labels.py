"""A molecule of a user's file with its labels, and the names of the labels in such files."""

from __future__ import annotations

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
    notes: list[str] = field(default_factory=list)  # one line each, for the user

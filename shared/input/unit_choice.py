"""Choice of the units that a file is read with: the flag, else the file's record, else the documented unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from shared import units
from shared.errors import UserError
from shared.input.layout import ALIASES, Layout, Quantity
from shared.input.records import MANIFEST_NAME, RECORD_KEY, UnitRecord, read_record
from shared.input.unit_names import DOCUMENTED, KINDS, SCALES, Kind, parse_unit

AUTO = "auto"
"""Value of a flag for the file's record, else the documented unit."""


def check_unit_flag(name: str, kind: Kind) -> str:
    """Return a setting as it is, if it names a unit of this kind or :data:`AUTO`.

    Raises:
        ValueError: it does not; lists the known ones.
    """
    if name != AUTO:
        try:
            parse_unit(name, kind, "")
        except UserError as error:
            raise ValueError(str(error).removeprefix(": ")) from error
    return name


_QUANTITY: dict[Kind, Quantity] = {
    "position": "positions",
    "grid": "grid",
    "energy": "energy",
    "force": "forces",
    "dipole": "dipole",
    "quadrupole": "quadrupole",
    "esp": "esp",
}


@dataclass(frozen=True)
class InputUnits:
    """Units of a file, or of a pair of files, by their names in :data:`shared.input.unit_names.SCALES`."""

    grid_unit: str = DOCUMENTED["grid"]
    energy_unit: str = DOCUMENTED["energy"]
    force_unit: str = DOCUMENTED["force"]
    dipole_unit: str = DOCUMENTED["dipole"]
    quadrupole_unit: str = DOCUMENTED["quadrupole"]
    position_unit: str = DOCUMENTED["position"]
    esp_unit: str = DOCUMENTED["esp"]

    def scale(self, kind: Kind) -> float:
        """Return the size of the unit in the project's own."""
        return SCALES[kind][asdict(self)[f"{kind}_unit"]]

    @property
    def grid_in_angstrom(self) -> float:
        """Return the size of the grid's unit in Å."""
        return units.LENGTH_UNITS_IN_ANGSTROM[self.grid_unit]


@dataclass(frozen=True)
class ChosenUnits:
    """Units, and the origin of each, in words."""

    units: InputUnits
    reasons: dict[Kind, str]


def choose_units(efd: Layout, esp: Layout | None, flags: Mapping[Kind, str]) -> ChosenUnits:
    """Choose the unit of each kind for a pair of files (one file: give it twice, or None).

    Args:
        efd: file of energies and geometries.
        esp: file of the ESP.
        flags: unit by kind, :data:`AUTO` where none was given.

    Raises:
        UserError: an unknown unit in a flag, or in the record of a member whose unit no flag gives.
    """
    names: dict[str, str] = {}
    reasons: dict[Kind, str] = {}
    records: dict[str, UnitRecord] = {}
    for kind in KINDS:
        role, layout = ("esp", esp) if kind in ("grid", "esp") else ("efd", efd)
        flag = flags.get(kind, AUTO)
        if flag != AUTO:
            names[f"{kind}_unit"], reasons[kind] = parse_unit(flag, kind, f"--{kind}-unit {flag}"), "settings"
            continue
        if role not in records:
            records[role] = read_record(layout.file) if layout else UnitRecord({}, "")
        recorded = _recorded(kind, layout, records[role])
        if recorded is None:
            names[f"{kind}_unit"], reasons[kind] = _default(kind, layout), "default"
        else:
            where = "record" if RECORD_KEY in records[role].where else MANIFEST_NAME
            names[f"{kind}_unit"], reasons[kind] = recorded, where
    _say_overridden(efd, esp, flags, names, reasons)
    return ChosenUnits(InputUnits(**names), reasons)


def _say_overridden(
    efd: Layout, esp: Layout | None, flags: Mapping[Kind, str], names: Mapping[str, str], reasons: dict[Kind, str]
) -> None:
    """Add to the reasons where a setting overrides a record, or one that cannot be read."""
    for kind in KINDS:
        layout = esp if kind in ("grid", "esp") else efd
        if flags.get(kind, AUTO) == AUTO or layout is None:
            continue
        try:
            recorded = _recorded(kind, layout, read_record(layout.file))
        except UserError:
            reasons[kind] = "settings (the record cannot be read)"
            continue
        if recorded not in (None, names[f"{kind}_unit"]):
            reasons[kind] = f"settings (the record says {recorded})"


def _default(kind: Kind, layout: Layout | None) -> str:
    # PySCF's quad_moment is in Debye·Å, and files that keep quadrupoles as Q have them from it.
    of_pyscf = (
        kind == "quadrupole" and layout is not None and "quadrupole" in layout and layout.key("quadrupole") == "Q"
    )
    return "debye-angstrom" if of_pyscf else DOCUMENTED[kind]


def _recorded(kind: Kind, layout: Layout | None, record: UnitRecord) -> str | None:
    quantity = _QUANTITY[kind]
    if layout is None or quantity not in layout:
        return None
    key = layout.key(quantity)
    # Another member called Q is the total charge.
    name = record.unit(key) if quantity == "quadrupole" else record.unit(key, *ALIASES[quantity])
    return None if name is None else parse_unit(name, kind, f"{record.where}, {key!r}")

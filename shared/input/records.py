"""Records of the units of a file: a member ``_mmml_units`` in it, or ``units_manifest.json`` beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.input.npz import NpzFile
from shared.input.npz_rows import NpzRows

RECORD_KEY = "_mmml_units"
MANIFEST_NAME = "units_manifest.json"


@dataclass(frozen=True)
class UnitRecord:
    """Units by member, and the place of the record."""

    units: dict[str, str]
    where: str

    def unit(self, *keys: str) -> str | None:
        """Return the unit of the first of these members that the record names."""
        return next((self.units[key] for key in keys if key in self.units), None)


def read_record(file: NpzFile) -> UnitRecord:
    """Read a file's record, inside it or else beside it; empty if there is none.

    Raises:
        UserError: the record is not JSON of member -> unit.
    """
    if RECORD_KEY in file:
        where = f"{file.shown}: {RECORD_KEY!r}"
        if not file.is_plain(RECORD_KEY) or file.dtype(RECORD_KEY).kind not in "US":
            raise UserError(f"{where} is not text; save it as numpy.str_(json.dumps(...)), or give the units by flags")
        return UnitRecord(_units_in(_parse(_text(file), where), where), where)
    path = Path(file.shown).parent / MANIFEST_NAME
    if not path.is_file():
        path = file.path.parent / MANIFEST_NAME
    if not path.is_file():
        return UnitRecord({}, "")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text ({error}); write it again, or move it away") from error
    return UnitRecord(_units_in(_of_file(_parse(text, str(path)), Path(file.shown)), str(path)), str(path))


def _text(file: NpzFile) -> str:
    rows = NpzRows(file)
    try:
        value = rows.read(RECORD_KEY, 0, 1)[0].reshape(-1)[0]
    finally:
        rows.close()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON ({error}); correct it, or move it away and give the units by flags"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: holds no table of member -> unit; correct it, or move it away and give units by flags"
        )
    return content


def _of_file(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Pick the part of a manifest about this file: it may be one table, or one for each file or kind."""
    for inner in ("files", "units"):
        if isinstance(content.get(inner), dict):
            content = _of_file(content[inner], path)
    for name in (path.name, path.stem):
        if isinstance(content.get(name), dict):
            return _of_file(content[name], path)
    return content


def _units_in(content: dict[str, Any], where: str) -> dict[str, str]:
    """Return member -> unit; an entry may be a text or a table with the text under ``unit``."""
    units: dict[str, str] = {}
    for key, value in content.items():
        unit = value.get("unit", value.get("units")) if isinstance(value, dict) else value
        if isinstance(unit, str):
            units[key] = unit
    return units

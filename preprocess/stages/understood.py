"""What was understood of the users' files, as a table to print and as records for the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.input.conversions import converted_from
from preprocess.input.grid_points import FAR_ANGSTROM, SENTINEL, PointCounts, total
from preprocess.input.pairs import PairFiles, Reading
from preprocess.input.survey import merged
from preprocess.stages.first_pass import PairSurvey, Prepared
from shared.input.layout import Layout, Quantity
from shared.input.unit_names import Kind
from shared.schema import SPLITS

_UNIT_OF: dict[Quantity, Kind] = {
    "positions": "position",
    "energy": "energy",
    "forces": "force",
    "dipole": "dipole",
    "quadrupole": "quadrupole",
    "grid": "grid",
    "esp": "esp",
}
_SHOWN: tuple[Quantity, ...] = (
    *("positions", "atomic_numbers", "n_atoms", "energy", "forces", "dipole", "quadrupole", "total_charge"),
)
_SHOWN_ESP: tuple[Quantity, ...] = ("grid", "esp", "n_grid", "esp_mask", "grid_origin")
_ABSENT = {
    "n_atoms": "counted from Z",
    "forces": "not in the file",
    "dipole": "not in the file",
    "total_charge": "0",
}
_MOST_NAMED = 4
_MOST_FILES = 3


@dataclass(frozen=True)
class Understood:
    """What was understood of one pair: the member taken for each quantity, and what it holds."""

    role: str
    efd: str
    esp: str
    rows: int
    esp_rows: int
    quantities: dict[str, dict[str, str]]
    """Quantity -> key, unit, and where the unit comes from."""

    esp_quantities: dict[str, dict[str, str]]
    left_alone: dict[str, dict[str, str]]
    """File -> member -> why."""

    splits: dict[str, int] = field(default_factory=dict)
    how_divided: str = ""
    points: dict[str, int] | None = None
    """Fields of :class:`preprocess.input.grid_points.PointCounts`; None before the grids are read."""

    unmatched: int = 0
    """Rows of the ESP file that belong to no frame."""

    frame: dict[str, Any] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)
    """Quantity -> frames without it."""

    remarks: list[str] = field(default_factory=list)
    """Remarks of the conversion, one line each."""


def understand(prepared: Prepared, points: Sequence[PointCounts]) -> list[Understood]:
    """Return what is known after both passes."""
    found = []
    for file, reading, survey, counts in zip(prepared.files, prepared.readings, prepared.surveys, points, strict=True):
        found.append(_understand(file, reading, survey, counts))
    return found


def understand_headers(files: Sequence[PairFiles], readings: Sequence[Reading]) -> list[Understood]:
    """Return what is known from the headers alone."""
    return [_understand(file, reading, None, None) for file, reading in zip(files, readings, strict=True)]


def _understand(file: PairFiles, reading: Reading, survey: PairSurvey | None, points: PointCounts | None) -> Understood:
    esp = file.esp
    left_alone = {file.efd.file.shown: file.efd.left_alone}
    if esp is not None and not file.is_one_file:
        left_alone[esp.file.shown] = esp.left_alone
    elif esp is not None:
        used = {column.key for layout in (file.efd, esp) for column in layout.columns.values()}
        both = file.efd.left_alone | esp.left_alone
        left_alone[file.efd.file.shown] = {key: why for key, why in both.items() if key not in used}
    source = converted_from(file.efd)
    quantities = _quantities(file.efd, _SHOWN, reading)
    remarks = [str(note) for note in source.get("notes", [])]
    for summary in source.get("sources", []):
        for name in ("charge", "energy", "forces", "dipole"):
            shown_as = "total_charge" if name == "charge" else name
            if name not in summary["keys"]:
                quantities[shown_as] = {"key": "-", "from": _ABSENT.get(shown_as, "not in the file")}
        for name, key in summary["keys"].items():
            shown = quantities.get("total_charge" if name == "charge" else name)
            if shown is None:
                continue  # left alone: tensors that are no quadrupoles
            shown["key"] = key
            if shown.get("from") == "record":
                shown["from"] = summary["units_from"]
        remarks += [f"{name} is {summary['keys'][name]!r}, not {', '.join(o)}" for name, o in summary["also"].items()]
        remarks += summary["notes"]
    return Understood(
        role=file.pair.role,
        efd=file.efd.file.shown,
        esp=esp.file.shown if esp else "",
        rows=file.rows,
        esp_rows=esp.rows if esp else 0,
        quantities=quantities,
        remarks=remarks,
        unmatched=_unmatched(esp, survey),
        lacking=merged(survey.splits.values()).lacking if survey else {},
        esp_quantities=_quantities(esp, _SHOWN_ESP, reading) if esp else {},
        left_alone={name: members for name, members in left_alone.items() if members},
        splits={split: survey.splits[split].samples for split in SPLITS if split in survey.splits} if survey else {},
        how_divided=survey.how_divided if survey else "",
        points=points._asdict() if points and esp else None,
        frame=_frame(reading, survey) if esp else {},
    )


def _unmatched(esp: Layout | None, survey: PairSurvey | None) -> int:
    if esp is None or survey is None or survey.facts.esp_row is None:
        return 0
    return esp.rows - len(np.unique(survey.facts.esp_row[survey.facts.esp_row >= 0]))


def _quantities(layout: Layout, names: Sequence[Quantity], reading: Reading) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if name in layout:
            found[name] = {"key": layout.key(name)}
            if name in _UNIT_OF:
                kind = _UNIT_OF[name]
                unit = asdict(reading.units)[f"{kind}_unit"]
                found[name] |= {"unit": unit, "from": reading.unit_reasons[kind]}
        elif name in _ABSENT:
            found[name] = {"key": "-", "from": _ABSENT[name]}
    return found


def _frame(reading: Reading, survey: PairSurvey | None) -> dict[str, Any]:
    found: dict[str, Any] = {"grid_frame": reading.grid_frame}
    if survey is None or survey.facts.grid_shift is None or survey.uncertainty is None:
        return found
    lengths = np.linalg.norm(survey.facts.grid_shift, axis=1)
    uncertain = np.flatnonzero(np.isnan(lengths))
    certain = np.isfinite(lengths) & (survey.uncertainty > 0)
    if certain.any():
        found |= {
            "fitted": int(certain.sum()),
            "shift_median_angstrom": float(np.median(lengths[certain])),
            "shift_max_angstrom": float(lengths[certain].max()),
            "uncertainty_median_angstrom": float(np.median(survey.uncertainty[certain])),
            "uncertainty_max_angstrom": float(survey.uncertainty[certain].max()),
        }
    found |= {"left_out": len(uncertain), "left_out_rows": [int(row) for row in uncertain]}
    return found


def as_records(understood: Sequence[Understood]) -> list[dict[str, Any]]:
    """Return JSON objects, one for each pair; files by name, so that the same files elsewhere give the same bytes."""
    records = []
    for one in understood:
        left_alone = {Path(name).name: members for name, members in one.left_alone.items()}
        names = {"efd": Path(one.efd).name, "esp": Path(one.esp).name if one.esp else "", "left_alone": left_alone}
        records.append({**asdict(one), **names, "split": one.role, "samples": one.rows})
    return records


def describe_understood(understood: Sequence[Understood]) -> str:
    """Return a table with the key of each quantity of every file, its unit and the origin of the unit."""
    lines: list[str] = []
    for alike in _alike(understood):
        for entries in _by_role(alike):
            lines += _files(entries)
        rows = [("quantity", "key", "unit", "from")]
        for quantities in (alike[0].quantities, alike[0].esp_quantities):
            rows += [(name, one["key"], one.get("unit", ""), one.get("from", "")) for name, one in quantities.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            lines.append("  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip())
        for entries in _by_role(alike):
            lines += [f"  {entries[0].role}: {note}" for note in _notes(entries)]
    return "\n".join(lines)


def _alike(understood: Sequence[Understood]) -> list[list[Understood]]:
    """Group files that were understood in the same way, in order."""
    groups: dict[str, list[Understood]] = {}
    for one in understood:
        key = repr((one.quantities, one.esp_quantities, one.esp == one.efd, one.frame.get("grid_frame")))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _by_role(understood: Sequence[Understood]) -> list[list[Understood]]:
    roles = dict.fromkeys(one.role for one in understood)
    return [[one for one in understood if one.role == role] for role in roles]


def _files(entries: Sequence[Understood]) -> list[str]:
    one = entries[0]
    frames = sum(entry.rows for entry in entries)
    efd = _named([entry.efd for entry in entries])
    apart = "the ESP in " + _named([entry.esp for entry in entries])
    esp = "no ESP" if not one.esp else "and their ESP" if one.esp == one.efd else apart
    return [f"{one.role}: {frames:,} frames in {efd}, {esp}"]


def _named(paths: Sequence[str]) -> str:
    names = [Path(path).name for path in paths]
    more = len(names) - _MOST_FILES
    return ", ".join(names[:_MOST_FILES]) + (f" and {more} more" if more > 0 else "")


def _notes(entries: Sequence[Understood]) -> list[str]:
    """Return notes on what was found in files of one role that were understood alike."""
    one, notes = entries[0], []
    if one.how_divided:
        shares = [f"{sum(entry.splits.get(split, 0) for entry in entries):,} {split}" for split in SPLITS]
        notes.append(f"divided {one.how_divided}: {', '.join(shares)}")
    known = [PointCounts(**entry.points) for entry in entries if entry.points is not None]
    if known:
        notes += _point_notes(one, total(known), sum(entry.rows for entry in entries))
    elif one.esp and not {"n_grid", "esp_mask"} & set(one.esp_quantities):
        notes.append("padding of the grids is found when they are read")
    notes += _frame_notes(entries)
    unmatched = sum(entry.unmatched for entry in entries)
    if unmatched:
        notes.append(f"warning: {unmatched:,} rows of the ESP belong to no frame, and are left out")
    for name in ("energy", "forces", "dipole", "quadrupole"):
        without, rows = sum(entry.lacking.get(name, 0) for entry in entries), sum(entry.rows for entry in entries)
        if 0 < without < rows:
            notes.append(f"{without:,} of {rows:,} frames have no {name}")
        elif without and name == "energy":
            notes.append("warning: no frame has an energy")
    notes += list(dict.fromkeys(remark for entry in entries for remark in entry.remarks))
    left: dict[str, dict[str, None]] = {}
    for entry in entries:
        for members in entry.left_alone.values():
            for key, why in members.items():
                left.setdefault(why, {})[key] = None
    if left:
        notes.append("left alone: " + "; ".join(f"{_listed(list(keys))} ({why})" for why, keys in left.items()))
    return notes


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - 2 * _MOST_NAMED
    return ", ".join(keys[: 2 * _MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _point_notes(one: Understood, counts: PointCounts, rows: int) -> list[str]:
    counters = [one.esp_quantities[name]["key"] for name in ("n_grid", "esp_mask") if name in one.esp_quantities]
    reasons = (
        (counts.sentinel, f"at {SENTINEL:.0e} or beyond"),
        (counts.nan, "not a number"),
        (counts.repeated, "the same point to the end of a row"),
        (counts.far, f"farther than {FAR_ANGSTROM:g} Å from every atom"),
        (counts.masked, "by " + " and ".join(counters)),
    )
    listed = ", ".join(f"{number:,} {why}" for number, why in reasons if number)
    notes = [f"{counts.points:,} grid points" + (f"; padding: {listed}" if listed else "; no padding")]
    if counts.inner_rows:
        notes.append(f"warning: {counts.inner_rows:,} frames have such padding among real points, which is odd")
    if counts.without_esp:
        zeros = f", {counts.zero_esp:,} of them with 0 at all points" if counts.zero_esp else ""
        notes.append(f"{counts.without_esp:,} of {rows:,} frames have no ESP{zeros}")
    return notes


def _frame_notes(entries: Sequence[Understood]) -> list[str]:
    kind, notes = entries[0].frame.get("grid_frame", "given"), []
    if kind != "given":
        notes.append(f"grids moved into the frame of R (--grid-frame {kind})")
    for entry in entries:
        frame, name = entry.frame, Path(entry.esp).name
        if frame.get("fitted"):
            notes.append(
                f"{name}: {frame['fitted']:,} grids moved by {frame['shift_median_angstrom']:.3g} Å (median; at most "
                f"{frame['shift_max_angstrom']:.3g}), uncertain by {frame['uncertainty_median_angstrom']:.2g} Å (at "
                f"most {frame['uncertainty_max_angstrom']:.2g})"
            )
        if frame.get("left_out"):
            rows = frame["left_out_rows"]
            named = ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
            notes.append(f"{name}: no shift is certain, so {len(rows):,} frames have no ESP: rows {named}")
    return notes

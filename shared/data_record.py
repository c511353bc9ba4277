"""Names of preprocessed data for messages, from the input files that they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.manifest import stage_folder_name

_FILES_NAMED = 2
_FILE_KEYS = ("efd", "esp")


def describe_data(record: Mapping[str, Any], split: str | None = None) -> str:
    """Return one line such as ``20 train, 10 valid molecules of a.npz, b.npz and 6 more files (frames-0123…)``.

    Args:
        record: "frames" (their digest) and "files" (of their manifest); without files the frames are named alone.
        split: name this split's molecules and files only.
    """
    name = stage_folder_name("frames", record["frames"])
    files = [(file, _samples(file)) for file in record.get("files", [])]
    files = [(file, counts) for file, counts in files if split is None or split in counts]
    if not files:
        return name
    totals: dict[str, int] = {}
    for _, counts in files:
        for of_split, count in counts.items():
            if split in (None, of_split):
                totals[of_split] = totals.get(of_split, 0) + count
    shown = ", ".join(f"{count:,} {of_split}" for of_split, count in totals.items())
    names = [file[key] for file, _ in files for key in _FILE_KEYS if file.get(key)]
    return f"{shown} molecules of {_some(names)} ({name})"


def _samples(file: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of molecules of a file in each split."""
    return dict(file.get("splits") or {file["split"]: file["samples"]})


def describe_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how the records of two data sets differ: in files, or in how they were preprocessed."""
    if _contents(then) != _contents(now):
        return f"trained on {describe_data(then)}, not on {describe_data(now)}"
    changed = [
        f"{name} {then['settings'].get(name)} → {value}"
        for name, value in now["settings"].items()
        if then["settings"].get(name) != value
    ]
    how = ", ".join(changed) or "buckets and reference energies were chosen anew"
    return f"trained on {describe_data(then)}, and these are the same files preprocessed in another way ({how})"


def _contents(record: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return split and content digests of the files, in order."""
    return [(entry["split"], *map(entry.get, _FILE_KEYS)) for entry in record.get("inputs", [])]


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= _FILES_NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_FILES_NAMED])} and {len(names) - _FILES_NAMED} more files"

"""How preprocessed data are named in a message: by the input files that they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.cache import stage_folder_name

_FILES_NAMED = 2
_FILE_KEYS = ("efd", "esp")


def describe_data(record: Mapping[str, Any], split: str | None = None) -> str:
    """Return one line such as ``20 train, 10 valid molecules of a.npz, b.npz and 6 more files (frames-0123…)``.

    Args:
        record: "frames" (their digest) and "files" (of their manifest); without files the frames are named alone.
        split: name this split's molecules and files only.
    """
    name = stage_folder_name("frames", record["frames"])
    files = [file for file in record.get("files", []) if split in (None, file["split"])]
    if not files:
        return name
    samples: dict[str, int] = {}
    for file in files:
        samples[file["split"]] = samples.get(file["split"], 0) + file["samples"]
    counts = ", ".join(f"{count:,} {of_split}" for of_split, count in samples.items())
    names = [file[key] for file in files for key in _FILE_KEYS if file.get(key)]
    return f"{counts} molecules of {_some(names)} ({name})"


def describe_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how two records (:attr:`shared.cache.Cache.record`) differ: in files, or in how they were preprocessed."""
    if not then.get("inputs") or then["inputs"] != now["inputs"]:
        return f"trained on {describe_data(then)}, not on {describe_data(now)}"
    changed = [
        f"{name} {then['settings'].get(name)} → {value}"
        for name, value in now["settings"].items()
        if then["settings"].get(name) != value
    ]
    how = ", ".join(changed) or "buckets and reference energies were chosen anew"
    return f"trained on {describe_data(then)}, and these are the same files preprocessed in another way ({how})"


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= _FILES_NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_FILES_NAMED])} and {len(names) - _FILES_NAMED} more files"

"""Targets that the frames of a run lack, notes on them, and a check that the ESP can be trained and compared."""

from __future__ import annotations

from collections import Counter

import numpy as np

from shared.errors import UserError
from train.config import TrainConfig
from train.data.loader import Loader

_TARGETS = {
    "energy": "an energy",
    "forces": "forces",
    "dipole": "a dipole",
    "quadrupole": "a quadrupole",
    "ESP": "an ESP",
}


def count_missing(loader: Loader) -> dict[str, int]:
    """Count the molecules of a split without ``energy``, ``forces``, ``dipole``, ``quadrupole`` and ``ESP``.

    Quadrupoles are left out where no file of the data holds any.
    """
    counts: Counter[str] = Counter()
    for shard in (shard for bucket in loader.buckets for shard in bucket.shards):
        # Forces are known of all atoms or of none, so only those of the first one are read.
        missing = {
            "energy": np.isnan(shard["energy"]),
            "forces": np.isnan(shard["forces"][:, 0, 0]),
            "dipole": np.isnan(shard["dipole"]).any(axis=1),
            **({"quadrupole": np.isnan(shard["quadrupole"]).any(axis=(1, 2))} if "quadrupole" in shard else {}),
            "ESP": shard["n_grid"] == 0,
        }
        counts.update({name: int(mask.sum()) for name, mask in missing.items()})
    return dict(counts)


def shown(missing: dict[str, int]) -> list[str]:
    """Return the counts that are not zero as text: ``120 without ESP``."""
    return [f"{count:,} without {name}" for name, count in missing.items() if count]


def describe_missing(train: Loader, valid: Loader) -> list[str]:
    """Return notes on the frames that lack a target, and on targets that no training frame has; perhaps none."""
    counts = {"train": count_missing(train), "valid": count_missing(valid)}
    parts = []
    for split, loader in (("train", train), ("valid", valid)):
        if any(counts[split].values()):
            parts.append(f"{split}: of {len(loader):,} frames {', '.join(shown(counts[split]))}")
    if not parts:
        return []
    notes = [f"note: {'; '.join(parts)}; a frame has no part in the loss and the errors of what it lacks"]
    absent = [_TARGETS[name] for name, count in counts["train"].items() if count == len(train)]
    if absent:
        notes.append(f"note: no training frame has {' or '.join(absent)}: nothing is learnt from it")
    return notes


def check_quadrupoles(train: Loader, config: TrainConfig) -> None:
    """Check that there are quadrupoles, if they are to be fitted.

    Raises:
        UserError: no training frame has one.
    """
    if config.quadrupole_weight and count_missing(train).get("quadrupole", len(train)) == len(train):
        raise UserError(
            f"--quadrupole-weight {config.quadrupole_weight:g}, but no training frame has a quadrupole; preprocess "
            "files that hold them, or leave it out"
        )


def check_esp(train: Loader, valid: Loader, config: TrainConfig) -> None:
    """Check that the ESP, if it is trained, can be compared on the validation split.

    Only the first molecules with ESP of each bucket are looked at.

    Raises:
        UserError: no validation molecule has an ESP, or none of their grid points counts.
    """
    if config.esp_weight == config.point_charge_esp_weight == 0 or not _with_esp(train):
        return
    with_esp = _with_esp(valid)
    if not with_esp:
        without = "--esp-weight 0" + (" --point-charge-esp-weight 0" if config.point_charge_esp_weight else "")
        raise UserError(
            "no validation frame has an ESP, but training frames have: put some of these into the validation split, "
            f"or train without the ESP ({without})"
        )
    for index, rows in with_esp.items():
        first = rows[: valid.batch_size]
        if valid.read_rows(index, first, len(first)).esp_mask.any():
            return
    raise UserError(
        "no ESP point of the first validation molecules counts: lower --esp-radius-factor or --esp-min-distance, or "
        "raise --esp-max-value"
    )


def _with_esp(loader: Loader) -> dict[int, np.ndarray]:
    """Yield the rows that have grid points, of each bucket that has any."""
    rows = {index: np.flatnonzero(bucket.column("n_grid")) for index, bucket in enumerate(loader.buckets)}
    return {index: own for index, own in rows.items() if len(own)}

"""Targets that the frames of a run lack, notes on them, and a check that the ESP can be trained and compared."""

from __future__ import annotations

import numpy as np

from shared.errors import UserError
from train.config import TrainConfig
from train.data.loader import Loader

_TARGETS = {"energy": "an energy", "forces": "forces", "dipole": "a dipole", "ESP": "an ESP"}


def count_missing(loader: Loader) -> dict[str, int]:
    """Count the molecules of a split without ``energy``, ``forces``, ``dipole`` and ``ESP``."""
    counts = np.zeros(len(_TARGETS), np.int64)
    for shard in (shard for bucket in loader.buckets for shard in bucket.shards):
        # Forces are known of all atoms or of none, so only those of the first one are read.
        missing = (
            np.isnan(shard["energy"]),
            np.isnan(shard["forces"][:, 0, 0]),
            np.isnan(shard["dipole"]).any(axis=1),
            shard["n_grid"] == 0,
        )
        counts += [int(mask.sum()) for mask in missing]
    return dict(zip(_TARGETS, counts.tolist(), strict=True))


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


def check_esp(train: Loader, valid: Loader, config: TrainConfig) -> None:
    """Check that the ESP, if it is trained, can be compared on the validation split.

    Only the first molecules with ESP of each bucket are looked at.

    Raises:
        UserError: no validation molecule has an ESP, or none of their grid points counts.
    """
    if config.esp_weight == 0 or not _with_esp(train):
        return
    with_esp = _with_esp(valid)
    if not with_esp:
        raise UserError(
            "no validation frame has an ESP, but training frames have: put some of these into the validation split, "
            "or train without the ESP (--esp-weight 0)"
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

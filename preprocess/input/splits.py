"""Division of the rows of files among the splits: by kind of molecule, or as a file says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.errors import UserError
from shared.input.layout import read_member
from shared.input.npz import NpzFile
from shared.schema import SPLITS

_FEWEST_WITH_TEST = 5

SPLIT_FILE_KEYS = {
    "train": ("train", "train_idx", "train_indices", "idx_train", "train_index"),
    "valid": ("valid", "val", "validation", "valid_idx", "val_idx", "valid_indices", "val_indices", "idx_val"),
    "test": ("test", "test_idx", "test_indices", "idx_test", "test_index"),
}
"""Names of the members of a split file (NPZ): rows, counted from 0 through all files of ``--data``."""


def divide_by_kind(kinds: np.ndarray, shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """Return the split (n,), int8, of every row; rows of one kind are in one split.

    Each kind, in random order, is assigned to the split that lacks most of its share of rows; a split with a share
    gets at least one kind, test only if there are five or more.

    Args:
        kinds: (n,) equal for rows that belong together.
        shares: of train, valid and test; they add up to 1.
        seed: of the order.
    """
    values, index, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(values))
    wanted = np.array(shares) * len(kinds)
    if len(values) == len(kinds):  # single frames: the numbers are exact
        ends = np.rint(np.cumsum(wanted)).astype(np.int64)
        ends = _at_least_one(ends, shares, len(values))
        of_kind = np.empty(len(values), np.int8)
        of_kind[order] = np.searchsorted(ends, np.arange(len(values)), side="right")
        return of_kind[index.reshape(-1)]
    of_kind = np.zeros(len(values), np.int8)
    lacking = wanted.copy()
    open_splits = [split for split in (0, 1, 2) if shares[split] > 0]
    # Largest first, so that a large molecule does not overfill a small split at the end.
    order = order[np.argsort(-counts[order], kind="stable")] if counts.max() > lacking[open_splits].min() else order
    empty = {split for split in open_splits if split < 2 or len(values) >= _FEWEST_WITH_TEST}
    for place, kind in enumerate(order):
        left = len(order) - place
        choices = sorted(empty) if left <= len(empty) else open_splits
        split = max(choices, key=lambda one: (lacking[one], -one))
        of_kind[kind] = split
        lacking[split] -= counts[kind]
        empty.discard(split)
    return of_kind[index.reshape(-1)]


def _at_least_one(ends: np.ndarray, shares: tuple[float, float, float], total: int) -> np.ndarray:
    """Move the ends so that training and validation have a row, and test where there are enough."""
    sizes = np.diff(np.concatenate([[0], ends]))
    for split in (1, 0, 2) if total >= _FEWEST_WITH_TEST else (1, 0):
        if shares[split] > 0 and sizes[split] == 0 and sizes.max() > 1:
            sizes[int(sizes.argmax())] -= 1
            sizes[split] += 1
    assert sizes.sum() == total
    return np.cumsum(sizes)


def read_split_file(path: Path, total: int) -> np.ndarray:
    """Read which rows belong to which split.

    Args:
        path: NPZ file with ``train``, ``valid`` and perhaps ``test`` (see SPLIT_FILE_KEYS).
        total: rows of all files together.

    Returns:
        (total,) int8, index into SPLITS; -1 for rows that it does not name.

    Raises:
        UserError: members are missing, no integers, out of range, or in two splits.
    """
    file = NpzFile(path)
    assigned = np.full(total, -1, np.int8)
    for number, split in enumerate(SPLITS):
        present = [key for key in SPLIT_FILE_KEYS[split] if key in file]
        if not present and split == "test":
            continue
        key = file.require(*(present or SPLIT_FILE_KEYS[split]))
        file.check(key, (None,), "int")
        rows = read_member(file, key).reshape(-1).astype(np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= total):
            bad = rows[(rows < 0) | (rows >= total)][0]
            raise UserError(f"{path}: {key!r} names row {bad}, but the files hold {total} rows (0 to {total - 1})")
        twice = rows[assigned[rows] >= 0]
        if len(twice):
            other = SPLITS[assigned[twice[0]]]
            raise UserError(f"{path}: row {twice[0]} is in {key!r} and in {other}; a row belongs to one split")
        assigned[rows] = number
    return assigned


def split_table(assigned: Sequence[np.ndarray]) -> bytes:
    """Return an NPZ file with the rows of each split, which ``--split-file`` reads back.

    Args:
        assigned: of each file (n,) int8, index into SPLITS; -1 in none.
    """
    every = np.concatenate(list(assigned))
    buffer = io.BytesIO()
    train, valid, test = (np.flatnonzero(every == number) for number in range(len(SPLITS)))
    np.savez(buffer, train=train, valid=valid, test=test)
    return buffer.getvalue()

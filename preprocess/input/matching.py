"""Matching, by geometry, of the rows of an ESP file with those of a file of energies that holds more molecules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocess.input.pairs import PairFiles, Reading
from preprocess.input.reader import PairReader, open_pair
from preprocess.input.row_order import find_rows
from preprocess.input.validate import PairingError
from shared.errors import UserError
from shared.input.npz_rows import verify_file, write_stored

_ALIKE_ROWS = 1_000_000
"""Most rows for which the order of one file is sought in the other."""

_MOST_ROWS = 2_000_000
"""Most rows whose geometries are compared in memory."""


def match_rows(files: PairFiles, reading: Reading) -> np.ndarray:
    """Find the ESP row of every row of a pair whose files hold different numbers of molecules.

    Returns:
        (n,) int64; -1 where the ESP file holds no such molecule.

    Raises:
        UserError: too many rows, or nothing matches.
    """
    assert files.esp is not None
    efd_name, esp_name = files.pair.efd_shown, files.pair.esp_shown
    if max(files.rows, files.esp.rows) > _MOST_ROWS:
        raise UserError(
            f"{esp_name}: {files.esp.rows} molecules, but {efd_name} has {files.rows}; so many are not matched by "
            "geometry: give both files the same molecules in the same order"
        )
    # Rows taken singly give no checksum of the whole member later.
    verify_file(files.esp.file.path)
    reader = PairReader(files, reading)
    try:
        charges = reader.charges()
        rows = find_rows(*reader.geometry("efd"), *reader.geometry("esp"))
    finally:
        reader.close()
    _require_one_charge(files, rows, charges)
    found = int((rows >= 0).sum())
    if not found:
        raise UserError(
            f"{esp_name}: {files.esp.rows} molecules, but {efd_name} has {files.rows}, and none has the geometry of "
            "another there; rows are paired by index or by geometry (R within 1e-3 Å, atoms in the same order)"
        )
    return rows


def _require_one_charge(files: PairFiles, rows: np.ndarray, charges: np.ndarray) -> None:
    """Refuse geometries that occur with several total charges: the ESP may belong to any of them."""
    order = np.flatnonzero(rows >= 0)[np.argsort(rows[rows >= 0], kind="stable")]
    same = (np.diff(rows[order]) == 0) & (np.diff(charges[order]) != 0)
    if same.any():
        a, b = order[int(np.argmax(same))], order[int(np.argmax(same)) + 1]
        raise UserError(
            f"{files.pair.efd_shown}: rows {a} and {b} have one geometry and the total charges {charges[a]:g} and "
            f"{charges[b]:g}; {files.pair.esp_shown} holds fewer molecules, and its ESP may be of either: give "
            "both files the same molecules in the same order"
        )


def needs_random_access(files: PairFiles, esp_row: np.ndarray | None) -> bool:
    """Return whether rows of the ESP file are wanted in another order than a compressed file is read in."""
    if esp_row is None or files.esp is None or not files.esp.file.is_sequential(files.esp.row_keys):
        return False
    return bool((np.diff(esp_row[esp_row >= 0]) <= 0).any())


def with_stored_esp(files: PairFiles, folder: Path) -> PairFiles:
    """Return the pair with an uncompressed copy of its ESP file, whose rows can be read in any order.

    Raises:
        UserError: the file is damaged.
    """
    assert files.esp is not None
    if files.is_one_file:  # its rows are their own
        return files
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{files.esp.file.content_digest}.npz"
    if not path.exists():
        write_stored(files.esp.file, [column.key for column in files.esp.columns.values()], path)
    pair = files.pair
    return PairFiles(replace(pair, esp=path, esp_source=pair.esp_shown))


def explain_pairing(error: PairingError, readings: Sequence[Reading]) -> UserError:
    """Return the error of two files whose rows differ, which says whether another order of the rows would pair them."""
    reading = next(one for one in readings if one.pair == error.pair)
    with open_pair(reading) as reader:
        if reader.files.rows > _ALIKE_ROWS:
            return error
        efd, esp = reader.geometry("efd"), reader.geometry("esp")
    order = find_rows(*efd, *esp)
    if (order < 0).any() or (find_rows(*esp, *efd) < 0).any():
        return error
    moved = int(np.flatnonzero(order != np.arange(len(order)))[0])
    assert error.pair.esp is not None
    return UserError(
        f"{error}. Both files hold the same molecules in another order (row {moved} of {error.pair.efd.name} is row "
        f"{order[moved]} of {error.pair.esp.name})"
    )

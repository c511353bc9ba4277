"""Streams of NPZ members against NumPy's own reader, in every way that a member can be stored."""

from __future__ import annotations

import io
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import UserError
from shared.input.npz import NpzFile
from shared.input.npz_rows import NpzRows, verify_file

STORED = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}
RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "float64": RNG.normal(size=(101, 7, 3)),
    "float32": RNG.normal(size=(101, 300)).astype(np.float32),
    "big-endian": RNG.normal(size=(101, 2)).astype(">f8"),
    "int8": RNG.integers(-9, 9, (101, 5)).astype(np.int8),
    "text": np.array([f"molécule {i}" for i in range(101)]),
    "fortran": np.asfortranarray(RNG.normal(size=(101, 7))),
    "no columns": np.zeros((101, 0)),
    "constant": np.zeros((101, 1000), np.float32),
}


def write(path: Path, kind: int) -> None:
    """The arrays above, compressed in one way."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for key, values in ARRAYS.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            archive.writestr(f"{key}.npy", content.getvalue())


@pytest.fixture(scope="module", params=STORED)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for each way."""
    path = tmp_path_factory.mktemp("npz") / f"{request.param}.npz"
    write(path, STORED[request.param])
    return path


@pytest.mark.parametrize("bounds", [[0, 101], [0, 1, 40, 41, 100, 101], [13, 57], list(range(102))])
def test_rows_are_those_that_numpy_reads(path: Path, bounds: list[int]) -> None:
    """In pieces of any size, from the beginning or from the middle, of every dtype; the checksums agree."""
    file = NpzFile(path)
    rows = NpzRows(file)
    pieces = []
    with np.load(path) as expected:
        for start, stop in pairwise(bounds):
            for key in ARRAYS:
                values, piece = rows.read(key, start, stop)
                np.testing.assert_array_equal(values, expected[key][start:stop], strict=True)
                pieces.append(piece)
    file.check_sums(pieces)
    rows.close()


def test_stored_rows_may_be_read_backwards(tmp_path: Path) -> None:
    """Any process may read any rows of what is not compressed."""
    write(tmp_path / "a.npz", zipfile.ZIP_STORED)
    rows = NpzRows(NpzFile(tmp_path / "a.npz"))
    for start in (90, 20, 0):
        np.testing.assert_array_equal(rows.read("float64", start, start + 5)[0], ARRAYS["float64"][start : start + 5])
    rows.close()


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    """The same for every compression; another for a changed value, a changed name, one array more."""
    digests = set()
    for name, kind in STORED.items():
        write(tmp_path / f"{name}.npz", kind)
        digests.add(NpzFile(tmp_path / f"{name}.npz").content_digest)
    assert len(digests) == 1
    changed: list[dict[str, Any]] = [
        {**ARRAYS, "int8": ARRAYS["int8"] + np.int8(1)},
        {("int9" if key == "int8" else key): values for key, values in ARRAYS.items()},
        {**ARRAYS, "more": np.zeros(3)},
    ]
    for arrays in changed:
        np.savez(tmp_path / "changed.npz", **arrays)
        digests.add(NpzFile(tmp_path / "changed.npz").content_digest)
    assert len(digests) == 1 + len(changed)


def flip(path: Path, key: str) -> None:
    """Change one byte in the middle of a member's stored bytes."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size // 2 + 60] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("key", ["float64", "float32"])
def test_altered_bytes_are_found(tmp_path: Path, kind: str, key: str) -> None:
    """While reading or by the checksums at the end, with the file and the key named."""
    write(tmp_path / "a.npz", STORED[kind])
    verify_file(tmp_path / "a.npz")
    flip(tmp_path / "a.npz", key)
    # (A block of bzip2 holds the header too, which is read first, before the key is known to be whole.)
    what = r"a\.npz: not a readable" if kind == "bzip2" else rf"a\.npz: '{key}' cannot be read"
    with pytest.raises(UserError, match=f"{what} .*copy or write it again"):
        verify_file(tmp_path / "a.npz")


def test_incomplete_pieces_are_not_judged(tmp_path: Path) -> None:
    """Rows that another run has read are missing here."""
    write(tmp_path / "a.npz", zipfile.ZIP_STORED)
    file = NpzFile(tmp_path / "a.npz")
    rows = NpzRows(file)
    file.check_sums([rows.read("float64", 0, 50)[1]])
    rows.close()


def test_large_array_in_column_order_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are scattered over the whole member: the remedy is named."""
    write(tmp_path / "a.npz", zipfile.ZIP_STORED)
    NpzFile(tmp_path / "a.npz").check("fortran", (101, 7), "float")
    monkeypatch.setattr("shared.input.npz._COLUMN_ORDER_BYTES", 1000)
    with pytest.raises(UserError, match="ascontiguousarray"):
        NpzFile(tmp_path / "a.npz").check("fortran", (101, 7), "float")


class Opened:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pickle_is_never_unpickled(tmp_path: Path, order: str) -> None:
    """However it is stored, and though its rows are asked for without a look at its dtype."""
    objects = np.full((2, 2), Opened(tmp_path / "opened"), dtype=object, order=order)  # type: ignore[call-overload]
    np.savez(tmp_path / "a.npz", pickled=objects)
    rows = NpzRows(NpzFile(tmp_path / "a.npz"))
    with pytest.raises((UserError, TypeError)):
        rows.read("pickled", 0, 2)
    rows.close()
    verify_file(tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]

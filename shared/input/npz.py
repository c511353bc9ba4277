"""The members of an NPZ file: names, shapes and checksums, without reading the data and without ever unpickling.

The rows are read by :mod:`shared.input.npz_rows`.
"""

from __future__ import annotations

import lzma
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import igzip_lib, isal_zlib

from shared.digests import settings_digest
from shared.errors import UserError
from shared.files import require_readable

# RuntimeError: a member marked as encrypted, or (NotImplementedError) as compressed in an unknown way.
DAMAGED: tuple[type[Exception], ...] = (  # type: ignore[assignment]  # isal's stub takes its error for an instance
    zipfile.BadZipFile,
    zlib.error,
    igzip_lib.IsalError,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OSError,
    RuntimeError,
)

_PARSER = threading.Lock()
"""NumPy reads headers with Python's parser, which in some versions fails in one thread where another one is in it."""

_COLUMN_ORDER_BYTES = 1 << 26
"""Largest array in Fortran order that is taken: its rows are scattered, so it has to be loaded whole."""


class Checksum(NamedTuple):
    """CRC-32 of some rows of a member, and the first row."""

    key: str
    start: int
    crc: int
    n_bytes: int


class Member(NamedTuple):
    """The header of a member, and its entry in the archive's directory."""

    info: zipfile.ZipInfo
    header: bytes
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class NpzFile:
    """The members of an NPZ file, by their headers.

    A member's header is read when it is first requested: members that are not needed are never opened.
    """

    def __init__(self, path: Path, shown: str = "") -> None:
        """Open and list the members.

        Args:
            path: of the file.
            shown: its name in messages (default: the path).

        Raises:
            UserError: no such file, a directory, an empty, truncated or foreign file.
        """
        self.path = path
        self.shown = shown or str(path)
        if not path.exists():
            raise UserError(f"{self.shown}: no such file")
        if path.is_dir():
            raise UserError(f"{self.shown}: is a directory, not an NPZ file")
        if path.is_file() and path.stat().st_size == 0:
            raise UserError(f"{self.shown}: empty file (0 bytes), not an NPZ file; copy or write it again")
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if _is_array(info.filename)]
        except DAMAGED as error:
            require_readable(path)
            raise UserError(
                f"{self.shown}: not a readable NPZ file ({error}); if it is truncated, copy or write it again"
            ) from error
        self._infos = {info.filename[: -len(".npy")]: info for info in infos}
        self._headers: dict[str, Member] = {}
        if not self._infos:
            raise UserError(
                f"{self.shown}: the archive holds no array; write it with numpy.savez(path, R=..., Z=..., N=...)"
            )

    @property
    def keys(self) -> list[str]:
        """Return the names of all members, sorted."""
        return sorted(self._infos)

    def member(self, key: str) -> Member:
        """Return the header of a member, read at the first request.

        Raises:
            UserError: the file is damaged.
        """
        if key not in self._headers:
            try:
                self._headers[key] = self._read_header(self._infos[key])
            except DAMAGED as error:
                require_readable(self.path)
                raise UserError(
                    f"{self.shown}: not a readable NPZ file ({key!r}: {error}); if it is truncated, copy or write it "
                    "again"
                ) from error
        return self._headers[key]

    def _read_header(self, info: zipfile.ZipInfo) -> Member:
        with zipfile.ZipFile(self.path) as archive:
            with archive.open(info) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                with _PARSER:
                    shape, fortran_order, dtype = read(stream)
                header_bytes = stream.tell()
            with archive.open(info) as stream:
                header = stream.read(header_bytes)
        return Member(info, header, shape, fortran_order and len(shape) > 1, dtype)

    def __contains__(self, key: str) -> bool:
        return key in self._infos

    @property
    def content_digest(self) -> str:
        """Return the digest of all members' names, sizes and CRC-32s from the archive's directory, reading no data.

        It does not depend on the compression.
        """
        contents = sorted((key, info.file_size, info.CRC) for key, info in self._infos.items())
        return settings_digest({"members": contents})

    def is_sequential(self, keys: Iterable[str]) -> bool:
        """Return whether one reader should read these members: some are compressed, or loaded whole."""
        members = [self.member(key) for key in keys if key in self]
        return any(m.info.compress_type != zipfile.ZIP_STORED or m.fortran_order for m in members)

    def require(self, *keys: str) -> str:
        """Return the first of these keys that the file holds.

        Raises:
            UserError: it holds none of them.
        """
        for key in keys:
            if key in self:
                return key
        wanted = " or ".join(repr(key) for key in keys)
        raise UserError(f"{self.shown}: key {wanted} is missing; the file holds {', '.join(self.keys)}")

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a member, from its header alone."""
        return self.member(key).shape

    def is_plain(self, key: str) -> bool:
        """Return whether a member is an array that can be read: no pickled objects, no damaged header."""
        try:
            return not self.member(key).dtype.hasobject
        except UserError:
            return False

    def dtype(self, key: str) -> np.dtype:
        """Return the dtype of a member, from its header alone."""
        return self.member(key).dtype

    def row_bytes(self, keys: Iterable[str]) -> int:
        """Return the bytes of one row of these members together."""
        return sum(self.member(key).row_bytes for key in keys if key in self)

    def check(self, key: str, shape: tuple[int | None, ...], kind: str) -> None:
        """Check a member's header.

        Args:
            key: its name.
            shape: expected shape; None matches any size. A trailing axis of length 1 is dropped where one
                more axis than expected is found ((n, 1) for (n,)).
            kind: ``"float"``, ``"int"`` or ``"text"``.

        Raises:
            UserError: missing, of another shape or of another kind.
        """
        self.require(key)
        self.refuse_objects(key, kind)
        found = self.shape(key)
        stored = found[:-1] if len(found) == len(shape) + 1 and found[-1] == 1 else found
        if len(stored) != len(shape) or any(want not in (None, have) for want, have in zip(shape, stored, strict=True)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise UserError(f"{self.shown}: {key!r} has shape {found}, expected ({wanted})")
        kinds = {"float": "fiu", "int": "iu", "text": "US"}[kind]
        if self.dtype(key).kind not in kinds:
            wanted = {"float": "numbers", "int": "integers", "text": "text"}[kind]
            raise UserError(f"{self.shown}: {key!r} has dtype {self.dtype(key)}, expected {wanted}")
        member = self.member(key)
        if member.fortran_order and member.info.file_size > _COLUMN_ORDER_BYTES:
            raise UserError(
                f"{self.shown}: {key!r} is stored in column (Fortran) order, so its rows cannot be read one after the "
                f"other; save it with numpy.ascontiguousarray"
            )

    def refuse_objects(self, key: str, kind: str) -> None:
        """Refuse a member that is a pickled object array, with the remedy for its kind.

        Raises:
            UserError: it is one.
        """
        if not self.dtype(key).hasobject:
            return
        remedy = (
            f"save it as text: numpy.savez(path, {key}=values.astype(str))"
            if kind == "text"
            else f"save it as numbers, rows of different lengths padded to one (e.g. numpy.savez(path, "
            f"{key}=numpy.asarray(padded, dtype=float)))"
        )
        raise UserError(f"{self.shown}: {key!r} is a pickled object array, which is never loaded; {remedy}")

    def check_sums(self, pieces: Iterable[Checksum]) -> None:
        """Compare members read completely, in pieces, with the archive's CRC-32s; incomplete ones pass.

        Raises:
            UserError: a member is damaged.
        """
        by_key: dict[str, list[Checksum]] = {}
        for piece in pieces:
            by_key.setdefault(piece.key, []).append(piece)
        for key, parts in by_key.items():
            member = self.member(key)
            crc, size = zlib.crc32(member.header), len(member.header)
            for part in sorted(set(parts), key=lambda piece: (piece.start, piece.n_bytes)):
                crc = isal_zlib.crc32_combine(crc, part.crc, part.n_bytes)
                size += part.n_bytes
            if size == member.info.file_size and crc != member.info.CRC:
                raise self.damaged(key, "its CRC-32 does not match")

    def damaged(self, key: str, why: object) -> UserError:
        """Return the error of a member that cannot be read."""
        return UserError(f"{self.shown}: {key!r} cannot be read ({why}); the file is damaged: copy or write it again")


def _is_array(name: str) -> bool:
    """Return whether an archive's entry is a member: macOS adds its own entries (``__MACOSX/._R.npy``)."""
    parts = name.split("/")
    return name.endswith(".npy") and "__MACOSX" not in parts and not parts[-1].startswith("._")

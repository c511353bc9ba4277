"""Reading NPZ members without ever unpickling, a few rows at a time, every failure told in one line.

A member is a sequential stream, so rows are read forwards and nothing is loaded whole; rows of a member that is stored
without compression are read from wherever they lie. Every piece's CRC-32 is kept, for the check against the archive's
directory that :func:`check_sums` does once all pieces were read, in whatever order and by whatever process.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from isal import igzip_lib, isal_zlib

from shared.digests import settings_digest
from shared.errors import UserError
from shared.files import atomic_path

# RuntimeError: a member marked as encrypted, or (NotImplementedError) as compressed in an unknown way.
_DAMAGED: tuple[type[Exception], ...] = (  # type: ignore[assignment]  # isal's stub takes its error for an instance
    zipfile.BadZipFile,
    zlib.error,
    igzip_lib.IsalError,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OSError,
    RuntimeError,
)

_LOCAL_HEADER_BYTES = 30  # of a zip archive: fixed part; two lengths at its end tell how much follows
_DEFLATED_BYTES_AT_ONCE = 1 << 18
_VERIFIED_AT_ONCE = 1 << 25
_COLUMN_ORDER_BYTES = 1 << 26
"""Largest array in Fortran order that is taken: its rows are scattered, so it has to be loaded whole."""


class Checksum(NamedTuple):
    """CRC-32 of some rows of a member, and where they begin."""

    key: str
    start: int
    crc: int
    n_bytes: int


class _Member(NamedTuple):
    info: zipfile.ZipInfo
    header: bytes
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class NpzFile:
    """One NPZ file: member shapes without reading the data, and members read as streams of rows.

    A member's header is read when the member is asked for: those that nobody needs are never opened.
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
        except _DAMAGED as error:
            raise UserError(
                f"{self.shown}: not a readable NPZ file ({error}); if it is truncated, copy or write it again"
            ) from error
        self._infos = {info.filename[: -len(".npy")]: info for info in infos}
        self._headers: dict[str, _Member] = {}
        if not self._infos:
            raise UserError(
                f"{self.shown}: the archive holds no array; write it with numpy.savez(path, R=..., Z=..., N=...)"
            )

    @property
    def keys(self) -> list[str]:
        """Names of all members, sorted."""
        return sorted(self._infos)

    def _member(self, key: str) -> _Member:
        if key not in self._headers:
            try:
                self._headers[key] = self._read_header(self._infos[key])
            except _DAMAGED as error:
                raise UserError(
                    f"{self.shown}: not a readable NPZ file ({key!r}: {error}); if it is truncated, copy or write it "
                    "again"
                ) from error
        return self._headers[key]

    def _read_header(self, info: zipfile.ZipInfo) -> _Member:
        with zipfile.ZipFile(self.path) as archive:
            with archive.open(info) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran_order, dtype = read(stream)
                header_bytes = stream.tell()
            with archive.open(info) as stream:
                header = stream.read(header_bytes)
        return _Member(info, header, shape, fortran_order and len(shape) > 1, dtype)

    def __contains__(self, key: str) -> bool:
        return key in self._infos

    @property
    def content_digest(self) -> str:
        """Digest of all members' names, sizes and CRC-32s as the archive's directory has them: nothing is read.

        It is that of the content, whatever the compression.
        """
        contents = sorted((key, info.file_size, info.CRC) for key, info in self._infos.items())
        return settings_digest({"members": contents})

    def is_sequential(self, keys: Iterable[str]) -> bool:
        """Whether one reader should read these members: some are compressed, or in Fortran order and loaded whole."""
        members = [self._member(key) for key in keys if key in self]
        return any(m.info.compress_type != zipfile.ZIP_STORED or m.fortran_order for m in members)

    def require(self, *keys: str) -> str:
        """The first of these keys that the file holds.

        Raises:
            UserError: it holds none of them.
        """
        for key in keys:
            if key in self:
                return key
        wanted = " or ".join(repr(key) for key in keys)
        raise UserError(f"{self.shown}: key {wanted} is missing; the file holds {', '.join(self.keys)}")

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a member, from its header alone."""
        return self._member(key).shape

    def is_plain(self, key: str) -> bool:
        """Return whether a member is an array that can be read: no pickled objects, no damaged header."""
        try:
            return not self._member(key).dtype.hasobject
        except UserError:
            return False

    def dtype(self, key: str) -> np.dtype:
        """Dtype of a member, from its header alone."""
        return self._member(key).dtype

    def row_bytes(self, keys: Iterable[str]) -> int:
        """Bytes of one row of these members together."""
        return sum(self._member(key).row_bytes for key in keys if key in self)

    def check(self, key: str, shape: tuple[int | None, ...], kind: str) -> None:
        """Check a member's header.

        Args:
            key: its name.
            shape: expected shape; None stands for any size. A trailing axis of length 1 is dropped where one
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
        member = self._member(key)
        if member.fortran_order and member.info.file_size > _COLUMN_ORDER_BYTES:
            raise UserError(
                f"{self.shown}: {key!r} is stored in column (Fortran) order, so its rows cannot be read one after the "
                f"other; save it with numpy.ascontiguousarray"
            )

    def refuse_objects(self, key: str, kind: str) -> None:
        """Raise if a member that is needed is a pickled object array, with the remedy for its kind.

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
            UserError: a member's bytes are not those that were written.
        """
        by_key: dict[str, list[Checksum]] = {}
        for piece in pieces:
            by_key.setdefault(piece.key, []).append(piece)
        for key, parts in by_key.items():
            member = self._member(key)
            crc, size = zlib.crc32(member.header), len(member.header)
            for part in sorted(set(parts), key=lambda piece: (piece.start, piece.n_bytes)):
                crc = isal_zlib.crc32_combine(crc, part.crc, part.n_bytes)
                size += part.n_bytes
            if size == member.info.file_size and crc != member.info.CRC:
                raise self.damaged(key, "its CRC-32 does not match")

    def damaged(self, key: str, why: object) -> UserError:
        """The error of a member that cannot be read."""
        return UserError(f"{self.shown}: {key!r} cannot be read ({why}); the file is damaged: copy or write it again")


class NpzRows:
    """Rows of the members of one open file. Used by one thread for each member at a time."""

    def __init__(self, file: NpzFile) -> None:
        self.file = file
        self._streams: dict[str, _StoredRows | _InflatedRows | _WholeArray] = {}
        self._descriptor = os.open(file.path, os.O_RDONLY)

    def read(self, key: str, start: int, stop: int) -> tuple[np.ndarray, Checksum]:
        """Rows ``start`` to ``stop`` of a member, in its shape and dtype, and their checksum.

        Raises:
            UserError: the file is damaged.
        """
        try:
            if key not in self._streams:
                self._streams[key] = self._open(key)
            rows = self._streams[key].read(start, stop)
        except _DAMAGED as error:
            raise self.file.damaged(key, error) from error
        member = self.file._member(key)
        if member.fortran_order:
            return rows, Checksum(key, 0, member.info.CRC, 0)
        return rows, Checksum(key, start, isal_zlib.crc32(_bytes_of(rows)), rows.nbytes)

    def _open(self, key: str) -> _StoredRows | _InflatedRows | _WholeArray:
        member = self.file._member(key)
        if member.fortran_order:
            return _WholeArray(self.file.path, key)
        local = os.pread(self._descriptor, _LOCAL_HEADER_BYTES, member.info.header_offset)
        name, extra = struct.unpack("<HH", local[-4:])
        data = member.info.header_offset + _LOCAL_HEADER_BYTES + name + extra
        if member.info.flag_bits & 1:
            raise RuntimeError("encrypted")
        if member.info.compress_type == zipfile.ZIP_STORED:
            return _StoredRows(self._descriptor, data + len(member.header), member)
        if member.info.compress_type == zipfile.ZIP_DEFLATED:
            return _InflatedRows(_Deflated(self._descriptor, data, member.info.compress_size), member)
        return _InflatedRows(zipfile.ZipFile(self.file.path).open(member.info), member)

    def close(self) -> None:
        """Close the file."""
        self._streams.clear()
        os.close(self._descriptor)


def write_stored(file: NpzFile, keys: Iterable[str], path: Path) -> None:
    """Write members of a file uncompressed to another one, some rows at a time; complete or not at all.

    Raises:
        UserError: the file is damaged.
    """
    with (
        contextlib.closing(NpzRows(file)) as rows,
        # Of the cache: its loss costs time alone.
        atomic_path(path, durable=False) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for key in keys:
            member = file._member(key)
            step = max(1, _VERIFIED_AT_ONCE // max(member.row_bytes, 1))
            checksums = []
            count = member.shape[0] if member.shape else 1
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                stream.write(member.header)
                for start in range(0, count, step):
                    part, checksum = rows.read(key, start, min(start + step, count))
                    stream.write(_bytes_of(part))
                    checksums.append(checksum)
            file.check_sums(checksums)


def _is_array(name: str) -> bool:
    """Whether an archive's entry is a member: macOS adds entries of its own (``__MACOSX/._R.npy``)."""
    parts = name.split("/")
    return name.endswith(".npy") and "__MACOSX" not in parts and not parts[-1].startswith("._")


def verify_file(path: Path) -> None:
    """Read a whole file and compare every member with its checksum.

    Raises:
        UserError: the file is damaged.
    """
    file = NpzFile(path)
    rows = NpzRows(file)
    try:
        for key in file.keys:
            member = file._member(key)
            if member.dtype.hasobject:
                continue
            n = member.shape[0] if member.shape else 0
            step = max(1, _VERIFIED_AT_ONCE // max(member.row_bytes, 1))
            file.check_sums([rows.read(key, i, min(i + step, n))[1] for i in range(0, n, step)])
    finally:
        rows.close()


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


class _StoredRows:
    """Rows of an uncompressed member: read from where they lie."""

    def __init__(self, descriptor: int, offset: int, member: _Member) -> None:
        self._descriptor, self._offset, self._member = descriptor, offset, member

    def read(self, start: int, stop: int) -> np.ndarray:
        member = self._member
        rows = np.empty((stop - start, *member.shape[1:]), member.dtype)
        view, position = _bytes_of(rows), self._offset + start * member.row_bytes
        while view:
            count = os.preadv(self._descriptor, [view], position)
            if count == 0:
                raise EOFError("the file ends before the array does")
            view, position = view[count:], position + count
        return rows


class _InflatedRows:
    """Rows of a compressed member: read forwards, what lies before them is skipped."""

    def __init__(self, stream: IO[bytes] | _Deflated, member: _Member) -> None:
        self._stream, self._member = stream, member
        self._row = 0
        self._fill(memoryview(bytearray(len(member.header))))

    def read(self, start: int, stop: int) -> np.ndarray:
        if start < self._row:
            raise ValueError(f"rows are read forwards, asked for {start} after {self._row}")
        skipped = (start - self._row) * self._member.row_bytes
        scratch = memoryview(bytearray(min(skipped, 1 << 20)))
        while skipped:
            count = min(skipped, len(scratch))
            self._fill(scratch[:count])
            skipped -= count
        rows = np.empty((stop - start, *self._member.shape[1:]), self._member.dtype)
        self._fill(_bytes_of(rows))
        self._row = stop
        return rows

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._stream.readinto(view)  # type: ignore[union-attr]
            if not count:
                raise EOFError("the data end before the array does")
            view = view[count:]


class _Deflated:
    """A raw deflate stream. ISA-L inflates nearly twice as fast as zlib, and leaves the interpreter free meanwhile."""

    def __init__(self, descriptor: int, offset: int, compressed_bytes: int) -> None:
        self._descriptor, self._offset, self._left = descriptor, offset, compressed_bytes
        self._inflater = isal_zlib.decompressobj(wbits=-15)
        self._pending = b""

    def readinto(self, view: memoryview) -> int:
        while not self._inflater.eof:
            if not self._pending:
                self._pending = os.pread(self._descriptor, min(_DEFLATED_BYTES_AT_ONCE, self._left), self._offset)
                self._offset += len(self._pending)
                self._left -= len(self._pending)
            last = not self._pending
            out = self._inflater.decompress(self._pending, len(view))
            self._pending = self._inflater.unconsumed_tail
            if out or last:
                view[: len(out)] = out
                return len(out)
        return 0


class _WholeArray:
    """Rows of a small array in Fortran order, loaded at once (NumPy checks its CRC-32)."""

    def __init__(self, path: Path, key: str) -> None:
        with np.load(path, allow_pickle=False) as archive:
            self._array = archive[key]

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(self._array[start:stop])

"""Rows of the members of an NPZ file, a few at a time.

A member is a sequential stream, so rows are read forwards and nothing is loaded whole; rows of a member that is stored
without compression are read in any order. The CRC-32 of every piece is kept for :meth:`NpzFile.check_sums`, which
compares them with the archive's directory once all pieces have been read, in any order and by any process.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from isal import isal_zlib

from shared.files import atomic_path, require_readable
from shared.input.npz import DAMAGED, Checksum, Member, NpzFile

_LOCAL_HEADER_BYTES = 30  # of a zip archive: the fixed part, which ends with the lengths of the two that follow
_DEFLATED_BYTES_AT_ONCE = 1 << 18
_COPIED_AT_ONCE = 1 << 25


class NpzRows:
    """Reader of rows of the members of one open file; each member is read by one thread at a time."""

    def __init__(self, file: NpzFile) -> None:
        self.file = file
        self._streams: dict[str, _StoredRows | _InflatedRows | _WholeArray] = {}
        self._descriptor = os.open(file.path, os.O_RDONLY)

    def read(self, key: str, start: int, stop: int) -> tuple[np.ndarray, Checksum]:
        """Read rows ``start`` to ``stop`` of a member, in its shape and dtype, with their checksum.

        Raises:
            UserError: the file is damaged.
        """
        try:
            if key not in self._streams:
                self._streams[key] = self._open(key)
            rows = self._streams[key].read(start, stop)
        except DAMAGED as error:
            require_readable(self.file.path)
            raise self.file.damaged(key, error) from error
        member = self.file.member(key)
        if member.fortran_order:
            return rows, Checksum(key, 0, member.info.CRC, 0)
        return rows, Checksum(key, start, isal_zlib.crc32(_bytes_of(rows)), rows.nbytes)

    def _open(self, key: str) -> _StoredRows | _InflatedRows | _WholeArray:
        member = self.file.member(key)
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
    """Copy members of a file uncompressed to another one, some rows at a time, atomically.

    Raises:
        UserError: the file is damaged.
    """
    with (
        contextlib.closing(NpzRows(file)) as rows,
        # The copy is in the cache: its loss costs only time.
        atomic_path(path, durable=False) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for key in keys:
            member = file.member(key)
            step = max(1, _COPIED_AT_ONCE // max(member.row_bytes, 1))
            checksums = []
            count = member.shape[0] if member.shape else 1
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                stream.write(member.header)
                for start in range(0, count, step):
                    part, checksum = rows.read(key, start, min(start + step, count))
                    stream.write(_bytes_of(part))
                    checksums.append(checksum)
            file.check_sums(checksums)


def verify_file(path: Path) -> None:
    """Read a whole file and compare every member with its checksum.

    Raises:
        UserError: the file is damaged.
    """
    file = NpzFile(path)
    rows = NpzRows(file)
    try:
        for key in file.keys:
            member = file.member(key)
            if member.dtype.hasobject:
                continue
            n = member.shape[0] if member.shape else 0
            step = max(1, _COPIED_AT_ONCE // max(member.row_bytes, 1))
            file.check_sums([rows.read(key, i, min(i + step, n))[1] for i in range(0, n, step)])
    finally:
        rows.close()


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


class _StoredRows:
    """Rows of an uncompressed member, read in any order."""

    def __init__(self, descriptor: int, offset: int, member: Member) -> None:
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
    """Rows of a compressed member, read forwards; rows in between are skipped."""

    def __init__(self, stream: IO[bytes] | _Deflated, member: Member) -> None:
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
    """A raw deflate stream; ISA-L inflates nearly twice as fast as zlib, and releases the interpreter's lock."""

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

"""Reading NPZ members without ever unpickling, every failure told in one line that names file and key."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from shared.errors import UserError

# RuntimeError: a member marked as encrypted, or (NotImplementedError) as compressed in an unknown way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, RuntimeError)


class NpzFile:
    """One NPZ file: member shapes without reading the data, and members read one at a time."""

    def __init__(self, path: Path) -> None:
        """Open and list the members.

        Raises:
            UserError: no such file, a directory, an empty, truncated or foreign file, a pickled member.
        """
        self.path = path
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if path.is_dir():
            raise UserError(f"{path}: is a directory, not an NPZ file")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file (0 bytes), not an NPZ file; copy or write it again")
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                self._headers = {name[: -len(".npy")]: self._header(archive, name) for name in names}
        except _DAMAGED as error:
            raise UserError(
                f"{path}: not a readable NPZ file ({error}); if it is truncated, copy or write it again"
            ) from error
        if not self._headers:
            raise UserError(f"{path}: the archive holds no array; write it with numpy.savez(path, R=..., Z=..., N=...)")

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with archive.open(name) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        if dtype.hasobject:
            key = name[: -len(".npy")]
            raise UserError(
                f"{self.path}: {key!r} is a pickled object array, which is never loaded; save it as a padded array of "
                f"numbers, e.g. numpy.savez(path, {key}=numpy.asarray(padded, dtype=float))"
            )
        return shape, dtype

    def __contains__(self, key: str) -> bool:
        return key in self._headers

    def require(self, *keys: str) -> str:
        """The first of these keys that the file holds.

        Raises:
            UserError: it holds none of them.
        """
        for key in keys:
            if key in self:
                return key
        wanted = " or ".join(repr(key) for key in keys)
        raise UserError(f"{self.path}: key {wanted} is missing; the file holds {', '.join(sorted(self._headers))}")

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a member, from its header alone."""
        return self._headers[key][0]

    def dtype(self, key: str) -> np.dtype:
        """Dtype of a member, from its header alone."""
        return self._headers[key][1]

    def read(self, key: str, shape: tuple[int | None, ...], kind: str) -> np.ndarray:
        """Read a member.

        Args:
            key: its name.
            shape: expected shape; None stands for any size. A trailing axis of length 1 is dropped where one
                more axis than expected is found ((n, 1) for (n,)).
            kind: ``"float"``, ``"int"`` or ``"text"``.

        Raises:
            UserError: missing, damaged, of another shape or of another kind.
        """
        self.require(key)
        found = self.shape(key)
        stored = found[:-1] if len(found) == len(shape) + 1 and found[-1] == 1 else found
        if len(stored) != len(shape) or any(want not in (None, have) for want, have in zip(shape, stored, strict=True)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise UserError(f"{self.path}: {key!r} has shape {found}, expected ({wanted})")
        kinds = {"float": "fiu", "int": "iu", "text": "US"}[kind]
        if self.dtype(key).kind not in kinds:
            wanted = {"float": "numbers", "int": "integers", "text": "text"}[kind]
            raise UserError(f"{self.path}: {key!r} has dtype {self.dtype(key)}, expected {wanted}")
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = archive[key]
        except _DAMAGED as error:
            raise UserError(
                f"{self.path}: {key!r} cannot be read ({error}); the file is damaged: copy or write it again"
            ) from error
        return array.reshape(stored)

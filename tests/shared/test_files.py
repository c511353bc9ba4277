"""Errors of the system name their file, and what a file system cannot do stops nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from shared.files import atomic_path, naming, write_atomically


def test_errors_name_the_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "file", b"content")
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file") as caught:
        write_atomically(tmp_path / "nowhere" / "file", b"content")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_hdf5_errors_are_those_of_the_system(tmp_path: Path, error: type[Exception]) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(tmp_path / "a.h5"):
        raise error("Can't decrement id ref count (file write failed: time = now, errno = 28, error message = '...')")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.h5"))


def test_names_of_other_files_stay(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")
    with pytest.raises(RuntimeError, match="another matter"), naming(tmp_path):
        raise RuntimeError("another matter")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_folders_that_cannot_be_synced(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on SMB and sshfs."""
    really = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"

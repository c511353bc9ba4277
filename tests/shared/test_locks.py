"""Locks: one holder, files of other users, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from shared import locks
from shared.locks import Lock, lock_folder


def test_one_holder_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Lock(tmp_path)
    assert lock.acquire()
    assert not Lock(tmp_path).acquire()
    (tmp_path / ".lock-holder").write_text("process 1 on there since noon")
    monkeypatch.setattr(locks, "_SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(locks.time, "sleep", lambda _: lines() > 2 and lock.release())
    printed: list[str] = []

    def lines() -> int:
        printed.append(capsys.readouterr().out)
        return "".join(printed).count("\n")

    with lock_folder(tmp_path):
        assert not Lock(tmp_path).acquire()
    assert Lock(tmp_path).acquire()
    assert f"{tmp_path} is in use by process 1 on there since noon; waiting for it (Ctrl-C to stop)" in printed[0]
    assert "waiting for it (0 minutes so far)" in "".join(printed)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a file that was left, too."""
    (tmp_path / ".lock").touch()

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path):
        pass
    assert capsys.readouterr().out.startswith(f"warning: {tmp_path}: no locks on this file system")


def test_files_are_as_writable_as_their_folder(tmp_path: Path) -> None:
    for mode, expected in ((0o775, 0o664), (0o755, 0o644)):
        folder = tmp_path / oct(mode)
        folder.mkdir()
        folder.chmod(mode)
        assert Lock(folder).acquire()
        assert (folder / ".lock").stat().st_mode & 0o777 == expected


def test_file_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a colleague, in a folder of the group."""
    (tmp_path / ".lock").touch()
    really = os.open

    def open_(path: Path, flags: int, *more: int) -> int:
        if flags & os.O_RDWR and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, flags, *more)

    monkeypatch.setattr(os, "open", open_)
    first = Lock(tmp_path)
    assert first.acquire()
    assert not Lock(tmp_path).acquire()
    first.release()

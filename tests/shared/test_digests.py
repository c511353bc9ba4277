"""Small files are durable and whole: nothing has its name before its bytes are on the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.digests import atomic_path, write_atomically
from shared.shards import write_shard


def write_small(path: Path) -> None:
    write_atomically(path, b"new")


def write_large(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order."""
    seen: list[str] = []
    sync, replace = os.fsync, Path.replace

    def sync_and_tell(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def replace_and_tell(self: Path, target: Path) -> Path:
        seen.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync_and_tell)
    monkeypatch.setattr(Path, "replace", replace_and_tell)
    return seen


@pytest.mark.parametrize("write", [write_small, write_large])
def test_a_durable_file_is_synced_before_it_has_its_name(
    tmp_path: Path, events: list[str], write: Callable[[Path], None]
) -> None:
    write(tmp_path / "a")
    assert events == ["file", "rename", "folder"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_durable_shard_is_synced_when_it_is_written(tmp_path: Path, events: list[str]) -> None:
    write_shard(tmp_path / "a.h5", {"energy": np.zeros(3)})
    assert events == ["file"]


@pytest.mark.parametrize("write", [write_small, write_large])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "a")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]

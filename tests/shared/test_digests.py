"""Files are durable and whole, nothing having its name before its bytes are on the disk; and edits are seen."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.digest_cache import DigestCache
from shared.digests import file_digest
from shared.files import atomic_path, write_atomically
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


@pytest.mark.parametrize("kept", ["nothing", "size", "size and time"])
def test_an_edited_file_has_another_digest(tmp_path: Path, kept: str) -> None:
    """Whatever of its stamp its owner can keep; of an unchanged file the digest is remembered, and not computed."""
    path, memory = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"before")
    cache, before = DigestCache(memory), path.stat()
    first = cache.digest(path)
    cache.save()
    assert DigestCache(memory).is_known(path, first)
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock ticks every few milliseconds
        path.write_bytes(b"after it" if kept == "nothing" else b"after!")
        if kept == "size and time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not DigestCache(memory).is_known(path, first)
    assert DigestCache(memory).digest(path) == file_digest(path) != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: b"[" * 100_000,
        lambda content: b"9" * 5000,
        lambda content: b"\xff\xfe",
        lambda content: b'{"a": 3, "content": {"b": null}}',
        lambda content: content.replace(b'"digest": "', b'"digest": "0'),
    ],
)
def test_a_damaged_memory_costs_only_time(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """And is written anew."""
    path, memory = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"content")
    cache = DigestCache(memory)
    cache.digest(path)
    cache.save()
    whole = memory.read_bytes()
    memory.write_bytes(damage(whole))
    cache = DigestCache(memory)
    assert not cache.is_known(path, file_digest(path))
    assert cache.digest(path) == file_digest(path)
    cache.save()
    assert memory.read_bytes() == whole


def test_a_memory_that_cannot_be_read_or_written_costs_only_time(tmp_path: Path) -> None:
    path, memory = tmp_path / "a", tmp_path / "digests.json"
    path.write_bytes(b"content")
    memory.mkdir()
    cache = DigestCache(memory)
    assert cache.digest(path) == file_digest(path)
    cache.save()

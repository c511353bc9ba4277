"""Compiled functions kept between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface
from jax._src.lru_cache import LRUCache

from shared import user_cache
from train.model import kept_programs
from train.step import program_cache

PROGRAM = """
import jax
from shared import user_cache
from train.step import program_cache as compilation
compilation.keep_compilations()
compiled = []
jax.monitoring.register_event_listener(lambda name, **_: compiled.append(name.rsplit("/", 1)[-1]))
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(compiled.count("cache_hits"), compiled.count("cache_misses"))
"""


def test_second_process_takes_what_the_first_compiled(tmp_path: Path) -> None:
    """Below the user's cache folder, without being asked to."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=Path(__file__).parents[2],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        counts.append([int(word) for word in done.stdout.split()])
    (first_hits, first_misses), (second_hits, second_misses) = counts
    assert first_hits == second_misses == 0
    assert second_hits == first_misses > 0
    assert list((tmp_path / "joint-physnet-dcmnet").rglob("*-cache"))


def test_the_least_recently_used_programs_go(tmp_path: Path) -> None:
    for age in range(5):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    kept_programs.remove_oldest(tmp_path, 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache", "2-cache"]
    kept_programs.remove_oldest(tmp_path / "absent", 300)


def test_a_program_killed_while_it_wrote_does_not_keep_others_from_being_kept(tmp_path: Path) -> None:
    """It leaves an entry without a time of use, at which JAX's own limit of the size stumbles."""
    folder = tmp_path / "joint-physnet-dcmnet" / "jax"
    folder.mkdir(parents=True)
    (folder / "jit_killed-0123-cache").write_bytes(b"half")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert len(list(folder.glob("*-cache"))) > 1


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(user_cache, "_noted", [])
    monkeypatch.setattr(user_cache.log, "info", said.append)
    return said


ENTRY = compilation_cache.compress_executable(b"compiled" * 100)


def open_own(folder: Path) -> CacheInterface:
    return program_cache._OwnCache(str(folder))


def open_users(folder: Path, limit: int = -1) -> CacheInterface:
    return program_cache._UsersCache(LRUCache(str(folder), max_size=limit))


@pytest.mark.parametrize(
    "open_cache", [lambda path: program_cache._OwnCache(str(path)), open_users], ids=["own", "users"]
)
@pytest.mark.parametrize("damage", [b"", ENTRY[:20], b"of something else"], ids=["empty", "half", "other"])
def test_a_damaged_program_is_a_miss_and_heals(
    tmp_path: Path, notes: list[str], open_cache: Callable[[Path], CacheInterface], damage: bytes
) -> None:
    """In this project's folder and in the user's, over which JAX itself never writes."""
    cache = open_cache(tmp_path)
    assert cache.get("jit_x-1") is None
    cache.put("jit_x-1", ENTRY)
    assert open_cache(tmp_path).get("jit_x-1") == ENTRY
    (tmp_path / "jit_x-1-cache").write_bytes(damage)
    cache = open_cache(tmp_path)
    assert cache.get("jit_x-1") is None
    cache.put("jit_x-1", ENTRY)
    assert open_cache(tmp_path).get("jit_x-1") == ENTRY
    assert not notes


def test_a_flipped_bit_is_a_miss(tmp_path: Path) -> None:
    """Which a compression may not notice: of zstandard, that of Python 3.14."""
    cache = program_cache._OwnCache(str(tmp_path))
    cache.put("jit_x-1", ENTRY)
    path = tmp_path / "jit_x-1-cache"
    for place in (0, 20, -1):
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        path.write_bytes(content)
        assert cache.get("jit_x-1") is None
        cache.put("jit_x-1", ENTRY)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "file").touch()
    cache = program_cache._OwnCache(str(tmp_path / "file" / "jax"))
    for name in ("jit_x-1", "jit_x-2"):
        assert cache.get(name) is None
        cache.put(name, ENTRY)
    (line,) = notes
    assert str(tmp_path / "file") in line


def test_the_users_limit_holds_beside_programs_without_times(tmp_path: Path, notes: list[str]) -> None:
    """Where JAX itself keeps nothing any more. Without warnings, which are errors here."""
    (tmp_path / "jit_other-1-cache").write_bytes(bytes(100))
    os.utime(tmp_path / "jit_other-1-cache", (1, 1))
    cache = open_users(tmp_path, limit=100 + len(ENTRY))
    cache.put("jit_x-1", ENTRY)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["jit_other-1-cache", "jit_x-1-cache"]
    cache.put("jit_x-2", ENTRY)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["jit_x-1-cache", "jit_x-2-cache"]
    open_users(tmp_path, limit=10).put("jit_x-3", ENTRY)
    assert not (tmp_path / "jit_x-3-cache").exists()
    assert not notes


def test_whatever_else_fails_in_the_users_folder_is_one_line(
    tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the user is not listed: JAX asks for the names of owners."""
    cache = open_users(tmp_path, limit=1 << 20)

    def fail(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(LRUCache, "_evict_if_needed", lambda self, additional_size: fail())
    for name in ("jit_x-1", "jit_x-2"):
        cache.put(name, ENTRY)
        assert cache.get(name) is None
    (line,) = notes
    assert "uid not found" in line


def test_a_limit_without_filelock_is_one_line(
    tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX keeps to a limit only with that library, which a user may lack."""
    monkeypatch.setattr("jax._src.lru_cache.filelock", None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    settings = {"jax_compilation_cache_max_size": 1000}
    monkeypatch.setattr(program_cache, "setting", settings.get)
    assert program_cache._open_cache(str(tmp_path)) is None
    (line,) = notes
    assert "filelock" in line


def test_without_jaxs_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": str(tmp_path)}
    settings["jax_compilation_cache_max_size"] = 1000
    monkeypatch.setattr(kept_programs, "setting", settings.get)
    kept = kept_programs.kept_programs("digest")
    assert kept
    assert kept.largest == 1000  # the user's limit
    # Nowhere named, or at an address, where only JAX can write: in the user's cache folder.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    for named in ("", "gs://bucket/jax"):
        settings["jax_compilation_cache_dir"] = named
        kept = kept_programs.kept_programs("digest")
        assert kept
        assert tmp_path / "own" in kept.folder.parents
    settings["jax_enable_compilation_cache"] = False
    assert kept_programs.kept_programs("digest") is None

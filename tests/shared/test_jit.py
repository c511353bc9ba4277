"""Compiled functions kept between runs: whatever is wrong with what is kept, the results are right and it heals."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from shared import user_cache

CALLED = """
from shared.jit import jit
SHIFT = 1.0

@jit()
def double(x):
    return 2.0 * x
"""
CALLER = """
from shared.jit import jit
from called_by_test import SHIFT, double

@jit()
def shifted(x):
    return double(x) + SHIFT
"""


def load(folder: Path, name: str, source: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[float, bool]]]:
    """Call the function as a new process would; returns its result and whether it was compiled anew."""
    monkeypatch.setattr(user_cache, "_noted", [])
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # A source changed within the clock's tick has the times of the last one, by which Python knows its own cache.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def called(source: str = CALLED, caller: str = CALLER) -> tuple[float, bool]:
        load(tmp_path, "called_by_test", source)
        function = load(tmp_path, "caller_by_test", caller).shifted
        return function(20.0), not function.stats.cache_hits

    yield called
    for name in ("called_by_test", "caller_by_test"):
        sys.modules.pop(name, None)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/*.jit"))


def test_a_second_process_loads_it(tmp_path: Path, call: Callable[..., tuple[float, bool]]) -> None:
    assert call() == (41.0, True)
    assert call() == (41.0, False)
    assert {path.parent for path in kept(tmp_path)} == {tmp_path / "__pycache__"}


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "other", "folder"])
def test_damage_is_a_miss_and_heals(
    tmp_path: Path, call: Callable[..., tuple[float, bool]], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    call()
    for path in kept(tmp_path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            new = {"empty": b"", "half": content[: len(content) // 2], "bit": content, "other": b"\x80\x04garbage."}
            path.write_bytes(new[damage])
    assert call() == (41.0, True)
    assert call() == (41.0, False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("before", "after", "caller", "expected"),
    [
        ("2.0 * x", "3.0 * x", CALLER, 61.0),
        ("SHIFT = 1.0", "SHIFT = 2.0", CALLER.replace("double(x)", "2.0 * x"), 42.0),
    ],
)
def test_a_change_in_another_file_is_seen(
    call: Callable[..., tuple[float, bool]], before: str, after: str, caller: str, expected: float
) -> None:
    """Of a function that it calls, and of a constant that it takes: numba's own cache sees neither."""
    assert call(CALLED, caller) == (41.0, True)
    assert call(CALLED.replace(before, after), caller) == (expected, True)
    assert call(CALLED.replace(before, after), caller) == (expected, False)


def test_a_variable_that_changes_what_is_compiled(
    call: Callable[..., tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call()
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert call() == (41.0, True)
    monkeypatch.delenv("NUMBA_BOUNDSCHECK")
    assert call() == (41.0, True)  # one is kept


def test_the_users_folder_where_the_code_cannot_be_written(
    tmp_path: Path, call: Callable[..., tuple[float, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "__pycache__").touch()  # in its place, so that root cannot write there either
    assert call() == (41.0, True)
    assert call() == (41.0, False)
    assert all(path.is_relative_to(tmp_path / "home") for path in kept(tmp_path))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("named", [True, False])
def test_nowhere_to_keep_it_is_one_line(
    tmp_path: Path,
    call: Callable[..., tuple[float, bool]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: bool,
) -> None:
    (tmp_path / "__pycache__").touch()
    (tmp_path / "home").touch()
    if named:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "home"))
    for _ in range(2):
        assert call() == (41.0, True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: ")
    assert str(tmp_path / ("home" if named else "__pycache__")) in line


@pytest.mark.parametrize(
    ("home", "cache_home", "expected"),
    [
        ("/home/me", None, "/home/me/.cache/joint-physnet-dcmnet"),
        ("/home/me", "relative", "/home/me/.cache/joint-physnet-dcmnet"),
        ("/home/me", "/scratch", "/scratch/joint-physnet-dcmnet"),
        ("", None, None),
        ("relative", "", None),
    ],
)
def test_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, home: str, cache_home: str | None, expected: str | None
) -> None:
    monkeypatch.setenv("HOME", home)
    if cache_home is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    assert user_cache.user_cache() == (Path(expected) if expected else None)


def test_a_user_who_is_not_listed_has_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert user_cache.user_cache() is None

"""The recorded commit is that of the checkout that holds the sources, or none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from shared import provenance

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources at tmp_path/outer/inner, of which only outer is a repository."""
    monkeypatch.delenv("GIT_DIR", raising=False)
    here = tmp_path / "outer" / "inner"
    (here / "shared").mkdir(parents=True)
    shutil.copy(provenance.__file__, here / "shared" / "provenance.py")
    monkeypatch.setattr(provenance, "__file__", str(here / "shared" / "provenance.py"))
    monkeypatch.setattr(provenance, "ROOT", here.resolve())
    return here


def commit(folder: Path) -> str:
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return subprocess.run(
        [*GIT, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_of_these_sources_or_none(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.git_commit() == {}
    outer = commit(sources.parent)
    assert provenance.git_commit() == {}  # an environment inside another repository, even if that tracks it
    monkeypatch.setenv("GIT_DIR", str(sources.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(sources))
    assert provenance.git_commit() == {}
    inner = commit_without_git_variables(sources, monkeypatch)
    assert inner != outer
    monkeypatch.setenv("GIT_DIR", str(sources.parent / ".git"))
    assert provenance.git_commit() == {"commit": inner, "modified": False}
    (sources / "shared" / "provenance.py").write_text("")
    assert provenance.git_commit() == {"commit": inner, "modified": True}


def commit_without_git_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    return commit(folder)


def test_untracked_sources_have_none(sources: Path) -> None:
    """Copied into the root of another repository."""
    (sources / "shared" / "provenance.py").unlink()
    (sources / "theirs").write_text("")
    commit(sources)
    shutil.copy(Path(__file__), sources / "shared" / "provenance.py")
    assert provenance.git_commit() == {}

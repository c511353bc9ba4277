"""Limits of control groups, of both versions, are those of the job and not of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from shared import job_limits

MACHINE = len(os.sched_getaffinity(0))


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job_limits, "_GROUPS", tmp_path / "sys")
    monkeypatch.setattr(job_limits, "_GROUPS_OF_PROCESS", tmp_path / "cgroup")
    return tmp_path / "sys"


@pytest.mark.parametrize("visible", ["job/step", "job", "."])
def test_version_2(groups: Path, visible: str) -> None:
    """The tightest of a group and those above it; in a container the root is its own."""
    (groups.parent / "cgroup").write_text("0::/job/step\n")
    write(groups, cpu__max="max 100000", memory__max="max", memory__current=10, memory__stat="inactive_file 0")
    stat = "anon 5\ninactive_file 200\n"
    write(groups / visible, cpu__max="50000 100000", memory__max=3000, memory__current=1200, memory__stat=stat)
    assert job_limits.usable_cores() == 1
    assert job_limits.available_memory() == 3000 - (1200 - 200)


def test_version_1(groups: Path) -> None:
    """Controllers in folders of their own; no limit of memory is a huge number."""
    (groups.parent / "cgroup").write_text("4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/\n")
    write(groups / "cpu,cpuacct" / "a", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(groups / "cpu,cpuacct", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    stat = "total_inactive_file 0"
    huge = {"memory__limit_in_bytes": 9223372036854771712, "memory__usage_in_bytes": 0, "memory__stat": stat}
    write(groups / "memory" / "a" / "b", **huge)
    assert job_limits.usable_cores() == 1
    assert job_limits.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    write(groups / "memory" / "a", **{**huge, "memory__limit_in_bytes": 5000, "memory__usage_in_bytes": 6000})
    assert job_limits.available_memory() == 0.0


def test_without_groups(groups: Path) -> None:
    """Another system, or files that nobody may read."""
    assert job_limits.usable_cores() == MACHINE
    (groups.parent / "cgroup").write_text("0::/\n")
    write(groups, cpu__max="nonsense")
    assert job_limits.usable_cores() == MACHINE
    assert job_limits.available_memory() > 1e6

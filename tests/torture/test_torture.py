"""Some cases of every kind of torture; ``python -m tests.torture`` has as many as one likes."""

from __future__ import annotations

import pytest

from tests.torture.__main__ import KINDS, torture
from tests.torture.world import Outcome, World

CASES = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.build(tmp_path_factory.mktemp("torture") / "world")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_case_ends_well(world: World, kind: str) -> None:
    """As undisturbed, or as one true line."""
    number, faults = torture(kind, world, CASES, seed=0)
    assert number >= min(CASES, 10)
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize(
    ("code", "err", "fault"),
    [
        (0, "", ""),
        (0, "note: a cache is damaged\n", ""),
        (0, "lost\n", "exit code 0, and yet: lost"),
        (2, "error: a.npz: no such file\n", ""),
        (2, "error: a\nerror: b\n", "2 lines of error"),
        (2, "error: a\nHDF5-speak\n", "beside its line: HDF5-speak"),
        (2, "Traceback (most recent call last):\n", "a traceback"),
        (75, "SIGTERM: stopped before the first step\n", ""),
        (134, "", "exit code 134"),
    ],
)
def test_ends_are_told_apart(code: int, err: str, fault: str) -> None:
    found = Outcome(code, "", err, 0.0).fault
    assert found.startswith(fault)
    assert bool(found) == bool(fault)

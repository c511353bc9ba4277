"""What the devices have ahead of them: few programs, in order, and how long one usually takes."""

from __future__ import annotations

import pytest

from train.step import dispatches
from train.step.dispatches import Dispatches


class Output:
    """Stands for an array that a program will make."""

    def __init__(self) -> None:
        self.ready = False

    def is_ready(self) -> bool:
        return self.ready

    def block_until_ready(self) -> None:
        self.ready = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(dispatches.time, "monotonic", lambda: now[0])
    return now


def dispatch(ahead: Dispatches, program: str = "a", steps: int = 1) -> Output:
    with ahead.one(program, steps) as new:
        new.output = Output()
    return new.output


def test_whoever_dispatches_does_not_run_ahead() -> None:
    ahead = Dispatches()
    outputs = [dispatch(ahead) for _ in range(10)]
    assert [output.ready for output in outputs] == [True] * 6 + [False] * 4
    oldest = ahead.oldest()
    assert oldest is not None
    assert oldest.output is outputs[6]
    ahead.wait()
    assert ahead.oldest() is None
    assert all(output.ready for output in outputs)


def test_one_that_failed_is_not_waited_for() -> None:
    ahead = Dispatches()
    with pytest.raises(ValueError, match="no"), ahead.one("a", 1):
        raise ValueError("no")
    assert ahead.oldest() is None
    ahead.wait()


def test_usual_time_is_the_median_of_a_program_for_one_step(clock: list[float]) -> None:
    ahead = Dispatches()
    assert ahead.usual_seconds("a") is None
    # Each is dispatched while the one before it runs, and begins when that ends.
    first = dispatch(ahead)  # at 0, until 2
    clock[0] = 1.0
    second = dispatch(ahead, steps=4)  # until 14: 3 for a step
    clock[0], first.ready = 2.0, True
    third = dispatch(ahead, "b")  # until 15
    assert ahead.usual_seconds("a") == 2.0
    clock[0], second.ready = 14.0, True
    dispatch(ahead)
    assert ahead.usual_seconds("a") == 2.5
    assert ahead.usual_seconds("b") is None
    # Two whose ends are seen together share the time.
    clock[0] = 15.0
    ahead.wait()
    assert third.ready
    assert ahead.usual_seconds("b") == 0.5
    assert ahead.usual_seconds("a") == 2.0

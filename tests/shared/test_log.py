"""What a run's log holds, and that a log that cannot be written stops nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.errors import Interrupted, UserError
from shared.log import log, log_file

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def say(path: Path, texts: list[str], error: Exception) -> None:
    with log_file(path, "python -m train"):
        for text in texts:
            log.info(text)
        raise error


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (UserError("no such file"), "error: no such file"),
        (Interrupted("SIGTERM: stopped", 75), "SIGTERM: stopped"),
        (KeyError("a bug"), "KeyError: 'a bug'"),
    ],
)
def test_it_ends_with_the_reason(
    tmp_path: Path, error: Exception, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The console has the messages alone; a bug leaves its traceback."""
    path = tmp_path / "train.log"
    with pytest.raises(type(error)):
        say(path, ["100 % of µs"], error)
    log.info("afterwards")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(TIME + "begin: python -m train", lines[0])
    assert re.fullmatch(TIME + "100 % of µs", lines[1])
    assert re.sub(TIME, "", lines[-1]) == last
    assert ("Traceback" in path.read_text(encoding="utf-8")) == isinstance(error, KeyError)
    assert capsys.readouterr().out == "100 % of µs\nafterwards\n"


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with log_file(tmp_path / "absent" / "train.log", "begin"):
        log.info("goes on")
    first, second = capsys.readouterr().out.splitlines()
    assert "train.log cannot be written (No such file or directory)" in first
    assert second == "goes on"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_is_one_line_and_the_reason_of_the_end_stays(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(log.handlers)
    with pytest.raises(Interrupted):
        say(Path("/dev/full"), ["one", "two"], Interrupted("stopped", 75))
    printed = capsys.readouterr()
    assert printed.out.count("cannot be written") == 1
    assert printed.out.splitlines()[-2:] == ["one", "two"]
    assert printed.err == ""
    assert log.handlers == handlers

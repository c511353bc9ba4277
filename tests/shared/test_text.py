"""Output that no character can stop, paths in UTF-8, names cut and escaped."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import EXIT_USER_ERROR, run_program
from shared.text import escaped, prepare_output, shown

ROOT = Path(__file__).parents[2]


def ascii_console(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Standard output and standard error of a terminal that knows ASCII alone."""
    content = io.BytesIO()
    monkeypatch.setattr(logging.getLogger("matplotlib"), "level", logging.NOTSET)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding="ascii"))
    return content


def test_a_letter_that_the_terminal_lacks_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    console = ascii_console(monkeypatch)
    prepare_output()
    print("E in eV/Å, \udcfc")
    sys.stdout.flush()
    assert console.getvalue() == b"E in eV/\\xc5, \\udcfc\n"


def test_a_closed_output_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    prepare_output()
    print("into nothing")
    sys.stdout.close()


def test_a_name_that_is_not_in_utf_8_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python spells the bytes of such a path."""

    console = ascii_console(monkeypatch)

    def main() -> None:
        '{"file": "q\udcfc.npz"}'.encode()

    assert run_program(main) == EXIT_USER_ERROR
    sys.stderr.flush()
    assert console.getvalue().startswith(b"error: q\\udcfc.npz: ")


PROGRAM = """
import sys
from pathlib import Path
from shared.errors import run_program

def main():
    Path(sys.argv[1]).write_text("µ", encoding="utf-8")
    print(sys.argv[1], sys.getfilesystemencoding(), sys.stdout.encoding)

sys.exit(run_program(main))
"""


def test_paths_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    """The terminal's encoding stays."""
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    path = tmp_path / "ü"
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "program.py"), str(path)]
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    words = done.stdout.decode("ascii").split()
    assert words[0].endswith("\\xfc")
    assert words[1:] == ["utf-8", "ascii"]
    assert path.read_text(encoding="utf-8") == "µ"


def test_names_are_on_one_line_and_cut() -> None:
    assert escaped("a\nb\x1b[31m ü中\t") == r"a\nb\x1b[31m ü中\t"
    assert shown("methanol") == "methanol"
    assert shown("a" * 200 + "-7", 20) == "aaaaaaaaaa…aaaaaaa-7"
    assert len(shown("x" * 300)) == 60


def test_names_in_pictures_have_only_letters_of_the_font() -> None:
    from shared.drawing import literal

    assert literal("$α$ ü") == r"\$α\$ ü"
    assert literal("中\n") == r"\u4e2d\n"

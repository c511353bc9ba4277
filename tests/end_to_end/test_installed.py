"""The programs as an installed wheel gives them, from a folder that holds modules of the same names."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from shared.scripts import PROGRAMS, environment_of_programs
from tests import support

ROOT = Path(__file__).parents[2]


def test_every_command_is_a_program() -> None:
    """Those of pyproject.toml, and every module that can be run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == dict.fromkeys(PROGRAMS, "shared.scripts:main")
    sources = [path for room in ("train", "preprocess") for path in (ROOT / room).rglob("*.py")]
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in sources
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert runnable == set(PROGRAMS.values())
    assert all(importlib.util.find_spec(name) for name in runnable)


def test_programs_start_programs_of_their_own(tmp_path: Path) -> None:
    """As preprocess starts train, from a folder with another train.py and another shared."""
    put_traps(tmp_path)
    command = [sys.executable, "-m", "train", "--help"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment_of_programs(), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, "--physnet-cutoff" in ended.stdout) == (0, True), ended.stderr


def put_traps(folder: Path) -> None:
    """A user's own modules, whose names are those of ours."""
    for name in ("train", "preprocess", "config"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('the user has {name}.py')\n", encoding="utf-8")
    (folder / "shared").mkdir()
    (folder / "shared" / "__init__.py").write_text("raise SystemExit('the user has shared')\n", encoding="utf-8")


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    """Built, installed into a clean environment, and used from such a folder: every command, and a whole training."""
    sources = tmp_path / "sources"
    for name in ("train", "preprocess", "shared"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(sources)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    bin_folder = tmp_path / "env" / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(bin_folder / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # The other packages are those of this environment, which itself is left out with what it installed editable.
    (site,) = (tmp_path / "env").glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")

    folder = tmp_path / "user's folder"
    folder.mkdir()
    put_traps(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(name: str, *flags: str) -> str:
        ended = subprocess.run(
            [str(bin_folder / name), *flags], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    for name in PROGRAMS:
        assert "usage" in run(name, "--help").lower()
    files = support.write_splits(tmp_path / "input", train=6, valid=4)
    named = [part for name, paths in files.items() for part in ("--" + name.replace("_", "-"), *paths)]
    model = [
        part for name, value in support.SMALL_MODEL.items() for part in ("--" + name.replace("_", "-"), str(value))
    ]
    run("joint-preprocess", *named, "--checks", "off", "--workers", "1", "--then-train", *model, "--epochs", "1",
        "--batch-size", "4", "--limits", "off", "--name", "mine")  # fmt: skip
    assert "errors" in run("joint-evaluate", "--run", "runs/mine", "--limits", "off")
    assert (folder / "runs" / "mine" / "evaluation-test.json").exists()
    run("joint-report", "--run", "runs/mine", "--split", "test")
    assert str(site) in subprocess.run(
        [str(bin_folder / "python"), "-P", "-c", "import train; print(train.__file__)"],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

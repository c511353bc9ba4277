"""README and docs tell the truth: their commands, flags, files and links exist; the quick start runs.

Fast: every ``sh`` block is taken apart. Targets go through ``make -n``, programs through their own parsers, which are
stopped where they have read their flags. Slow: the blocks of the quick start and of using a model are executed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tyro
from pydantic import TypeAdapter

from shared.errors import UserError
from tests.docs.pages import PAGES, README, ROOT, Block, anchors, blocks, code_spans, is_placeholder, links

OUR_PACKAGES = ("preprocess", "train", "tests")
LAUNCHERS = ("srun",)
SHELL = ("[", "exit", "scontrol", "python3.13")
"""Commands that are not of this project: of batch scripts, and a newer Python."""

EXECUTED = (
    (README, "Quick start"),
    (README, "Use a model"),
    (ROOT / "docs/using.md", "Python"),
    (ROOT / "docs/using.md", "Ensembles"),
    (ROOT / "docs/using.md", "Simulations"),
    (ROOT / "docs/using.md", "Spectra"),
    (ROOT / "docs/using.md", "Charges"),
    (ROOT / "docs/using.md", "Constant charges for force fields"),
    (ROOT / "docs/preprocessing.md", "Preprocessing"),
)
"""Sections whose blocks are run one after the other on the carried sample; blocks with placeholders are not."""

Check = Callable[[str, Sequence[str]], None]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


class Parsed(Exception):
    """A program has read its flags, and would begin now."""


@pytest.fixture
def check_program(monkeypatch: pytest.MonkeyPatch) -> Check:
    """A function that has a program of ours read its flags, and nothing more."""
    parse = tyro.cli

    def parse_and_stop(config_class: type[Any], **options: Any) -> Any:
        try:
            config = parse(config_class, **options)
        except SystemExit as ended:
            if ended.code == 0:  # --help
                raise Parsed from None
            raise
        TypeAdapter(type(config)).validate_python(asdict(config))
        raise Parsed

    def check(module: str, flags: Sequence[str]) -> None:
        if module == "preprocess" and "--then-train" in flags:
            end = list(flags).index("--then-train") + 1
            check("train", flags[end:])
            flags = flags[:end]
        monkeypatch.setattr(sys, "argv", [module, *flags])
        spec = importlib.util.find_spec(module)
        assert spec, f"no program {module}"
        program = importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module)
        with pytest.raises(Parsed):
            program.main()

    monkeypatch.setattr(tyro, "cli", parse_and_stop)
    monkeypatch.chdir(ROOT)
    return check


def pretend_make(words: Sequence[str]) -> list[list[str]]:
    """The commands that a target would run, by ``make -n``; the environment counts as installed."""
    installed = [part for kind in ("", "-dev", "-reference", "-smiles") for part in ("-o", f".venv/.installed{kind}")]
    # A make above this one passes its own flags and variables on.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(
        ["make", "-n", *installed, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, f"make {' '.join(words)}: {made.stderr}"
    return list(Block(ROOT / "Makefile", "", "sh", made.stdout).commands())


def check_command(words: Sequence[str], installed: set[str], check_program: Check) -> None:
    """Check one command of a block.

    Args:
        words: the command and its arguments.
        installed: packages that the block has installed so far, which this environment may lack.
        check_program: parses the flags of a program of ours.
    """
    if words[0] in LAUNCHERS:
        words = words[next(i for i, word in enumerate(words) if word.endswith("python")) :]
    program = words[0]
    if program == "make":
        assert shutil.which("make"), "make is needed"
        for command in pretend_make(words[1:]):
            if "-m" in command[:2]:
                check_command(command, installed, check_program)
    elif program.endswith("bin/python") and words[1] == "-m":
        module, *flags = words[2:]
        if module.split(".")[0] not in OUR_PACKAGES:
            assert importlib.util.find_spec(module), f"no module {module}"
            return
        try:
            check_program(module, flags)
        except ModuleNotFoundError as error:
            if error.name not in installed:
                raise
    elif program.endswith("bin/pip") and words[1] == "install":
        for package in words[2:]:
            if extra := re.fullmatch(r"\.\[(\w+)\]", package):
                project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                assert extra[1] in project["optional-dependencies"], f"no extra {extra[1]}"
            elif not package.startswith("-"):
                installed.add(package)
    else:
        assert program in SHELL, f"unknown command {program!r}: {' '.join(words)}"
    check_files(words)


def check_files(words: Sequence[str]) -> None:
    """Files of the project that a command names exist; placeholders and what a run writes may not."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs", "data_cache", ".venv"}
    for word in words:
        name = word.rpartition("=")[2].partition("@")[0]
        is_path = "/" in name and name.partition("/")[0] in folders
        is_file = re.search(r"\.(npz|xyz|db|toml|py|md)$", name) and not name.startswith("runs/")
        if (is_path or is_file) and not is_placeholder(name):
            assert (ROOT / name).exists(), f"{name} is neither here nor a placeholder in capitals"


@each_page
def test_commands_exist_and_their_flags_parse(page: Path, check_program: Check) -> None:
    for block in blocks(page, "sh"):
        installed: set[str] = set()
        for words in block.commands():
            try:
                check_command(words, installed, check_program)
            except (AssertionError, SystemExit, ValueError, UserError) as error:
                pytest.fail(f"{page_name(page)}, {block.section!r}: {' '.join(words)}: {error}")


def test_a_wrong_command_is_found(check_program: Check) -> None:
    """What the test above is for: each of these would be a mistake in a page."""
    for line in (
        "make trian",
        "make train EPOCHS=many",
        'make train ARGS="--n-dmc 4"',
        "make train ARGS=--batch-size=0",
        ".venv/bin/python -m train.spectrum --run runs/joint",
        ".venv/bin/python -m train.spectra --molecule CO2",
        ".venv/bin/python -m preprocess --data ALL.npz --then-train --epoch 3",
        ".venv/bin/python -m tests.benchmarks.edge_rate --sizes 3",
        "make predict DATA=shared/sample/none.npz",
        'pip install -e ".[gpu]"',
    ):
        (words,) = Block(README, "", "sh", line).commands()
        with pytest.raises((AssertionError, SystemExit, ModuleNotFoundError, ValueError)):
            check_command(words, set(), check_program)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page_name(page)}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page_name(page)}: {target}"


def test_flags_in_the_text_exist() -> None:
    """Of every program and benchmark; the page for users of the old script names that one's flags too."""
    sources = [path for folder in ("preprocess", "shared", "train", "tests") for path in (ROOT / folder).rglob("*.py")]
    flags = {
        "--" + node.target.id.replace("_", "-")
        for path in sources
        for cls in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_"
    } | {"--help"}
    for page in PAGES:
        if page.name == "from-train-joint.md":
            continue
        for span in code_spans(page):
            for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", span):
                assert flag in flags or flag.replace("--no-", "--") in flags, f"{page_name(page)}: {span}"


@each_page
def test_python_blocks_import_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in (*OUR_PACKAGES, "shared"):
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{page_name(page)}: {node.module} has no {missing}"


def test_modules_in_the_text_exist() -> None:
    spans = {span for page in PAGES for span in code_spans(page)}
    names = sorted(span for span in spans if re.fullmatch(r"\w+/[\w/]*(\.py)?", span))
    ours = [name for name in names if name.partition("/")[0] in (*OUR_PACKAGES, "shared")]
    wrong = [name for name in ours if not (ROOT / name).exists()]
    assert not wrong


def test_the_readme_stays_short() -> None:
    assert README.read_text(encoding="utf-8").count("\n") <= 150


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """The project as a fresh clone has it, with this environment for its own: runs and shards of its own."""
    for path in ROOT.iterdir():
        if path.name not in {".git", ".venv", "data_cache", "runs"}:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".installed"):
            (tmp_path / ".venv" / path.name).symlink_to(path)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


@pytest.mark.slow
def test_the_quick_start_and_the_use_of_a_model_run_as_written(workplace: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    # Two epochs where a block does not say; programs are compiled once, and kept for this test alone.
    environment |= {"EPOCHS": "2", "XDG_CACHE_HOME": str(workplace / "programs"), "JAX_PLATFORMS": "cpu"}
    python = str(workplace / ".venv/bin/python")
    for page, section in EXECUTED:
        programs = [
            ["bash", "-euo", "pipefail", "-c", b.text] for b in blocks(page, "sh", section) if not b.has_placeholders
        ]
        programs += [
            [python, "-c", block.text] for block in blocks(page, "python", section) if not block.has_placeholders
        ]
        assert programs, f"{page_name(page)} has no section {section!r} with blocks to run"
        for program in programs:
            ended = subprocess.run(program, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, (
                f"{page_name(page)}, {section!r}:\n{program[-1]}\n{ended.stdout}\n{ended.stderr}"
            )
    run = workplace / "runs" / "joint"
    for name in (
        "best",
        "evaluation-valid.json",
        "evaluation-test.json",
        "report-test.html",
        "exported",
        "spectra/CO2",
    ):
        assert (run / name).exists(), name


def test_files_of_constraints_differ_in_jax_alone() -> None:
    """They are kept side by side, and each names every package."""
    usual, newer = (
        dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
        for name in ("constraints.txt", "constraints-jax-0.11.txt")
    )
    assert usual.keys() == newer.keys()
    assert {name for name in usual if usual[name] != newer[name]} == {"jax", "jaxlib"}

"""Break the code in one place at a time, and see that the tests notice (the list is in ``mutations.toml``).

    python -m tests.mutations                      # all of them, 11 minutes on two cores
    python -m tests.mutations --only forces-sign   # by name, or by the beginning of names
    python -m tests.mutations --list               # only check that each can still be made

Each mutation is made in a copy of the tracked files, where the tests named with it are run. CAUGHT: one of them
fails. SURVIVED: all pass, so a test is missing. BROKEN: nothing was learnt, because the text to be replaced is no
longer there exactly once, no test has such a name, the program did not start, or the tests fail without the mutation
too (``--baseline``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import psutil
import pytest

from shared.errors import UserError, run_program
from shared.settings import PositiveInt, parse_flags, read_toml

ROOT = Path(__file__).parents[1]
MUTATIONS = Path(__file__).with_suffix(".toml")
CODE = ("preprocess", "shared", "train")
_LONGEST_SECONDS = 900.0
_NO_PROGRAM = re.compile(r"^E +(?:\w+\.)*(NameError|ImportError|ModuleNotFoundError|SyntaxError)\b", re.M)
"""Of pytest's report: the mutation left nothing that runs, which is no mistake that a test has to look for."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) \S*?(\w+\.py::\w+(?:\[.*?\](?= - |$))?)", re.M)

Outcome = Literal["CAUGHT", "SURVIVED", "BROKEN"]


@dataclass(frozen=True)
class MutationsConfig:
    """Break the code in one place at a time, and see that the tests notice."""

    only: tuple[str, ...] = ()
    """Names, or beginnings of names, of those to make; all if none is given."""

    jobs: PositiveInt = 2
    """So many at once."""

    baseline: bool = False
    """First run the tests without any mutation: where they fail, a mutation tells nothing."""

    list: bool = False
    """Print the names, and check that each text to be replaced is there exactly once; run nothing."""


@dataclass(frozen=True)
class Mutation:
    """A text of the code, wherever it stands, what to put in its place, and the tests that have to notice."""

    name: str
    old: str
    new: str
    files: tuple[str, ...]  # names of test files without folder and suffix
    tests: str  # pytest's -k

    @property
    def selection(self) -> tuple[tuple[str, ...], str]:
        """What is run; mutations may share it."""
        return self.files, self.tests


@dataclass(frozen=True)
class Result:
    """How a run of tests ended."""

    outcome: Outcome
    why: str
    seconds: float = 0.0


def read_mutations(only: tuple[str, ...]) -> list[Mutation]:
    """Read the list, or those of it whose names begin as one of ``only``.

    Raises:
        UserError: a name of ``only`` is unknown, or two mutations have one name.
    """
    every = [
        Mutation(entry["name"], entry["old"], entry["new"], tuple(entry["files"]), entry["tests"])
        for entry in read_toml(MUTATIONS)["mutation"]
    ]
    names = [mutation.name for mutation in every]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{MUTATIONS}: several mutations are named {', '.join(sorted(twice))}")
    for wanted in only:
        if not any(name.startswith(wanted) for name in names):
            raise UserError(f"--only {wanted}: no such mutation; --list names them")
    return [mutation for mutation in every if not only or mutation.name.startswith(only)]


def find_text(root: Path, mutation: Mutation) -> Path:
    """Return the file of the code in which the text to be replaced stands.

    Raises:
        UserError: it is nowhere, or in several places, or the mutated file is no Python.
    """
    places = [
        path
        for part in CODE
        for path in sorted((root / part).rglob("*.py"))
        for _ in range(path.read_text(encoding="utf-8").count(mutation.old))
    ]
    if len(places) != 1:
        found = ", ".join(str(path.relative_to(root)) for path in places) or "nowhere"
        raise UserError(f"the text to be replaced is not there exactly once, but in: {found}")
    try:
        compile(mutated_text(places[0], mutation), places[0], "exec")
    except SyntaxError as error:
        raise UserError(f"the mutated {places[0].relative_to(root)} is no Python ({error})") from error
    return places[0]


def mutated_text(path: Path, mutation: Mutation) -> str:
    """Return the file's text after the mutation."""
    return path.read_text(encoding="utf-8").replace(mutation.old, mutation.new)


class Workshop:
    """Copies of the tracked files, as they are now, one for each job: there mutations are made and tests run."""

    def __init__(self, scratch: Path, jobs: int) -> None:
        self._scratch = scratch
        self._whole = scratch / "whole"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (self._whole / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self._whole / name)
        self._free: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            self._free.put(scratch / f"copy-{job}")

    def run(self, selection: tuple[tuple[str, ...], str], mutation: Mutation | None) -> Result:
        """Run tests in a fresh copy; with a mutation their failure is CAUGHT, and without one BROKEN."""
        copy = self._free.get()
        start = time.monotonic()
        try:
            # Under the path of the last copy, for what numba compiled to be found again.
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self._whole, copy)
            if mutation is not None:
                path = find_text(copy, mutation)
                path.write_text(mutated_text(path, mutation), encoding="utf-8")
            code, report = self._pytest(copy, selection)
            return _judge(code, report, mutation is not None, time.monotonic() - start)
        except UserError as error:
            return Result("BROKEN", str(error), time.monotonic() - start)
        finally:
            self._free.put(copy)

    def _pytest(self, copy: Path, selection: tuple[tuple[str, ...], str]) -> tuple[int | None, str]:
        """Exit code (None: it took too long) and report of pytest, which stops at the first failure."""
        stems, tests = selection
        paths = [str(_test_file(copy, stem)) for stem in stems]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self._scratch / "jax"),
            "NUMBA_CACHE_DIR": str(self._scratch / "numba"),
            "TMPDIR": str(self._scratch),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short", *paths, "-k", tests],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            report, _ = process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            report, _ = process.communicate()
            return None, report
        return process.returncode, report


def _test_file(root: Path, stem: str) -> Path:
    found = sorted((root / "tests").rglob(f"{stem}.py"))
    if len(found) != 1:
        raise UserError(f"tests: {len(found)} files are named {stem}.py, expected one")
    return found[0].relative_to(root)


def _judge(code: int | None, report: str, mutated: bool, seconds: float) -> Result:
    if code is None:
        return Result("BROKEN", f"no end in {_LONGEST_SECONDS:.0f} s", seconds)
    if code == pytest.ExitCode.OK:
        return Result("SURVIVED", "" if mutated else "the tests pass", seconds)
    failed = _FAILED.search(report)
    why = failed[1] if failed else report.strip().splitlines()[-1] if report.strip() else f"exit code {code}"
    if code != pytest.ExitCode.TESTS_FAILED:
        return Result("BROKEN", why, seconds)
    if nothing := _NO_PROGRAM.search(report):
        return Result("BROKEN", f"{nothing[1]} in {why}", seconds)
    return Result("CAUGHT" if mutated else "BROKEN", why, seconds)


def run_all(mutations: list[Mutation], config: MutationsConfig, workshop: Workshop) -> list[Result]:
    """Make every mutation, and run its tests."""
    with ThreadPoolExecutor(config.jobs) as pool:
        broken: dict[tuple[tuple[str, ...], str], Result] = {}
        if config.baseline:
            selections = list(dict.fromkeys(mutation.selection for mutation in mutations))
            results = pool.map(lambda selection: workshop.run(selection, None), selections)
            for selection, result in zip(selections, results, strict=True):
                print(f"without a mutation: {' '.join(selection[0])} -k '{selection[1]}': {result.why}", flush=True)
                if result.outcome == "BROKEN":
                    broken[selection] = Result("BROKEN", f"without the mutation too: {result.why}")

        def one(mutation: Mutation) -> Result:
            result = broken.get(mutation.selection) or workshop.run(mutation.selection, mutation)
            print(f"{result.outcome:<8} {result.seconds:4.0f} s  {mutation.name}  {result.why}", flush=True)
            return result

        try:
            return list(pool.map(one, mutations))
        except KeyboardInterrupt:  # which the tests under way have heard, too
            pool.shutdown(cancel_futures=True)
            raise


def describe(mutations: list[Mutation], results: list[Result]) -> str:
    """Return the results as a markdown table."""
    lines = ["| mutation | instead of | tests | result | s | caught by |", "|---|---|---|---|---|---|"]
    for mutation, result in zip(mutations, results, strict=True):
        change = f"`{_shown(mutation.old)}` → `{_shown(mutation.new)}`"
        tests = f"{', '.join(mutation.files)}: {mutation.tests}"
        cells = (mutation.name, change, tests, result.outcome, f"{result.seconds:.0f}", result.why)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in ("CAUGHT", "SURVIVED", "BROKEN")}
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in counts.items())])


def _shown(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """Make the mutations, and print what became of them.

    Raises:
        UserError: an unknown name, a text that is not there once, or a mutation that was not caught.
    """
    config = parse_flags(MutationsConfig, "python -m tests.mutations")
    mutations = read_mutations(config.only)
    if config.list:
        lost = 0
        for mutation in mutations:
            try:
                print(f"{mutation.name:<32} {find_text(ROOT, mutation).relative_to(ROOT)}")
                for stem in mutation.files:
                    _test_file(ROOT, stem)
            except UserError as error:
                print(f"{mutation.name:<32} BROKEN: {error}")
                lost += 1
        if lost:
            raise UserError(f"{lost} of {len(mutations)} mutations cannot be made: write them anew in {MUTATIONS}")
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        results = run_all(mutations, config, Workshop(Path(scratch), config.jobs))
    print(f"\n{describe(mutations, results)}; {(time.monotonic() - start) / 60:.0f} min with {config.jobs} jobs")
    if missed := [m.name for m, r in zip(mutations, results, strict=True) if r.outcome != "CAUGHT"]:
        raise UserError(f"not caught: {', '.join(missed)}")


if __name__ == "__main__":
    sys.exit(run_program(main))

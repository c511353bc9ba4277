"""What a torture acts on: small data, an undisturbed run to compare with, and the programs in processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import support
from tests.end_to_end.processes import flags_of_model

ROOT = Path(__file__).parents[2]
EPOCHS = 3
LONGEST_SECONDS = 240

ALLOWED_CODES = (0, 2, 75, 130)
_ERROR = re.compile(r"^(error: \S.*|SIG[A-Z0-9]+: \S.*|interrupted\b.*)$")
_REMARK = re.compile(r"^(note|warning|remark): \S")
_PROGRESS = re.compile(r"\d+%\||it/s|mol/s\]|\?mol|^\s*$")


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with its end; empty if it is an undisturbed end, or one line that says why not."""
        text = self.out + self.err
        if "Traceback (most recent call last)" in text or "Fatal Python error" in text or "*** SIG" in text:
            return f"a traceback (exit code {self.code})"
        if self.code not in ALLOWED_CODES:
            return f"exit code {self.code}"
        lines = [line for line in re.split(r"[\r\n]+", self.err) if not _PROGRESS.search(line)]
        if self.code == 0:
            others = [line for line in lines if not _REMARK.match(line)]
            return f"exit code 0, and yet: {others[0]}" if others else ""
        errors = [line for line in lines if _ERROR.match(line)]
        others = [line for line in lines if not _ERROR.match(line) and not _REMARK.match(line)]
        if len(errors) != 1:
            return f"{len(errors)} lines of error (exit code {self.code})"
        return f"beside its line: {others[0]}" if others else ""


@dataclass(frozen=True)
class Case:
    """One thing that is done to a program; ``act`` returns what went wrong, or nothing."""

    name: str
    act: Callable[[], str]


@dataclass
class World:
    """Folders of one torture."""

    folder: Path
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, folder: Path) -> World:
        """Preprocess, and train the undisturbed run ``runs/quiet``; the programs' caches are warm afterwards."""
        world = cls(folder)
        for name in ("home", "xdg", "runs"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        world.files = support.write_splits(folder / "input", train=8, valid=4)
        for made in (world.preprocess(), world.train("quiet")):
            assert made.code == 0, made.out + made.err
        world.reference = world.results("quiet")
        return world

    @property
    def cache(self) -> Path:
        """The preprocessed data."""
        return self.folder / "cache"

    @property
    def runs(self) -> Path:
        """The runs."""
        return self.folder / "runs"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """That of a user, and nothing of this process's own; None removes a variable."""
        plain: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "xdg"),
            "LANG": "C.UTF-8",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        return {name: value for name, value in {**plain, **changes}.items() if value is not None}

    def preprocess(self, *more: str, cache: Path | None = None, **how: Any) -> Outcome:
        """``python -m preprocess`` of all files."""
        named = [part for name, paths in self.files.items() for part in ("--" + name.replace("_", "-"), *paths)]
        flags = ["--cache-dir", str(cache or self.cache), "--min-bucket-size", "4", "--max-buckets", "2"]
        return self.run(["-m", "preprocess", *named, *flags, "--checks", "off", *more], **how)

    def train(self, name: str, *more: str, runs: Path | None = None, cache: Path | None = None, **how: Any) -> Outcome:
        """``python -m train`` of a small model."""
        return self.run(self.training(name, *more, runs=runs, cache=cache), **how)

    def training(self, name: str, *more: str, runs: Path | None = None, cache: Path | None = None) -> list[str]:
        """The words of :meth:`train`."""
        flags = flags_of_model(
            cache_dir=cache or self.cache, runs_dir=runs or self.runs, name=name, epochs=EPOCHS, seed=1
        )
        return ["-m", "train", *flags, "--no-plot-results", "--no-tensorboard", *more]

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        cwd: Path = ROOT,
        disturb: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
    ) -> Outcome:
        """Run Python with these words, ``before`` them another program (setpriv), and ``disturb`` it meanwhile."""
        start = time.monotonic()
        process = subprocess.Popen(
            [*before, sys.executable, *words],
            cwd=cwd,
            env=environment or self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        disturb(process)
        try:
            out, err = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return Outcome(-9, out.decode(errors="replace"), err.decode(errors="replace"), LONGEST_SECONDS)
        seconds = time.monotonic() - start
        return Outcome(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), seconds)

    def results(self, name: str, runs: Path | None = None) -> dict[str, Any]:
        """Weights and errors of a run, without times."""
        folder = (runs or self.runs) / name
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        evaluation = json.loads((folder / "evaluation-valid.json").read_text(encoding="utf-8"))
        return {
            "weights": (folder / "best" / "weights.safetensors").read_bytes(),
            "epochs": [{key: record[key] for key in ("epoch", "best_epoch", "train", "valid")} for record in records],
            "errors": evaluation["metrics"],
        }

    def differs(self, name: str, runs: Path | None = None) -> str:
        """How a run that went well differs from the undisturbed one; empty if it does not."""
        try:
            found = self.results(name, runs)
        except (OSError, ValueError, KeyError) as error:
            return f"no results ({error})"
        return ", ".join(f"other {key} than undisturbed" for key in found if found[key] != self.reference[key])

    def copy_run(self, name: str, runs: Path | None = None) -> Path:
        """A copy of the undisturbed run."""
        to = (runs or self.runs) / name
        shutil.copytree(self.runs / "quiet", to)
        return to


def flip(path: Path, rng: np.random.Generator, bits: int = 1) -> str:
    """Flip bits of a file; says where."""
    content = bytearray(path.read_bytes())
    if not content:
        return "empty"
    places = rng.integers(0, 8 * len(content), bits)
    for place in places:
        content[place // 8] ^= 1 << (place % 8)
    _rewrite(path, bytes(content))
    return f"bits {', '.join(map(str, places))} flipped"


def damage(path: Path, rng: np.random.Generator) -> str:
    """Do to a file what a power cut, a full disk or a bad copy does; says what."""
    content = path.read_bytes()
    kind = int(rng.integers(0, 5))
    if kind == 0:
        return flip(path, rng, int(rng.integers(1, 4)))
    if kind == 1:
        _rewrite(path, b"")
        return "emptied"
    if kind == 2:
        length = int(rng.integers(0, max(1, len(content))))
        _rewrite(path, content[:length])
        return f"cut to {length} of {len(content)} bytes"
    if kind == 3:
        start = int(rng.integers(0, max(1, len(content))))
        _rewrite(path, content[:start] + bytes(len(content) - start))
        return f"zeros from byte {start} of {len(content)}"
    path.unlink()
    return "removed"


def _rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """All files of a folder, sorted."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def drawn(rng: np.random.Generator, items: Sequence[Any], count: int) -> Iterator[Any]:
    """So many of the items, each about as often as the others."""
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(items)).tolist()
    return (items[i] for i in order[:count])

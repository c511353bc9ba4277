"""``python -m train`` in processes of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import support

ROOT = Path(__file__).parents[2]
MODEL = {**support.SMALL_MODEL, "physnet_iterations": 1, "dcmnet_iterations": 1, "dcmnet_max_degree": 1}
PROGRAM = ("-m", "train")


class Run:
    """``python -m train`` in processes of its own."""

    def __init__(
        self, cache: Path, runs: Path, name: str, *more: str, program: Sequence[str] = PROGRAM, **changes: Any
    ) -> None:
        settings = {**MODEL, "cache_dir": cache, "runs_dir": runs, "name": name, "batch_size": 6, "learning_rate": 3e-3}
        # Constant, for a run of two epochs to be the beginning of a run of three.
        settings |= {"schedule": "constant", "warmup_epochs": 0, "ema_decay": 0.9, **changes}
        flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        self.folder = runs / name
        self.kept = runs.parent / "programs"
        self._start([*flags, *more], program)

    @classmethod
    def of(cls, *flags: str, kept: Path) -> Run:
        """With these flags alone; compiled programs are kept in that folder."""
        run = cls.__new__(cls)
        run.kept = kept
        run._start(list(flags))
        return run

    def _start(self, flags: list[str], program: Sequence[str] = PROGRAM) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, *flags, "--no-plot-results"],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(self.kept), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """Wait for success; returns what was printed."""
        printed, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, printed
        return printed

    def metrics(self) -> list[dict[str, dict[str, float]]]:
        """Of every epoch."""
        records = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [{split: record[split] for split in ("train", "valid")} for record in records]

    def wait_for_epochs(self, count: int) -> None:
        """Until so many are in metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while not path.exists() or path.read_text().count("\n") < count:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, number: signal.Signals) -> tuple[int, str, float]:
        """Send a signal; returns the exit code, what was printed, and the seconds until the end."""
        start = time.monotonic()
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=100)
        return self.process.returncode, printed, time.monotonic() - start

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


def flags_of_model(**changes: Any) -> list[str]:
    """Of the small model; the schedule is constant, for a run of two epochs to be the beginning of a run of three."""
    settings = {**MODEL, "batch_size": 6, "learning_rate": 3e-3, "limits": "off"}
    settings |= {"schedule": "constant", "warmup_epochs": 0, "ema_decay": 0.9, **changes}
    return [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]


class Run:
    """``python -m train`` in processes of its own."""

    def __init__(
        self,
        cache: Path,
        runs: Path,
        name: str,
        *more: str,
        program: Sequence[str] = PROGRAM,
        optimized: bool = False,
        **changes: Any,
    ) -> None:
        """Start; ``optimized`` compiles as for users, and not in a quarter of the time."""
        self.folder = runs / name
        self._start([*flags_of_model(cache_dir=cache, runs_dir=runs, name=name, **changes), *more], program, optimized)

    @classmethod
    def by_make(cls, files: dict[str, tuple[str, ...]], cache: Path, runs: Path, name: str, **changes: Any) -> Run:
        """By ``make train``, which preprocesses these files first."""
        run = cls.__new__(cls)
        run.folder = runs / name
        variables = {key.upper(): " ".join(names) for key, names in files.items()}
        variables |= {"NAME": name, "CACHE_DIR": str(cache), "PREPROCESS_ARGS": "--checks off"}
        variables["ARGS"] = " ".join([*flags_of_model(runs_dir=runs, **changes), "--no-plot-results"])
        # This interpreter's environment, as it is.
        made = ["make", "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}"]
        run._run([*made, "train", *(f"{key}={value}" for key, value in variables.items())])
        return run

    @classmethod
    def of(cls, *flags: str, program: Sequence[str] = PROGRAM) -> Run:
        """With these flags alone."""
        run = cls.__new__(cls)
        run._start(list(flags), program)
        return run

    def _start(self, flags: list[str], program: Sequence[str] = PROGRAM, optimized: bool = False) -> None:
        self._run([sys.executable, *program, *flags, "--no-plot-results"], **{"XLA_FLAGS": ""} if optimized else {})

    def _run(self, command: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "MAKEFLAGS": "", **environment},
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

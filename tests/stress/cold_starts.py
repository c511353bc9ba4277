"""Start a training of several buckets on two host devices again and again, with nothing kept from before.

    python -m tests.stress.cold_starts                        # of these sources
    python -m tests.stress.cold_starts --sources ../before    # of another checkout

Each start traces and compiles everything while its first steps run, with pauses and many operations in the tracing. One
that takes no processor time for a minute, or takes longer than --longest-minutes, hangs, and is ended.
"""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from shared.settings import parse_flags
from tests import support
from tests.end_to_end import processes
from train.config import TrainConfig
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader

HUNG = "hung"
PROGRAM = Path(__file__).with_name("slow_tracing.py")
MOLECULES = 150
SETTINGS: dict[str, Any] = {
    **processes.MODEL,
    # Wide, for a step to take some time, and small batches, for an epoch to have many of them.
    **{"physnet_features": 64, "dcmnet_features": 32, "n_dcm": 3, "batch_size": 4},
    **{"host_devices": 2, "epochs": 1, "name": "run"},
}
_IDLE_SECONDS = 60.0
_IDLE_LOAD = 0.02


@dataclass(frozen=True)
class StartsConfig:
    """How many starts, and of what."""

    sources: str = str(Path(__file__).parents[2])
    """Checkout whose ``train`` is started."""

    starts: int = 50
    """How many."""

    jobs: int = 1
    """So many at once."""

    longest_minutes: float = 15.0
    """A start that takes longer hangs."""

    flags: str = ""
    """Other flags of training, in one text: --flags="--data-placement stream"."""


def make_data(folder: Path) -> tuple[Path, int]:
    """A cache of four buckets, and a seed with which a training's first steps are of the largest one."""
    settings = support.write_splits(folder / "input", train=MOLECULES, valid=20)
    support.run_preprocess(settings, folder / "cache", max_buckets=4)
    defaults = TrainConfig()
    cache = open_cache(folder / "cache", defaults.physnet_cutoff, defaults.dcmnet_cutoff)
    loader = Loader(cache.load_split("train"), SETTINGS["batch_size"], EspSelection())
    largest = max(range(len(loader.buckets)), key=lambda index: len(loader.buckets[index]))

    def first_steps(seed: int) -> int:
        buckets = [plan.bucket for plan in loader.plan(seed, 0)]
        return next((i for i, bucket in enumerate(buckets) if bucket != largest), len(buckets))

    return folder / "cache", max(range(1000), key=first_steps)


def start(config: StartsConfig, cache: Path, seed: int, folder: Path) -> tuple[str, float, str]:
    """One cold start: how it ended (an exit code, or HUNG), its seconds, and what it printed."""
    folder.mkdir(parents=True)
    settings = {**SETTINGS, "cache_dir": cache, "runs_dir": folder / "runs", "seed": seed}
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *flags, "--no-plot-results", *config.flags.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": config.sources, "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    began = time.monotonic()
    ended = _wait(process, began + 60.0 * config.longest_minutes)
    return ended, time.monotonic() - began, log.read_text(encoding="utf-8")


def _wait(process: subprocess.Popen[bytes], deadline: float) -> str:
    looked, used = time.monotonic(), 0.0
    while True:
        try:
            return str(process.wait(timeout=1.0))
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        if now - looked > _IDLE_SECONDS:
            before, used = used, sum(psutil.Process(process.pid).cpu_times()[:2])
            if used - before < _IDLE_LOAD * (now - looked):
                break
            looked = now
        if now > deadline:
            break
    process.send_signal(signal.SIGUSR2)  # its stacks
    time.sleep(2.0)
    process.kill()
    process.wait()
    return HUNG


def main() -> None:
    """Start, and count."""
    config = parse_flags(StartsConfig, "python -m tests.stress.cold_starts")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(config.jobs) as pool:
        folder = Path(scratch)
        cache, seed = make_data(folder)
        folders = [folder / f"start-{i}" for i in range(config.starts)]
        counts: collections.Counter[str] = collections.Counter()
        for ended, seconds, printed in pool.map(lambda folder: start(config, cache, seed, folder), folders):
            counts[ended] += 1
            print(
                f"{sum(counts.values()):>3} {seconds:5.0f} s  {'hung' if ended == HUNG else f'exit code {ended}'}",
                flush=True,
            )
            if ended != "0" and counts[ended] == 1:
                print(printed, flush=True)
    print(f"{config.sources}: {dict(counts)} of {config.starts} cold starts")


if __name__ == "__main__":
    main()

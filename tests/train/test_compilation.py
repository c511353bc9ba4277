"""Compiled functions kept between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
from train.step import program_cache as compilation
compilation._SHORTEST_SECONDS = 0.0
compilation.keep_compilations()
compiled = []
jax.monitoring.register_event_listener(lambda name, **_: compiled.append(name.rsplit("/", 1)[-1]))
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(compiled.count("cache_hits"), compiled.count("cache_misses"))
"""


def test_second_process_takes_what_the_first_compiled(tmp_path: Path) -> None:
    """Below the user's cache folder, without being asked to."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=Path(__file__).parents[2],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        counts.append([int(word) for word in done.stdout.split()])
    (first_hits, first_misses), (second_hits, second_misses) = counts
    assert first_hits == second_misses == 0
    assert second_hits == first_misses > 0
    assert list((tmp_path / "joint-physnet-dcmnet").rglob("*-cache"))

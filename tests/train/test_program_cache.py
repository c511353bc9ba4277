"""Compiled functions kept between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from train.step import program_cache

PROGRAM = """
import jax
from train.step import program_cache as compilation
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


def test_the_least_recently_used_programs_go(tmp_path: Path) -> None:
    for age in range(5):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    program_cache.remove_oldest(tmp_path, 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache", "2-cache"]
    program_cache.remove_oldest(tmp_path / "absent", 300)


def test_a_program_killed_while_it_wrote_does_not_keep_others_from_being_kept(tmp_path: Path) -> None:
    """It leaves an entry without a time of use, at which JAX's own limit of the size stumbles."""
    folder = tmp_path / "joint-physnet-dcmnet" / "jax"
    folder.mkdir(parents=True)
    (folder / "jit_killed-0123-cache").write_bytes(b"half")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert len(list(folder.glob("*-cache"))) > 1

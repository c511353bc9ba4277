"""Another user, no home, other locales, full, read-only and small disks, names of all kinds, pipes that close."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.torture.world import ROOT, Case, Outcome, World, drawn

NOBODY = 12345
LOCALES: tuple[dict[str, str | None], ...] = (
    {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LANG": "en_US.ISO-8859-1", "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "nonsense"},
)
FOLDERS = ("mit Blank", "Größe-ü", "分子", "a'b", 'a"b', "-dash", "äö 'x' é", "tab\there", "ends.", "%d{x}", "@0:3")


def cases(world: World, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """As many of each kind as there is room for."""
    made: list[Case] = []
    for i, (locale, folder) in enumerate((a, b) for a in LOCALES for b in ("plain", "Größe-ü")):
        shown = " ".join(f"{name}={value}" for name, value in locale.items())
        made.append(Case(f"{shown}, in {folder}", partial(_in_folder, world, folder, locale, i)))
    made += [
        Case(f"in {folder!r}", partial(_in_folder, world, folder, {}, 100 + i)) for i, folder in enumerate(FOLDERS)
    ]
    made.append(Case("output into a pipe that closes", partial(_closed_pipe, world)))
    if os.geteuid() == 0 and shutil.which("setpriv"):
        if _readable_by_others(ROOT) and _readable_by_others(Path(sys.executable)):
            made += [
                Case(
                    "another user without a home",
                    partial(_nobody, world, {"HOME": "/nonexistent", "XDG_CACHE_HOME": None}),
                ),
                Case("another user, HOME unset", partial(_nobody, world, {"HOME": None, "XDG_CACHE_HOME": None})),
                Case("another user evaluates elsewhere", partial(_nobody_evaluates, world)),
            ]
        if _can_mount(world.folder / "mount"):
            sizes = rng.integers(40, 1500, 40)
            full = [Case(f"disk of {kb} kB", partial(_small_disk, world, int(kb), i)) for i, kb in enumerate(sizes)]
            made += full[: max(8, count - len(made))]
            made.append(Case("a disk that is read-only", partial(_read_only, world)))
    yield from (made if count >= len(made) else drawn(rng, made, count))


def _readable_by_others(path: Path) -> bool:
    return all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents) if part.is_dir())


def _in_folder(world: World, folder: str, locale: dict[str, str | None], number: int) -> str:
    """Preprocess and train with cache and runs there."""
    base = world.folder / f"place-{number}" / folder
    base.mkdir(parents=True)
    environment = world.environment(**locale)
    made = world.preprocess(cache=base / "cache", environment=environment)
    told = made.out + made.err
    fault = made.fault
    if not fault and made.code == 0:
        ended = world.train("run", cache=base / "cache", runs=base / "runs", environment=environment)
        told += ended.out + ended.err
        fault = ended.fault or ("" if ended.code else world.differs("run", base / "runs"))
        if not fault and not ended.code:
            # It can be gone on from: the checkpoints are where they should be.
            again = world.train("run", cache=base / "cache", runs=base / "runs", environment=environment)
            told += again.out + again.err
            fault = again.fault or ("" if "has finished" in again.out else "its checkpoints are not found")
    shutil.rmtree(world.folder / f"place-{number}")
    return f"{fault}\n{told}" if fault else ""


def _closed_pipe(world: World) -> str:
    words = world.training("piped")
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode(errors="replace")
    code = process.wait()
    fault = Outcome(code, "", err, 0.0).fault if "Traceback" in err or code not in (0, 130) else ""
    ended = world.train("piped")
    fault = fault or ended.fault or world.differs("piped")
    shutil.rmtree(world.runs / "piped", ignore_errors=True)
    return f"{fault}\n{err}{ended.out}{ended.err}" if fault else ""


def _as_nobody() -> list[str]:
    return ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


def _nobody(world: World, changes: dict[str, str | None]) -> str:
    """Preprocess and train in a folder that this user owns; all else is another's."""
    base = world.folder / "of-nobody"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    os.chown(base, NOBODY, NOBODY)
    how = {"environment": world.environment(**changes), "before": _as_nobody()}
    told = ""
    for act in (
        lambda: world.preprocess(cache=base / "cache", **how),
        lambda: world.train("run", cache=base / "cache", runs=base / "runs", **how),
        lambda: world.run(["-m", "train.evaluate", "--run", str(base / "runs/run"), "--split", "valid"], **how),
        lambda: world.run(["-m", "train.report", "--run", str(base / "runs/run"), "--split", "valid"], **how),
    ):
        ended = act()
        told += ended.out + ended.err
        if fault := ended.fault or (f"exit code {ended.code}" if ended.code else ""):
            return f"{fault}\n{told}"
        if len(ended.err.strip().splitlines()) > 1:
            return f"more than one line\n{told}"
    fault = world.differs("run", base / "runs")
    shutil.rmtree(base)
    return f"{fault}\n{told}" if fault else ""


def _nobody_evaluates(world: World) -> str:
    """A colleague's run, which may be read and not be written."""
    base = world.folder / "nobodys-evaluation"
    base.mkdir()
    os.chown(base, NOBODY, NOBODY)
    how = {"environment": world.environment(HOME="/nonexistent", XDG_CACHE_HOME=None), "before": _as_nobody()}
    words = ["-m", "train.evaluate", "--run", str(world.runs / "quiet"), "--split", "valid", "--limits", "off"]
    refused = world.run(words, **how)
    fault = refused.fault or ("" if refused.code == 2 else f"exit code {refused.code} without --output")
    ended = world.run([*words, "--output", str(base)], **how)
    fault = fault or ended.fault or (f"exit code {ended.code}" if ended.code else "")
    shutil.rmtree(base)
    return f"{fault}\n{refused.out}{refused.err}{ended.out}{ended.err}" if fault else ""


def _can_mount(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    with _mounted(folder, "size=100k") as done:
        return done


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _small_disk(world: World, kilobytes: int, number: int) -> str:
    """Preprocess and train on it; with room made, the same commands end as undisturbed."""
    place = world.folder / f"disk-{number}"
    place.mkdir()
    told = ""
    with _mounted(place, f"size={kilobytes}k"):
        acts: tuple[Callable[[], Outcome], ...] = (
            lambda: world.preprocess(cache=place / "cache"),
            lambda: world.train("run", cache=place / "cache", runs=place / "runs"),
        )
        for act in acts:
            ended = act()
            told += f"exit code {ended.code}\n{ended.out}{ended.err}"
            if fault := ended.fault:
                return f"{fault}\n{told}"
            if ended.code and str(place) not in ended.err:
                return f"the line names no path\n{told}"
            if ended.code:
                break
        subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
        for act in acts:
            ended = act()
            told += f"with room: exit code {ended.code}\n{ended.out}{ended.err}"
            if fault := ended.fault or (f"exit code {ended.code} with room" if ended.code else ""):
                return f"{fault}\n{told}"
        fault = world.differs("run", place / "runs")
    return f"{fault}\n{told}" if fault else ""


def _read_only(world: World) -> str:
    """Data and a run on it can be used; what would be written there is refused with the path."""
    place = world.folder / "read-only"
    place.mkdir()
    with _mounted(place, "size=50m"):
        shutil.copytree(world.cache, place / "cache")
        shutil.copytree(world.runs / "quiet", place / "quiet")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        trained = world.train("from-read-only", cache=place / "cache")
        told = trained.out + trained.err
        fault = trained.fault or (f"exit code {trained.code}" if trained.code else world.differs("from-read-only"))
        words = ["-m", "train.evaluate", "--run", str(place / "quiet"), "--split", "valid", "--limits", "off"]
        for more, code in (([], 2), (["--output", str(world.folder / "elsewhere")], 0)):
            ended = world.run([*words, *more])
            told += ended.out + ended.err
            fault = fault or ended.fault or ("" if ended.code == code else f"exit code {ended.code} instead of {code}")
        again = world.preprocess(cache=place / "cache")
        told += again.out + again.err
        fault = fault or again.fault
    return f"{fault}\n{told}" if fault else ""

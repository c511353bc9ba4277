"""Whatever is wrong with the input: exit code 2, one line that names it, and nothing left behind."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess.__main__ import main
from shared.errors import run_program
from tests import support

ROOT = Path(__file__).parents[2]
ROWS = np.arange(0, 160, 16)
Arrays = dict[str, np.ndarray]
Edit = Callable[[Arrays, Arrays], None]


@functools.cache
def stored_sample() -> tuple[Arrays, Arrays]:
    """Read once."""
    return support.read_sample("mixed", "train", ROWS)


def sample() -> tuple[Arrays, Arrays]:
    """Ten different molecules of several sizes."""
    return copy.deepcopy(stored_sample())


def flags(folder: Path, train: tuple[Path, Path], valid: tuple[Path, Path]) -> list[str]:
    """Command line that names these files and a cache folder of its own."""
    names = ["--train-efd", *train[:1], "--train-esp", *train[1:], "--valid-efd", *valid[:1], "--valid-esp", *valid[1:]]
    return [*map(str, names), "--cache-dir", str(folder / "cache"), "--min-bucket-size", "4"]


def write(folder: Path, edit: Edit | None = None) -> list[str]:
    """Write good files, the training pair edited; returns the command line."""
    train, valid = sample(), sample()
    if edit:
        edit(*train)
    return flags(folder, support.write_pair(folder, "train", *train), support.write_pair(folder, "valid", *valid))


def assert_one_line(code: int, err: str, folder: Path, words: list[str]) -> None:
    """Exit code 2, one line that holds all of these words, an empty cache."""
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    left = [path.name for path in (folder / "cache").iterdir()] if (folder / "cache").exists() else []
    # Neither a stage nor a part of one; surveys are whole.
    assert set(left) <= {"digests.json", "surveys", ".lock"}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run the program on a command line and check how it fails."""
    monkeypatch.chdir(tmp_path)

    def run(argv: list[str], *words: str) -> None:
        code = run_program(lambda: main(argv))
        assert_one_line(code, capsys.readouterr().err, tmp_path, list(words))

    return run


def put(file: int, key: str, index: object, value: object) -> Edit:
    """Set one element of a key of the EFD (0) or ESP (1) file."""

    def edit(efd: Arrays, esp: Arrays) -> None:
        array = (efd, esp)[file][key]
        array[index] = value  # type: ignore[index]

    return edit


def replace(file: int, key: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Change one key of the EFD (0) or ESP (1) file as a whole."""

    def edit(efd: Arrays, esp: Arrays) -> None:
        arrays = (efd, esp)[file]
        arrays[key] = change(arrays[key])

    return edit


def _remove(file: int, key: str) -> Edit:
    def edit(efd: Arrays, esp: Arrays) -> None:
        del (efd, esp)[file][key]

    return edit


def _keep_rows(file: int, rows: slice | np.ndarray) -> Edit:
    def edit(efd: Arrays, esp: Arrays) -> None:
        arrays = (efd, esp)[file]
        for key in arrays:
            arrays[key] = arrays[key][rows]

    return edit


def _both(*edits: Edit) -> Edit:
    def edit(efd: Arrays, esp: Arrays) -> None:
        for one in edits:
            one(efd, esp)

    return edit


def _other_atom_order(efd: Arrays, esp: Arrays) -> None:
    esp["Z"][5, :2] = esp["Z"][5, 1::-1]
    esp["R"][5, :2] = esp["R"][5, 1::-1]


def _objects(values: np.ndarray) -> np.ndarray:
    return np.array([*values, None], dtype=object)[:-1]


EFD, ESP = "train-efd.npz", "train-esp.npz"
N0 = int(sample()[0]["N"][0])

MISSING = {
    f"{name} without {key}": (_remove(file, key), [name, f"'{key}'", "missing"])
    for file, name, keys in (
        (0, EFD, ["R", "Z", "E"]),
        (1, ESP, ["R", "Z", "esp", "vdw_surface"]),
    )
    for key in keys
}

CASES: dict[str, tuple[Edit, list[str]]] = {
    **MISSING,
    "R flat": (replace(0, "R", lambda r: r.reshape(len(r), -1)), [EFD, "'R'", "(10, 27)"]),
    "Z flat": (replace(0, "Z", lambda z: z[:, 0]), [EFD, "'Z'", "(10,)"]),
    "Z without columns": (replace(0, "Z", lambda z: z[:, :0]), [EFD, "'Z'", "(10, 0)"]),
    "F of fewer atoms": (replace(0, "F", lambda f: f[:, :-1]), [EFD, "'F'", "(10, 8, 3)"]),
    "E of two columns": (replace(0, "E", lambda e: np.stack([e, e], 1)), [EFD, "'E'", "(10, 2)"]),
    "E of fewer rows": (replace(0, "E", lambda e: e[:-1]), [EFD, "'E'", "(9,)"]),
    "E a number": (replace(0, "E", lambda e: e[0]), [EFD, "'E'", "()"]),
    "Dxyz a norm": (replace(0, "Dxyz", lambda d: np.linalg.norm(d, axis=1)), [EFD, "'Dxyz'", "(10,)"]),
    "esp flat": (replace(1, "esp", lambda v: v.ravel()), [ESP, "'esp'"]),
    "esp of other width": (replace(1, "esp", lambda v: v[:, :-1]), [ESP, "'esp'", "'vdw_surface'"]),
    "vdw_surface transposed": (replace(1, "vdw_surface", lambda g: g.transpose(0, 2, 1)), [ESP, "'vdw_surface'"]),
    "n_grid of fewer rows": (replace(1, "n_grid", lambda n: n[:-1]), [ESP, "'n_grid'", "(9,)"]),
    "Z of floats": (replace(0, "Z", lambda z: z.astype(float)), [EFD, "'Z'", "float64"]),
    "N of floats": (replace(1, "N", lambda n: n.astype(float)), [ESP, "'N'", "float64"]),
    "E of text": (replace(0, "E", lambda e: e.astype(str)), [EFD, "'E'", "<U"]),
    "E complex": (replace(0, "E", lambda e: e.astype(complex)), [EFD, "'E'", "complex"]),
    "R NaN": (put(0, "R", (3, 1, 2), np.nan), [EFD, "'R'", "nan", "row 3", "(3, 1, 2)"]),
    "F infinite": (put(0, "F", (4, 0, 0), -np.inf), [EFD, "'F'", "-inf", "row 4"]),
    "E NaN": (put(0, "E", 7, np.nan), [EFD, "'E'", "nan", "row 7"]),
    "E beyond float32": (put(0, "E", 7, 1e39), [EFD, "'E'", "1e+39", "row 7"]),
    "Dxyz NaN": (put(0, "Dxyz", (2, 1), np.nan), [EFD, "nan", "row 2"]),
    "Q NaN": (lambda efd, esp: efd.update(Q=np.where(np.arange(10) == 6, np.nan, 0)), [EFD, "'Q'", "nan", "row 6"]),
    "R of the ESP file NaN": (put(1, "R", (3, 1, 2), np.nan), [ESP, "'R'", "nan", "row 3"]),
    "esp NaN": (put(1, "esp", (8, 5), np.nan), [ESP, "'esp'", "nan", "row 8"]),
    "vdw_surface infinite": (put(1, "vdw_surface", (8, 5, 0), np.inf), [ESP, "'vdw_surface'", "inf", "row 8"]),
    "rows shuffled": (_keep_rows(1, np.roll(np.arange(10), 1)), [ESP, EFD, "row 0", "sort both files alike"]),
    "two rows exchanged": (_keep_rows(1, np.array([0, 1, 2, 4, 3, 5, 6, 7, 8, 9])), [ESP, EFD, "row 3"]),
    "atoms in another order": (_other_atom_order, [ESP, EFD, "row 5"]),
    "an atom moved": (put(1, "R", (6, 0, 0), 5.0), [ESP, EFD, "row 6", "1 of 10 rows"]),
    "R of the ESP file in Bohr": (replace(1, "R", lambda r: r / 0.529177), [ESP, EFD, "row 0", "R in one unit"]),
    "fewer rows of grids without R": (
        _both(_keep_rows(1, slice(0, 9)), *(_remove(1, key) for key in "RZN")),
        [ESP, EFD, "9 molecules", "has 10"],
    ),
    "none of the rows there": (
        _both(_keep_rows(1, slice(0, 9)), replace(1, "R", lambda r: r + 1.0)),
        [ESP, EFD, "9 molecules", "has 10", "none"],
    ),
    "no rows": (_both(_keep_rows(0, slice(0, 0)), _keep_rows(1, slice(0, 0))), [EFD, "no molecule"]),
    "element 119": (put(0, "Z", (2, 0), 119), [EFD, "row 2", "'Z'", "119", "1 to 118"]),
    "element beyond 32 bits": (
        replace(0, "Z", lambda z: np.where(np.arange(10)[:, None] == 2, z.astype(np.int64) + 2**32, z)),
        [EFD, "row 2", "'Z'"],
    ),
    "negative element": (put(1, "Z", (2, 0), -1), [ESP, "row 2", "'Z'", "-1"]),
    "ghost atom within N": (put(0, "Z", (2, 0), 0), [EFD, "row 2", "'Z'", "0 at atom 0"]),
    "N too small": (put(0, "N", 0, N0 - 1), [EFD, "row 0", "'Z'", f"'N' counts {N0 - 1}"]),
    "N too large": (put(0, "N", 0, 10), [EFD, "row 0", "'N'", "10"]),
    "N zero": (put(0, "N", 4, 0), [EFD, "row 4", "'N'", "0"]),
    "N negative": (put(1, "N", 4, -2), [ESP, "row 4", "'N'", "-2"]),
    "n_grid too large": (put(1, "n_grid", 1, 10_000), [ESP, "row 1", "'n_grid'", "10000"]),
    "n_grid negative": (put(1, "n_grid", 1, -1), [ESP, "row 1", "'n_grid'", "-1"]),
    "objects": (replace(0, "E", _objects), [EFD, "'E'", "object array", "numpy.savez"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arrays(check: Callable[..., None], tmp_path: Path, case: str) -> None:
    """Each names the file, and the key, row or value that is wrong."""
    edit, words = CASES[case]
    check(write(tmp_path, edit), *words)


def test_good_arrays_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The files that the cases above spoil are good."""
    monkeypatch.chdir(tmp_path)
    assert run_program(lambda: main(write(tmp_path))) == 0
    assert "error" not in capsys.readouterr().err


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Within the data of one member (its checksum), not within the archive's directory at the end.
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _mark(offset: int, value: int) -> Callable[[Path], None]:
    """Change a byte of the first entry of the archive's directory and of the header that it points to."""

    def mark(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + offset] = value
        content[content.index(b"PK\x03\x04") + offset - 2] = value
        path.write_bytes(content)

    return mark


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _single_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "truncated": (_truncate, "not a readable NPZ file"),
    "altered": (_flip, "CRC"),
    "marked as encrypted": (_mark(8, 1), "not a readable NPZ file"),
    "of unknown compression": (_mark(10, 99), "not a readable NPZ file"),
    "of false compression": (_mark(10, 14), "not a readable NPZ file"),
    "directory": (_directory, "directory"),
    "missing": (Path.unlink, "no such file"),
    "text": (lambda path: path.write_text("R Z N\n" * 100), "not a readable NPZ file"),
    "one array": (_single_array, "not a readable NPZ file"),
    "no arrays": (lambda path: np.savez(path), "no array"),
}


@pytest.mark.parametrize("name", ["train-efd.npz", "train-esp.npz", "valid-esp.npz"])
@pytest.mark.parametrize("case", FILES)
def test_bad_files(check: Callable[..., None], tmp_path: Path, case: str, name: str) -> None:
    """Each names the file."""
    argv = write(tmp_path)
    spoil, word = FILES[case]
    spoil(tmp_path / name)
    check(argv, name, word)


def test_element_that_training_lacks(check: Callable[..., None], tmp_path: Path) -> None:
    """A validation molecule whose element has no parameters."""
    write(tmp_path)
    efd, esp = sample()
    row = int(np.argmax(efd["N"]))
    for arrays in (efd, esp):
        arrays["Z"][row, 0] = 53
    valid = support.write_pair(tmp_path, "valid", efd, esp)
    check(
        flags(tmp_path, (tmp_path / EFD, tmp_path / ESP), valid),
        "valid-efd.npz",
        f"row {row}",
        "I (Z = 53)",
        "training",
    )


def test_glob_that_matches_nothing(check: Callable[..., None], tmp_path: Path) -> None:
    """The flag and the pattern."""
    argv = write(tmp_path)
    argv[argv.index("--train-esp") + 1] = str(tmp_path / "nothing-*.npz")
    check(argv, "--train-esp", "nothing-*.npz", "matches no file")


def test_glob_that_matches_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In alphabetical order, for both files alike."""
    monkeypatch.chdir(tmp_path)
    argv = write(tmp_path)
    argv[argv.index("--train-efd") + 1] = str(tmp_path / "train-e?d.npz")
    assert run_program(lambda: main(argv)) == 0


def test_unpaired_numbers_of_files(check: Callable[..., None], tmp_path: Path) -> None:
    """Two files of one kind, one of the other."""
    argv = write(tmp_path)
    argv.insert(argv.index("--train-efd"), "--train-efd=" + str(tmp_path / EFD))
    check(argv, "--train-efd names 2 files", "--train-esp 1")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_split_that_is_needed(check: Callable[..., None], tmp_path: Path, split: str) -> None:
    """Training and validation files must be given."""
    argv = write(tmp_path)
    for kind in ("efd", "esp"):
        at = argv.index(f"--{split}-{kind}")
        del argv[at : at + 2]
    check(argv, f"no {split} files", f"--{split}-efd")


def test_bad_input_leaves_an_earlier_cache_as_it_was(check: Callable[..., None], tmp_path: Path) -> None:
    """A grid with NaN is found only after the shards are begun: nothing of them stays, the old ones do."""
    assert run_program(lambda: main(write(tmp_path))) == 0
    cache = tmp_path / "cache"
    before = {p: p.read_bytes() for p in cache.glob("*-*/*")}
    argv = write(tmp_path, put(1, "esp", (8, 5), np.nan))
    assert run_program(lambda: main(argv)) == 2
    assert {p: p.read_bytes() for p in cache.glob("*-*/*")} == before


def run_module(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The program as users start it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "preprocess", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_as_a_process_bad_data(tmp_path: Path) -> None:
    """NaN in a grid: code 2, one line, no traceback, no progress bar in a pipe."""
    done = run_module(write(tmp_path, put(1, "esp", (8, 5), np.nan)), tmp_path)
    assert_one_line(done.returncode, done.stderr, tmp_path, [ESP, "'esp'", "row 8"])
    assert done.stdout == ""


def test_as_a_process_unknown_flag(tmp_path: Path) -> None:
    """Code 2, the nearest flag, nothing built."""
    done = run_module([*write(tmp_path), "--max-bucketz", "2"], tmp_path)
    assert done.returncode == 2
    assert "--max-buckets" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cache").exists()

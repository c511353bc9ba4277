"""Files divided among splits: exactly, reproducibly, no molecule in two, and as a file says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.transform import Rotation

from preprocess.input.molecule_kinds import join_kinds
from preprocess.input.splits import divide_by_kind
from shared.bond_graphs import describe_kinds
from shared.errors import UserError
from shared.manifest import SPLIT_TABLE, current_stages, read_manifest, stage_folder
from shared.schema import SPLITS
from tests import support
from tests.input.shards import assert_same, read_clean, read_shards

ROWS = np.arange(0, 304, 3)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mixed molecules, targets and grids in one file."""
    efd, esp = support.read_sample("mixed", "train", ROWS)
    path = tmp_path_factory.mktemp("one") / "all.npz"
    np.savez(path, **{**efd, **esp})
    return path


def divide(tmp_path: Path, path: Path, **changes: Any) -> dict[int, str]:
    """Preprocess a file; the split of each row."""
    support.run_preprocess({"data": (str(path),)}, tmp_path / "cache", **changes)
    return {molecule["row"]: molecule["split"] for molecule in read_shards(tmp_path / "cache")}


def test_every_row_is_in_one_split_and_is_what_it_was(one_file: Path, tmp_path: Path) -> None:
    """By frame: exact shares, the same again, others with another seed."""
    first = divide(tmp_path, one_file, split_by="frame")
    assert sorted(first) == list(range(len(ROWS)))
    assert [list(first.values()).count(split) for split in SPLITS] == [82, 10, 10]
    efd, esp = support.read_sample("mixed", "train", ROWS)
    assert_same(read_shards(tmp_path / "cache"), read_clean(efd, esp))
    assert divide(tmp_path / "again", one_file, split_by="frame", chunk_mib=0.05) == first
    assert divide(tmp_path / "other", one_file, split_by="frame", split_seed=1) != first


def test_by_default_no_molecule_is_in_two_splits(
    one_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names, which the division here may not look at, agree."""
    arrays = dict(np.load(one_file))
    names = arrays.pop("name")
    np.savez(tmp_path / "nameless.npz", **arrays)
    split_of = divide(tmp_path, tmp_path / "nameless.npz")
    splits_of_name: dict[str, set[str]] = {}
    for row, split in split_of.items():
        splits_of_name.setdefault(str(names[row]), set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of_name.values())
    assert set(split_of.values()) == set(SPLITS)
    count = int(re.search(r"divided by molecule \((\d+) of them\)", capsys.readouterr().out)[1])  # type: ignore[index]
    assert count == len(splits_of_name)


@pytest.mark.parametrize("masked", [False, True])
def test_frames_without_an_esp_are_counted_in_their_split(masked: bool, one_file: Path, tmp_path: Path) -> None:
    """Those of which all values are 0 too, and only the points that are left, by number or also by mask."""
    arrays = dict(np.load(one_file))
    arrays["esp"][::3] = 0.0
    if masked:
        arrays["espMask"] = np.arange(arrays["esp"].shape[1]) % 2 * np.ones((len(ROWS), 1), np.int64)
    np.savez(tmp_path / "all.npz", **arrays)
    divide(tmp_path, tmp_path / "all.npz", split_by="frame", chunk_mib=0.05)
    cache_dir, found = tmp_path / "cache", read_shards(tmp_path / "cache")
    manifest = read_manifest(stage_folder(cache_dir, "frames", current_stages(cache_dir)["frames"]))
    assert manifest is not None
    for split in SPLITS:
        own = [one for one in found if one["split"] == split]
        counts = manifest["splits"][split]
        assert counts["lacking"]["esp"] == sum(one["row"] % 3 == 0 for one in own)
        assert counts["grid_points"] == sum(len(one["esp"]) for one in own)


def test_frames_of_one_molecule_are_divided_by_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing else to divide."""
    efd, esp = support.read_sample("co2", "train", np.arange(20))
    np.savez(tmp_path / "co2.npz", **{**efd, **esp})
    split_of = divide(tmp_path, tmp_path / "co2.npz")
    assert [list(split_of.values()).count(split) for split in SPLITS] == [16, 2, 2]
    assert "by frame (all are one molecule)" in capsys.readouterr().out


def test_by_formula(one_file: Path, tmp_path: Path) -> None:
    """Isomers stay together."""
    split_of = divide(tmp_path, one_file, split_by="formula")
    arrays = dict(np.load(one_file))
    splits: dict[bytes, set[str]] = {}
    for row, split in split_of.items():
        splits.setdefault(np.sort(arrays["Z"][row]).tobytes(), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_the_division_is_written_down_and_read_back(one_file: Path, tmp_path: Path) -> None:
    """``split_indices.npz`` of the frames gives the same division."""
    first = divide(tmp_path, one_file)
    frames = stage_folder(tmp_path / "cache", "frames", current_stages(tmp_path / "cache")["frames"])
    table = dict(np.load(frames / SPLIT_TABLE, allow_pickle=False))
    assert {int(row): split for split in SPLITS for row in table[split]} == first
    assert divide(tmp_path / "again", one_file, split_file=str(frames / SPLIT_TABLE)) == first


def test_a_file_of_the_predecessor(one_file: Path, tmp_path: Path) -> None:
    """Other names; rows that it does not name are in no split; several files are counted through."""
    np.savez(tmp_path / "split_indices.npz", train_idx=np.arange(100), val_idx=[101, 103])
    settings = {"data": (str(one_file), str(one_file)), "split_file": str(tmp_path / "split_indices.npz")}
    support.run_preprocess(settings, tmp_path / "cache")
    found = {m["row"]: m["split"] for m in read_shards(tmp_path / "cache")}
    assert found == {**dict.fromkeys(range(100), "train"), 101: "valid", 103: "valid"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"train": [0, 1], "valid": [102]}, r"'valid' names row 102, but the files hold 102 rows"),
        ({"train": [0, 1], "valid": [1]}, r"row 1 is in 'valid' and in train"),
        ({"train": [0, 1]}, r"key 'valid' or .* is missing"),
        ({"train": [0.5], "valid": [1]}, r"'train' has dtype float64"),
        ({"train": [0, 1], "valid": np.zeros(0, int)}, "valid split would be empty"),
    ],
)
def test_a_split_file_that_does_not_fit(members: dict[str, Any], message: str, one_file: Path, tmp_path: Path) -> None:
    """One line that says why."""
    np.savez(tmp_path / "split.npz", **members)
    with pytest.raises(UserError, match=message):
        divide(tmp_path, one_file, split_file=str(tmp_path / "split.npz"))


@pytest.mark.parametrize("shares", [(0.9, 0.2), (0.8,), (1.0, 0.0), (0.5, 0.6, -0.1), (np.nan, 0.1, 0.1)])
def test_shares_that_are_none(shares: tuple[float, ...], one_file: Path, tmp_path: Path) -> None:
    """Refused before anything is read."""
    with pytest.raises(UserError, match="--split"):
        divide(tmp_path, one_file, split=shares)


def test_divided_files_and_files_of_splits_exclude_each_other(one_file: Path, tmp_path: Path) -> None:
    """Nobody could say which split is meant."""
    with pytest.raises(UserError, match=r"--data .* --train-efd"):
        support.run_preprocess({"data": (str(one_file),), "train_efd": (str(one_file),)}, tmp_path)


def kinds_of(frames: list[ase.Atoms]) -> np.ndarray:
    """Kinds of molecules without names."""
    width = max(len(frame) for frame in frames)
    numbers, positions = np.zeros((len(frames), width), np.int64), np.zeros((len(frames), width, 3))
    for i, frame in enumerate(frames):
        numbers[i, : len(frame)], positions[i, : len(frame)] = frame.numbers, frame.positions
    counts = np.array([len(frame) for frame in frames])
    return join_kinds([describe_kinds(numbers, counts, positions, np.zeros(len(frames), "S1"))])


def shaken(name: str, seed: int, strength: float = 0.05) -> ase.Atoms:
    """A molecule displaced, turned, its atoms in another order."""
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    atoms.positions += strength * rng.normal(size=atoms.positions.shape)
    atoms.positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix().T + 5 * rng.normal(size=3)
    return atoms[rng.permutation(len(atoms))]


def test_isomers_differ_and_frames_do_not() -> None:
    """Ethanol and dimethyl ether, cyclopropane and propene; whatever the order of their atoms."""
    names = ["CH3CH2OH", "CH3OCH3", "C3H6_D3h", "CH3CH2OCH3", "CO2"]
    frames = [shaken(name, seed) for name in names for seed in range(6)]
    kinds = kinds_of(frames).reshape(len(names), 6)
    assert (kinds == kinds[:, :1]).all()
    assert len(np.unique(kinds[:, 0])) == len(names)


def test_a_broken_molecule_is_with_its_whole_one() -> None:
    """Carbon dioxide on its way to carbon monoxide and oxygen, each step with the one before."""
    scan = []
    for distance in np.linspace(1.16, 4.0, 12):
        atoms = molecule("CO2")
        atoms.set_distance(0, 1, distance, fix=0)
        scan.append(atoms)
    assert len(np.unique(kinds_of([*scan, molecule("H2O")]))) == 2


def test_kinds_are_divided_by_their_numbers_of_rows() -> None:
    """Shares of the rows, not of the kinds, as near as whole kinds allow."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(200, dtype=np.uint64), rng.integers(1, 20, 200))
    for seed in range(5):
        split = divide_by_kind(kinds, (0.7, 0.2, 0.1), seed)
        assert all(len(np.unique(split[kinds == kind])) == 1 for kind in np.unique(kinds))
        np.testing.assert_allclose(np.bincount(split) / len(kinds), [0.7, 0.2, 0.1], atol=0.02)


@pytest.mark.parametrize("count", [2, 3, 5, 7, 11])
def test_few_rows_still_have_a_validation_split(count: int) -> None:
    """And a test split from five on."""
    split = divide_by_kind(np.arange(count, dtype=np.uint64), (0.8, 0.1, 0.1), 0)
    numbers = np.bincount(split, minlength=3)
    assert numbers.sum() == count
    assert (numbers[:2] > 0).all()
    assert (numbers[2] > 0) == (count >= 5)

"""Shards: what is written is read back; damage is found and told."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared.digest_cache import DigestCache
from shared.errors import UserError
from shared.shards import ShardWriter, describe_shard, map_shard, verify_shard
from tests import support
from train.data.dataset import open_cache

ARRAYS = {
    "positions": np.linspace(-1, 1, 5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3),
    "atomic_numbers": np.arange(20, dtype=np.int32).reshape(5, 4),
    "row": np.array([2**40, 1, 2, 3, 4], dtype=np.int64),
    "name": np.array(["äö".encode(), b"CO2", b"", b"x", b"y"]),
    "physnet_dst": np.zeros((5, 0), dtype=np.int32),
}


def write_shard(path: Path) -> None:
    """The arrays above, in two slices."""
    layout = {name: (values.shape, values.dtype.str) for name, values in ARRAYS.items()}
    with ShardWriter(path, layout) as shard:
        for first, rows in ((2, slice(2, 5)), (0, slice(0, 2))):
            for name, values in ARRAYS.items():
                shard.write(name, first, values[rows])


def test_round_trip(tmp_path: Path) -> None:
    """Same names, shapes, dtypes and values, arrays without elements included, mapped and as HDF5 itself reads them;
    mapped arrays refuse to be written."""
    write_shard(tmp_path / "a.h5")
    mapped = map_shard(tmp_path / "a.h5")
    assert set(mapped) == set(ARRAYS)
    with h5py.File(tmp_path / "a.h5") as file:
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(mapped[name], values, strict=True)
            np.testing.assert_array_equal(file[name][...], values, strict=True)
    with pytest.raises(ValueError, match="read-only"):
        mapped["row"][0] = 1


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Too many rows, or another shape, would overwrite the next array."""
    with ShardWriter(tmp_path / "a.h5", {"a": ((3, 2), "<f4"), "b": ((3,), "<i4")}) as shard:
        for first, rows in (
            (0, np.zeros((4, 2))),
            (2, np.zeros((2, 2))),
            (-1, np.zeros((1, 2))),
            (0, np.zeros((3, 3))),
        ):
            with pytest.raises(ValueError, match="do not fit"):
                shard.write("a", first, rows)


def test_same_arrays_give_same_bytes(tmp_path: Path) -> None:
    """No time stamps inside."""
    write_shard(tmp_path / "a.h5")
    write_shard(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_foreign_file_is_told_in_a_line(tmp_path: Path) -> None:
    """A file that is no HDF5 file."""
    (tmp_path / "a.h5").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError, match="make preprocess"):
        map_shard(tmp_path / "a.h5")


def flip_byte(path: Path) -> None:
    """Change one byte in the middle; the size, and the modification time, stay."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(path: Path) -> None:
    """Drop the last byte."""
    os.truncate(path, path.stat().st_size - 1)


DAMAGE = {"truncated": truncate, "altered": flip_byte, "missing": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_finds_damage(tmp_path: Path, damage: str) -> None:
    """An intact shard passes, with its digest remembered; then each kind of damage is found and the remedy named."""
    path = tmp_path / "a.h5"
    write_shard(path)
    entry = describe_shard(path, "train", 0, 5)
    digests = DigestCache(tmp_path / "digests.json")
    assert verify_shard(tmp_path, entry, digests) == path
    digests.save()
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=r"a\.h5: shard.*make preprocess"):
        verify_shard(tmp_path, entry, DigestCache(tmp_path / "digests.json"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[str, ...]], Path]:
    """Settings that name a few molecules' files, and their cache. Read only."""
    folder = tmp_path_factory.mktemp("prepared")
    settings = support.write_splits(folder / "input", train=6, valid=3)
    support.run_preprocess(settings, folder / "cache")
    return settings, folder / "cache"


def shards_of(folder: Path) -> list[Path]:
    """Every shard below the cache folder."""
    return sorted(folder.rglob("*.h5"))


@pytest.mark.parametrize("stage", ["frames", "edges"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_opening_finds_damage_and_preprocessing_repairs_it(
    prepared: tuple[dict[str, tuple[str, ...]], Path], tmp_path: Path, stage: str, damage: str
) -> None:
    """Each kind of damage in each stage; afterwards the shards are those of before, byte for byte."""
    settings, original = prepared
    folder = tmp_path / "cache"
    shutil.copytree(original, folder)
    open_cache(folder, 6.0, 10.0)
    before = {p.relative_to(folder): p.read_bytes() for p in shards_of(folder)}
    victim = next(p for p in shards_of(folder) if p.parent.name.startswith(stage))
    DAMAGE[damage](victim)
    with pytest.raises(UserError) as caught:
        open_cache(folder, 6.0, 10.0)
    assert str(victim) in str(caught.value)
    assert "make preprocess" in str(caught.value)
    support.run_preprocess(settings, folder)
    open_cache(folder, 6.0, 10.0)
    assert {p.relative_to(folder): p.read_bytes() for p in shards_of(folder)} == before


@pytest.mark.parametrize(("physnet", "dcmnet"), [(5.5, 10.0), (6.0, 10.5)])
def test_absent_cutoff_names_the_command_that_makes_it(small_cache: Path, physnet: float, dcmnet: float) -> None:
    """With both cutoffs, ready to be pasted."""
    command = f"make preprocess PHYSNET_CUTOFF={physnet:g} DCMNET_CUTOFF={dcmnet:g}`"
    with pytest.raises(UserError, match=re.escape(command)):
        open_cache(small_cache, physnet, dcmnet)


def test_nothing_preprocessed_names_the_command(tmp_path: Path) -> None:
    """An empty folder and an absent one; current.json that names frames that are gone, or is damaged."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="make preprocess"):
            open_cache(folder, 6.0, 10.0)
    for content in (json.dumps({"frames": "0123456789abcdef" * 2}), "{", "[]", "{}"):
        (tmp_path / "current.json").write_text(content)
        with pytest.raises(UserError, match="make preprocess"):
            open_cache(tmp_path, 6.0, 10.0)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 0}', "\udcff"])
def test_damaged_manifest_is_told_and_rebuilt(
    prepared: tuple[dict[str, tuple[str, ...]], Path], tmp_path: Path, content: str
) -> None:
    """Not JSON, not an object, another schema, not text."""
    settings, original = prepared
    shutil.copytree(original, tmp_path / "cache")
    manifest = next((tmp_path / "cache").glob("frames-*")) / "manifest.json"
    intact = manifest.read_bytes()
    manifest.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"manifest\.json.*make preprocess"):
        open_cache(tmp_path / "cache", 6.0, 10.0)
    support.run_preprocess(settings, tmp_path / "cache")
    assert manifest.read_bytes() == intact


def test_damaged_memory_of_digests_costs_only_time(prepared: tuple[object, Path], tmp_path: Path) -> None:
    """digests.json may be lost or nonsense."""
    shutil.copytree(prepared[1], tmp_path / "cache")
    for content in ("{", "[1]", '{"a": 3}'):
        (tmp_path / "cache" / "digests.json").write_text(content)
        assert open_cache(tmp_path / "cache", 6.0, 10.0).has_split("train")

"""What is said of targets that frames lack, and which splits can be trained and validated."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from shared.errors import UserError
from tests import support
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.data.missing_targets import check_esp, count_missing, describe_missing

CONFIG = support.small_config()


@pytest.fixture
def cache(small_cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_cache, tmp_path / "cache"))


def loaders(cache: Path, selection: EspSelection | None = None) -> tuple[Loader, Loader]:
    opened = open_cache(cache, 6.0, 10.0)
    train, valid = (Loader(opened.load_split(split), 4, selection or EspSelection(1.0)) for split in ("train", "valid"))
    return train, valid


def test_nothing_is_said_of_complete_data(small_cache: Path) -> None:
    train, valid = loaders(small_cache)
    assert count_missing(train) == {"energy": 0, "forces": 0, "dipole": 0, "ESP": 0}
    assert describe_missing(train, valid) == []
    check_esp(train, valid, CONFIG)


def test_missing_targets_are_counted(cache: Path) -> None:
    support.remove_targets(cache, "train", energy=[3], forces=range(5, 12), dipole=support.EVERY_ROW)
    support.remove_targets(cache, "valid", esp=[0, 9])
    train, valid = loaders(cache)
    assert count_missing(train) == {"energy": 1, "forces": 7, "dipole": 20, "ESP": 0}
    counts, absent = describe_missing(train, valid)
    assert "train: of 20 frames 1 without energy, 7 without forces, 20 without dipole" in counts
    assert "valid: of 10 frames 2 without ESP" in counts
    assert "no training frame has a dipole" in absent
    check_esp(train, valid, CONFIG)


def test_the_esp_must_be_validated_where_it_is_trained(cache: Path) -> None:
    support.remove_targets(cache, "valid", esp=support.EVERY_ROW)
    with pytest.raises(UserError, match=r"no validation frame has an ESP, .*--esp-weight 0"):
        check_esp(*loaders(cache), CONFIG)
    check_esp(*loaders(cache), dataclasses.replace(CONFIG, esp_weight=0.0))
    support.remove_targets(cache, "train", esp=support.EVERY_ROW)
    check_esp(*loaders(cache), CONFIG)


def test_the_esp_is_looked_for_where_there_is_one(cache: Path) -> None:
    """The first frames of every bucket have none, and those that have one need points that count."""
    rows = sorted(row for bucket in loaders(cache)[1].buckets for row in bucket.column("row")[:-1].tolist())
    support.remove_targets(cache, "valid", esp=rows)
    check_esp(*loaders(cache), CONFIG)
    far = EspSelection(min_distance=50.0)
    with pytest.raises(UserError, match="lower --esp-radius-factor"):
        check_esp(*loaders(cache, far), CONFIG)
    check_esp(*loaders(cache, far), dataclasses.replace(CONFIG, esp_weight=0.0))

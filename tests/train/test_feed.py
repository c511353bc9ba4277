"""Where the data are kept, and that the device takes every planned step whichever way."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.cache import open_cache
from shared.errors import UserError
from tests import support
from train import feed
from train.compiled import Steps
from train.devices import all_devices
from train.esp_points import EspSelection
from train.feed import ResidentFeed, StreamFeed, build_feed
from train.loader import Loader


@pytest.fixture
def loader(small_cache: Path) -> Loader:
    return Loader(open_cache(small_cache, 6.0, 10.0).load_split("train"), 2, EspSelection())


def build(loader: Loader, **changes: Any) -> feed.Feed:
    config = support.small_config(**changes)
    return build_feed(config, Steps(config, 5, all_devices()), loader)


def test_size_decides_where_the_data_are_kept(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [loader.gather(i, np.arange(len(bucket)), len(bucket)) for i, bucket in enumerate(loader.buckets)]
    assert loader.nbytes == sum(array.nbytes for batch in everything for array in batch)
    monkeypatch.setattr(feed, "_free_memory", lambda devices: 10.0 * loader.nbytes)
    assert isinstance(build(loader), ResidentFeed)
    assert isinstance(build(loader, data_placement="stream"), StreamFeed)
    monkeypatch.setattr(feed, "_free_memory", lambda devices: 2.0 * loader.nbytes)
    assert isinstance(build(loader), StreamFeed)
    assert isinstance(build(loader, data_placement="device"), ResidentFeed)
    monkeypatch.setattr(feed, "_free_memory", lambda devices: 1.0 * loader.nbytes)
    with pytest.raises(UserError, match="use --data-placement stream"):
        build(loader, data_placement="device")


def test_every_planned_step_is_dispatched_once(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps a dispatch takes, and in the order of the plan."""
    kept = build(loader, data_placement="device")
    assert isinstance(kept, ResidentFeed)
    taken: list[list[int]] = []

    class Loss:
        def block_until_ready(self) -> None:
            """Has arrived."""

    def record(state: int, sums: int, data: Any, rows: Any, first: int, last: int) -> Any:
        assert data is kept._data[plans[len(taken)].bucket]
        taken.extend([int(row) for row in rows[i] if row >= 0] for i in range(first, last))
        return state, sums, Loss()

    monkeypatch.setattr(kept.steps, "train_resident", record)
    monkeypatch.setattr(feed, "_SECONDS_PER_DISPATCH", 1e9)
    monkeypatch.setattr(Loader, "run_length", lambda *_: 3)
    molecules = 0
    dispatches = 0
    for epoch in range(2):
        plans = loader.plan(1, epoch)
        taken.clear()
        for done in kept.epoch(0, 0, plans):  # type: ignore[arg-type]
            molecules += done.molecules
            dispatches += 1
        assert taken == [plan.rows.tolist() for plan in plans]
    assert molecules == 2 * len(loader)
    assert dispatches < 2 * loader.batches_per_epoch


def test_runs_of_a_bucket_are_short(loader: Loader) -> None:
    """One dispatch may take a run, but the buckets still take turns: at least eight runs each, if there are batches."""
    big = dataclasses.replace(loader.buckets[0], shards=loader.buckets[0].shards * 40)
    many = Loader([big, big], 2, EspSelection())
    assert 1 < many.run_length(0) <= len(big) / 2 / 8 + 1
    orders = [plan.bucket for plan in many.plan(0, 0)]
    switches = sum(a != b for a, b in itertools.pairwise(orders))
    assert switches >= 5

"""Where the data are kept, and that the device takes every planned step whichever way."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pytest

from shared.errors import UserError
from tests import support
from train.data.batch import Batch
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.run import blocks, epoch
from train.run.blocks import Blocks, ResidentBlocks, StreamedBlocks, open_blocks
from train.run.epoch import EpochRunner
from train.step.compiled_steps import Steps
from train.step.devices import all_devices


@pytest.fixture
def loader(small_cache: Path) -> Loader:
    return Loader(open_cache(small_cache, 6.0, 10.0).load_split("train"), 2, EspSelection())


def build(loader: Loader, **changes: Any) -> Blocks:
    config = support.small_config(**changes)
    return open_blocks(config, Steps(config, 5, all_devices()), loader)


def test_size_decides_where_the_data_are_kept(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [loader.read_rows(i, np.arange(len(bucket)), len(bucket)) for i, bucket in enumerate(loader.buckets)]
    assert loader.nbytes == sum(array.nbytes for batch in everything for array in jax.tree.leaves(batch))
    monkeypatch.setattr(blocks, "_free_memory", lambda devices: 10.0 * loader.nbytes)
    assert isinstance(build(loader), ResidentBlocks)
    assert isinstance(build(loader, data_placement="stream"), StreamedBlocks)
    monkeypatch.setattr(blocks, "_free_memory", lambda devices: 2.0 * loader.nbytes)
    assert isinstance(build(loader), StreamedBlocks)
    assert isinstance(build(loader, data_placement="device"), ResidentBlocks)
    monkeypatch.setattr(blocks, "_free_memory", lambda devices: 1.0 * loader.nbytes)
    with pytest.raises(UserError, match="use --data-placement stream"):
        build(loader, data_placement="device")


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_every_planned_step_is_dispatched_once(
    loader: Loader, monkeypatch: pytest.MonkeyPatch, placement: Literal["device", "stream"]
) -> None:
    """However many steps a dispatch takes, and in the order of the plan."""
    built = build(loader, data_placement=placement)
    taken: list[list[float]] = []

    class Loss:
        def block_until_ready(self) -> None:
            """Has arrived."""

        def is_ready(self) -> bool:
            return True

    def record_resident(state: int, sums: int, data: Batch, rows: Any, first: int, last: int) -> Any:
        energy = np.asarray(data.energy)
        taken.extend([float(energy[row]) for row in rows[i] if row >= 0] for i in range(first, last))
        return state, sums, Loss()

    def record_block(state: int, sums: int, batches: Batch, first: int, last: int) -> Any:
        mask, energy = np.asarray(batches.molecule_mask), np.asarray(batches.energy)
        taken.extend(energy[i][mask[i]].tolist() for i in range(first, last))
        return state, sums, Loss()

    monkeypatch.setattr(built.steps, "train_resident", record_resident)
    monkeypatch.setattr(built.steps, "train_block", record_block)
    monkeypatch.setattr(epoch, "_SECONDS_PER_DISPATCH", 1e9)
    monkeypatch.setattr(Loader, "run_length", lambda *_: 3)
    molecules = 0
    dispatches = 0
    runner = EpochRunner(built)
    for number in range(2):
        plans = loader.plan(1, number)
        taken.clear()
        for done in runner.run(0, 0, plans):  # type: ignore[arg-type]
            molecules += done.molecules
            dispatches += 1
        assert taken == [loader.buckets[plan.bucket].take("energy", plan.rows).tolist() for plan in plans]
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

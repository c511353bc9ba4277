"""Batches: every molecule once, seeded order, fixed shapes, and a thread whose errors are heard."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from shared.buckets import BucketShape
from tests import support
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import BatchPlan, Loader, in_blocks

BATCH_SIZE = 3


def plan_key(plans: list[BatchPlan]) -> list[tuple[int, ...]]:
    return [(plan.bucket, *map(int, plan.rows)) for plan in plans]


@pytest.fixture(scope="module")
def loader(small_cache: Path) -> Loader:
    made = Loader(open_cache(small_cache, 6.0, 10.0).load_split("train"), BATCH_SIZE, EspSelection(radius_factor=1.0))
    assert len(made) == 20
    assert len(made.buckets) >= 2
    return made


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_each_molecule_once_per_epoch(loader: Loader, seed: int | None) -> None:
    plans = loader.plan(seed, epoch=3)
    assert len(plans) == loader.batches_per_epoch
    seen = Counter((plan.bucket, int(row)) for plan in plans for row in plan.rows)
    assert set(seen) == {(b, row) for b, bucket in enumerate(loader.buckets) for row in range(len(bucket))}
    assert set(seen.values()) == {1}


def test_energies_of_an_epoch_are_those_of_the_data(loader: Loader) -> None:
    read = [batch.energy[batch.molecule_mask] for _, batch in loader.stream(loader.plan(1, 0), loader.read)]
    stored = np.concatenate([bucket.column("energy") for bucket in loader.buckets])
    np.testing.assert_array_equal(np.sort(np.concatenate(read)), np.sort(stored))


def test_shuffle_is_a_function_of_seed_and_epoch(loader: Loader) -> None:
    assert plan_key(loader.plan(1, 2)) == plan_key(loader.plan(1, 2))
    assert plan_key(loader.plan(1, 2)) != plan_key(loader.plan(1, 3))
    assert plan_key(loader.plan(1, 2)) != plan_key(loader.plan(2, 2))
    in_order = loader.plan()
    assert [plan.bucket for plan in in_order] == sorted(plan.bucket for plan in in_order)
    # Molecules are shuffled, not only whole batches.
    groups = {frozenset(key) for key in plan_key(in_order)}
    assert {frozenset(key) for key in plan_key(loader.plan(1, 2))} != groups


def test_buckets_are_interleaved(loader: Loader) -> None:
    orders = [[plan.bucket for plan in loader.plan(0, epoch)] for epoch in range(6)]
    # One bucket after the other in every epoch would be a changing distribution for the optimizer.
    switches = [sum(a != b for a, b in pairwise(order)) for order in orders]
    assert max(switches) > len(loader.buckets) - 1
    assert len({tuple(order) for order in orders}) > 1


def test_last_batch_is_padded_and_masked(loader: Loader) -> None:
    partial = [plan for plan in loader.plan() if len(plan.rows) < BATCH_SIZE]
    assert partial, "no bucket ends in a partial batch: choose another batch size"
    for plan in partial:
        batch = loader.read(plan)
        n = len(plan.rows)
        np.testing.assert_array_equal(batch.molecule_mask, np.arange(BATCH_SIZE) < n)
        assert (batch.atomic_numbers[:n] > 0).any(axis=1).all()
        assert not batch.atomic_numbers[n:].any()
        assert not batch.esp_mask[n:].any()
        assert not batch.physnet_n_edges[n:].any()


def test_rows_are_those_of_the_shards(loader: Loader) -> None:
    plan = loader.plan(4, 0)[0]
    batch, bucket = loader.read(plan), loader.buckets[plan.bucket]
    rows = np.sort(plan.rows)
    for name in ("atomic_numbers", "positions", "forces", "grid", "esp", "physnet_dst", "dcmnet_src", "total_charge"):
        np.testing.assert_array_equal(getattr(batch, name)[: len(rows)], bucket.take(name, rows), err_msg=name)
    for i, row in enumerate(rows):
        assert not batch.esp_mask[i, bucket.column("n_grid")[row] :].any()
    assert batch.esp_mask.any()


def test_stream_equals_read(loader: Loader) -> None:
    plans = loader.plan(9, 1)
    streamed = list(loader.stream(plans, loader.read))
    assert plan_key([plan for plan, _ in streamed]) == plan_key(plans)
    for plan, batch in streamed:
        for name, expected in loader.read(plan)._asdict().items():
            np.testing.assert_array_equal(getattr(batch, name), expected, err_msg=name)


@pytest.mark.parametrize("part", [None, slice(1, 3)])
def test_blocks_are_their_batches(loader: Loader, part: slice | None) -> None:
    """In the order of the plan, whole or a process's part of each, and empty beyond the last batch."""
    plans = loader.plan(9, 1)
    blocks = in_blocks(plans, lambda bucket: 2)
    assert plan_key([plan for block in blocks for plan in block.plans]) == plan_key(plans)
    assert {len(block.plans) for block in blocks} == {1, 2}
    for block, read in loader.stream_blocks(blocks, lambda block: loader.read_block(block, 2, part)):
        batches = read.result()
        for i, plan in enumerate(block.plans):
            own = jax.tree.map(lambda array, i=i: array[i], batches)
            jax.tree.map(np.testing.assert_array_equal, own, loader.read(plan, part))
        assert not batches.molecule_mask[len(block.plans) :].any()


def test_blocks_keep_to_their_memory(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "run_length", lambda *_: 64)
    assert loader.block_length(0) == 64
    one = sum(array.nbytes for array in jax.tree.leaves(loader.read(loader.plan()[0])))
    monkeypatch.setattr("train.data.loader._BLOCK_BYTES", 5 * one + one // 2)
    assert loader.block_length(0) == 5
    monkeypatch.setattr("train.data.loader._BLOCK_BYTES", one // 2)
    assert loader.block_length(0) == 1


def test_one_shape_for_each_bucket(loader: Loader) -> None:
    shapes: dict[int, set[object]] = {}
    for epoch in range(2):
        for plan, batch in loader.stream(loader.plan(0, epoch), loader.read):
            signature = tuple((array.shape, array.dtype.str) for array in jax.tree.leaves(batch))
            shapes.setdefault(plan.bucket, set()).add(signature)
    assert {bucket: len(signatures) for bucket, signatures in shapes.items()} == dict.fromkeys(
        range(len(loader.buckets)), 1
    )
    bucket: BucketShape = loader.buckets[0].shape
    first = next(batch for plan, batch in loader.stream(loader.plan(), loader.read) if plan.bucket == 0)
    assert first.positions.shape == (BATCH_SIZE, bucket.frame.atoms, 3)
    assert first.esp.shape == (BATCH_SIZE, bucket.frame.grid)
    assert first.dcmnet_src.shape == (BATCH_SIZE, bucket.edge.dcmnet_edges)


def test_an_error_of_the_reading_thread_is_raised(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, read = loader.plan(0, 0), loader.read
    bad = plans[2]

    def failing(plan: BatchPlan) -> object:
        if plan is bad:
            raise OSError("the disk is gone")
        return read(plan)

    monkeypatch.setattr(loader, "read", failing)
    received: list[BatchPlan] = []
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012
        for plan, _ in loader.stream(plans, loader.read):
            received.append(plan)
    assert plan_key(received) == plan_key(plans[:2])


def test_a_stream_may_be_left_early(loader: Loader) -> None:
    stream = loader.stream(loader.plan(0, 0), loader.read)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(list(loader.stream(loader.plan(0, 0), loader.read))) == loader.batches_per_epoch


def test_both_networks_get_their_own_edges(tmp_path: Path) -> None:
    """Lists are counted afresh from the positions, at either cutoff."""
    settings = support.write_splits(tmp_path / "input", train=4, valid=2)
    support.run_preprocess(settings, tmp_path / "cache", physnet_cutoff=1.5, dcmnet_cutoff=2.5)
    loader = Loader(open_cache(tmp_path / "cache", 1.5, 2.5).load_split("train"), 4, EspSelection())
    counts = {1.5: 0, 2.5: 0}
    for _, batch in loader.stream(loader.plan(), loader.read):
        for i in np.flatnonzero(batch.molecule_mask):
            real = batch.positions[i][batch.atomic_numbers[i] > 0].astype(np.float64)
            distances = np.linalg.norm(real[:, None] - real[None], axis=-1) + 1e9 * np.eye(len(real))
            for cutoff, network in ((1.5, "physnet"), (2.5, "dcmnet")):
                n = getattr(batch, f"{network}_n_edges")[i]
                dst, src = (getattr(batch, f"{network}_{name}")[i, :n] for name in ("dst", "src"))
                expected = set(zip(*map(list, np.nonzero(distances < cutoff)), strict=True))
                assert set(zip(dst.tolist(), src.tolist(), strict=True)) == expected
                counts[cutoff] += n
    assert 0 < counts[1.5] < counts[2.5]

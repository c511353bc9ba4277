"""Checkpoints: damage is noticed and answered by the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from shared.errors import UserError
from tests import support
from train.run.checkpoint import Checkpoints, Progress, Saved
from train.step.compiled_steps import Steps
from train.step.devices import all_devices
from train.step.metrics import zero_sums


def steps_of(config: Any) -> Steps:
    return Steps(config, 10, all_devices())


@pytest.fixture(scope="module")
def tiny() -> Steps:
    layers = {"physnet_iterations": 1, "dcmnet_iterations": 1, "dcmnet_max_degree": 1}
    return steps_of(support.small_config(physnet_features=2, physnet_basis=2, dcmnet_features=2, **layers))


@pytest.fixture(scope="module")
def written(tiny: Steps, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, of batches 3 and 7."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for batch in (3, 7):
        checkpoints.save(make(tiny, batch), batch)
    checkpoints.close()
    return folder


def make(steps: Steps, batch: int) -> Saved:
    """No array of the state is what a new one holds: whatever was not saved would show."""
    rng = np.random.default_rng(batch)
    drawn = jax.tree.map(
        lambda leaf: np.asarray(10.0 * rng.normal(size=leaf.shape), leaf.dtype), jax.device_get(steps.create_state(0))
    )
    state = steps.devices.place(drawn)
    sums = zero_sums()._replace(loss=jax.numpy.asarray(batch / 7.0))
    return Saved(state, steps.devices.place(sums), Progress(epoch=1, batch=batch, best_score=1.0 / batch, best_epoch=1))


def restore(folder: Path, steps: Steps) -> tuple[Saved, list[str]]:
    checkpoints = Checkpoints(folder)
    try:
        saved, damaged = checkpoints.restore(steps.abstract_state())
    finally:
        checkpoints.close()
    assert saved is not None
    return saved, damaged


def assert_is(saved: Saved, expected: Saved) -> None:
    assert saved.progress == expected.progress
    jax.tree.map(np.testing.assert_array_equal, saved._replace(progress=None), expected._replace(progress=None))  # type: ignore[arg-type]


def test_restored_as_it_was_saved(tiny: Steps, written: Path) -> None:
    saved, damaged = restore(written, tiny)
    assert not damaged
    assert_is(saved, make(tiny, 7))
    assert all(leaf.sharding == tiny.devices.replicated for leaf in jax.tree.leaves(saved.state))


def needed_files(folder: Path) -> Iterator[Path]:
    """Of the newest checkpoint, those without which it cannot be read."""
    newest = folder / "7"
    yield newest / "progress" / "metadata"
    yield newest / "state" / "_METADATA"
    yield newest / "state" / "manifest.ocdbt"
    yield max((path for path in newest.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("how", ["emptied", "halved", "removed", "altered"])
def test_damage_is_answered_by_the_one_before(tiny: Steps, written: Path, tmp_path: Path, how: str) -> None:
    for i, name in enumerate([path.relative_to(written) for path in needed_files(written)]):
        folder = tmp_path / str(i) / "checkpoints"
        shutil.copytree(written, folder)
        path = folder / name
        content = path.read_bytes()
        if how == "removed":
            path.unlink()
        elif how == "altered":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        else:
            path.write_bytes(content[: len(content) // 2] if how == "halved" else b"")
        saved, damaged = restore(folder, tiny)
        if how == "altered" and path.name == "_METADATA" and not damaged:
            assert_is(saved, make(tiny, 7))  # the byte is one of those that Orbax does not read
            continue
        assert_is(saved, make(tiny, 3))
        assert len(damaged) == 1, name
        assert str(folder / "7") in damaged[0]
        # Kept aside, and not met again.
        assert [found.name.split("-")[0] for found in (tmp_path / str(i) / "checkpoints-damaged").iterdir()] == ["7"]
        assert restore(folder, tiny)[1] == []


def test_flipped_bits_anywhere(tiny: Steps, written: Path, tmp_path: Path) -> None:
    """In every file of the newest checkpoint: it is restored as it was, or the one before is."""
    rng = np.random.default_rng(0)
    taken = {3: 0, 7: 0}
    for i, path in enumerate(sorted(path for path in (written / "7").rglob("*") if path.stat().st_size)):
        if path.is_dir():
            continue
        folder = tmp_path / str(i) / "checkpoints"
        shutil.copytree(written, folder)
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (folder / path.relative_to(written)).write_bytes(content)
        saved, damaged = restore(folder, tiny)
        taken[saved.progress.batch] += 1
        assert len(damaged) == (saved.progress.batch == 3), path
        assert_is(saved, make(tiny, saved.progress.batch))
    assert taken[3] > 3


def test_all_damaged(tiny: Steps, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(written, folder)
    for batch in (3, 7):
        (folder / str(batch) / "progress" / "metadata").write_text("{")
    with pytest.raises(UserError, match="all 2 checkpoints; train under another --name"):
        restore(folder, tiny)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "7"]


def test_other_format(tiny: Steps, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(written, folder)
    (folder / "7" / "progress" / "metadata").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="checkpoints of format 99, but this program continues format 7"):
        restore(folder, tiny)

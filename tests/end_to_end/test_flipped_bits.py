"""One flipped bit anywhere in what is loaded: the same content as undisturbed, or one line; never other numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from shared.errors import UserError
from shared.manifest import CURRENT, MANIFEST, current_stages, read_manifest
from shared.sealed import write_sealed
from tests import support
from train.data.dataset import open_cache
from train.model.saved_model import load_weights
from train.report.run_facts import _EVALUATED, read_evaluation
from train.run_folder import RunFolder, load_config, load_data_record

FLIPS = 150
"""Places in each file; those of the seed 0."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_cache: Path) -> RunFolder:
    folder = tmp_path_factory.mktemp("flips") / "run"
    config = support.small_config(physnet_features=2, physnet_basis=2, dcmnet_features=2)
    support.save_random_run(folder, config, open_cache(small_cache, config.physnet_cutoff, config.dcmnet_cutoff))
    return RunFolder(folder)


def assert_noticed(path: Path, load: Callable[[], Any], flips: int = FLIPS) -> int:
    """Flip bits of a file, one at a time; return how many were refused."""
    content, expected = path.read_bytes(), load()
    rng, messages = np.random.default_rng(0), []
    for place, bit in zip(rng.integers(len(content), size=flips), rng.integers(8, size=flips), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(bit)
        path.write_bytes(flipped)
        try:
            found = load()
        except UserError as error:
            messages.append(str(error))
            continue
        if isinstance(found, dict):  # the name of the checksum itself may be what has changed
            found = {name: value for name, value in found.items() if name in expected}
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    path.write_bytes(content)
    assert not [message for message in messages if len(message.splitlines()) != 1]
    return len(messages)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_best(run: RunFolder, name: str) -> None:
    def load() -> Any:
        trained = load_weights(run.best)
        return vars(trained.config), trained.reference_energies_ev, trained.params

    # Some bits of JSON mean nothing, such as a blank's that makes it a line feed.
    assert assert_noticed(run.best / name, load) > 0.8 * FLIPS


def test_record(run: RunFolder) -> None:
    assert assert_noticed(run.record_file, lambda: load_data_record(run)) > 0.8 * FLIPS


def test_settings(run: RunFolder) -> None:
    """Those that the run keeps; the others are given with each command."""

    def load() -> Any:
        config = load_config(run)
        return [getattr(config, name) for name in ("seed", "physnet_cutoff", "energy_weight", "n_dcm", "schedule")]

    assert assert_noticed(run.config_file, load) > 0.2 * FLIPS


def test_stages(small_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small_cache, tmp_path / "cache")
    for folder in (tmp_path / "cache").glob("*-*"):
        assert assert_noticed(folder / MANIFEST, lambda folder=folder: read_manifest(folder)) > 0.8 * FLIPS  # type: ignore[misc]
    assert_noticed(tmp_path / "cache" / CURRENT, lambda: current_stages(tmp_path / "cache"))


def test_evaluation(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "run" / "runs" / "golden" / "evaluation-valid.json"
    record = json.loads(golden.read_bytes())
    write_sealed(tmp_path / golden.name, {**{name: {} for name in _EVALUATED}, **record})
    assert assert_noticed(tmp_path / golden.name, lambda: read_evaluation(RunFolder(tmp_path), "valid")) > 0.8 * FLIPS

"""Fixtures that several tests share: one small preprocessed cache, one small initialised model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 20 training, 10 validation and 10 test molecules (CO2 and mixed) in two buckets. Read only."""
    folder = tmp_path_factory.mktemp("small")
    settings = support.write_splits(folder / "input")
    support.run_preprocess(settings, folder / "cache", max_buckets=2)
    return folder / "cache"

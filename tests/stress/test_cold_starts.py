"""Trainings of several buckets on two devices begin, whatever is traced meanwhile; ``cold_starts`` starts many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stress.cold_starts import StartsConfig, make_data, start


@pytest.mark.slow
def test_cold_starts_do_not_hang(tmp_path: Path) -> None:
    cache, seed = make_data(tmp_path)
    for placement in ("device", "stream"):
        config = StartsConfig(flags=f"--data-placement {placement}")
        for i in range(2):
            ended, _, printed = start(config, cache, seed, tmp_path / f"{placement}-{i}")
            assert ended == "0", printed
            assert "epoch 1/1" in printed

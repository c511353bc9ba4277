"""``--grid-frame centroid``: grids that were given about their own middle, as the predecessor took them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import support
from tests.input.shards import read_shards


def test_the_centroid_of_the_points_is_put_on_that_of_the_atoms(tmp_path: Path) -> None:
    """Wherever the files have it; nothing else of the grid changes, nor of the molecules."""
    settings = support.write_splits(tmp_path / "input", train=3, valid=1)
    for frame in ("given", "centroid"):
        support.run_preprocess(settings, tmp_path / frame, checks="off", grid_frame=frame)
    as_given, moved = read_shards(tmp_path / "given"), read_shards(tmp_path / "centroid")
    assert len(as_given) == len(moved) > 4
    for before, after in zip(as_given, moved, strict=True):
        np.testing.assert_array_equal(after["positions"], before["positions"])
        np.testing.assert_array_equal(after["esp"], before["esp"])
        shift = before["positions"].mean(axis=0) - before["grid"].mean(axis=0)
        np.testing.assert_allclose(after["grid"], before["grid"] + shift, atol=1e-4)
    shifts = [np.abs(b["grid"] - a["grid"]).max() for a, b in zip(as_given, moved, strict=True)]
    assert max(shifts) > 0.01

"""Padding of grids without n_grid: every filling that is met, and nothing that is real."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.input.grid_points import find_real_points, gather_points
from tests import support

WIDTH = 700


@pytest.fixture(scope="module")
def grids() -> dict[str, np.ndarray]:
    """Twelve molecules whose real points stand first."""
    efd, esp = support.read_sample("mixed", "train", np.arange(0, 96, 8))
    pad = WIDTH - esp["esp"].shape[1]
    return {
        "positions": efd["R"].astype(np.float64),
        "n_atoms": efd["N"],
        "n_grid": esp["n_grid"],
        "points": np.pad(esp["vdw_surface"], [(0, 0), (0, pad), (0, 0)]),
        "esp": np.pad(esp["esp"], [(0, 0), (0, pad)]),
    }


FILLINGS = {
    "1e6 and 0": (1e6, 0.0),
    "1e6 and NaN": (1e6, np.nan),
    "zeros": (0.0, 0.0),
    "NaN and NaN": (np.nan, np.nan),
    "NaN and 0": (np.nan, 0.0),
    "infinity and 0": (np.inf, 0.0),
    "999 and 0": (999.0, 0.0),
    "-1 and 0": (-1.0, 0.0),
    "999 and -999": (999.0, -999.0),
    "different far points": (None, 0.0),
    "zeros and 1e6": (0.0, 1e6),
    "-1 and -1": (-1.0, -1.0),
    "the last point again": ("last", "last"),
}


@pytest.mark.parametrize("far_off", [0.0, -600.0])
@pytest.mark.parametrize("filling", FILLINGS)
def test_fillings_are_padding(filling: str, far_off: float, grids: dict[str, np.ndarray]) -> None:
    """And all real points are kept, also of a molecule far from the origin."""
    points, esp = grids["points"].astype(np.float64) + far_off, grids["esp"].astype(np.float64)
    point, value = FILLINGS[filling]
    rng = np.random.default_rng(0)
    for row, count in enumerate(grids["n_grid"]):
        points[row, count:] = (
            points[row, count - 1]
            if point == "last"
            else far_off + 2000 * (1 + rng.random((WIDTH - count, 3)))
            if point is None
            else point
        )
        esp[row, count:] = esp[row, count - 1] if value == "last" else value
    found = find_real_points(points, esp, grids["positions"] + far_off, grids["n_atoms"], 1.0)
    expected = np.arange(WIDTH) < grids["n_grid"][:, None]
    np.testing.assert_array_equal(found.mask, expected)
    assert not found.inner.any()


def test_a_molecule_on_the_origin_keeps_its_points(grids: dict[str, np.ndarray]) -> None:
    """Padding by zeros lies among its atoms then."""
    positions = grids["positions"] - grids["positions"][:, :1]
    points = np.where(grids["esp"][..., None] != 0, grids["points"] - grids["positions"][:, :1], 0.0)
    found = find_real_points(points, grids["esp"], positions, grids["n_atoms"], 1.0)
    np.testing.assert_array_equal(found.mask.sum(axis=1), grids["n_grid"])


@pytest.mark.parametrize("factor", [1.889726, 0.529177])
def test_a_wrong_unit_or_frame_is_not_padding(factor: float, grids: dict[str, np.ndarray]) -> None:
    """Points far from every atom are all of them real, where most are far: the check of units and frames has to see."""
    for moved in (grids["points"] * factor, grids["points"] + 300.0):
        points = np.where(np.arange(WIDTH)[:, None] < grids["n_grid"][:, None, None], moved, 1e6)
        found = find_real_points(points, grids["esp"], grids["positions"], grids["n_atoms"], 1.0)
        np.testing.assert_array_equal(found.mask.sum(axis=1), grids["n_grid"])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_single_point_of_padding(value: float, grids: dict[str, np.ndarray]) -> None:
    """The longest grid of a file but one."""
    counts = grids["n_grid"]
    width = int(counts[2]) + 1
    points, esp = grids["points"][2:3, :width].copy(), grids["esp"][2:3, :width].copy()
    esp[0, -1] = value
    found = find_real_points(points, esp, grids["positions"][2:3], grids["n_atoms"][2:3], 1.0)
    assert found.mask.sum() == counts[2]


def test_padding_among_real_points_is_found_and_told(grids: dict[str, np.ndarray]) -> None:
    """It is left out, and the rows are counted."""
    points = np.where(np.arange(WIDTH)[:, None] < grids["n_grid"][:, None, None], grids["points"], 1e6)
    points[3, 10] = 1e6
    points[5, 20:22] = np.nan
    esp = grids["esp"].copy()
    esp[5, 20:22] = np.nan
    found = find_real_points(points, esp, grids["positions"], grids["n_atoms"], 1.0)
    assert list(np.flatnonzero(found.inner)) == [3, 5]
    assert found.mask[3].sum() == grids["n_grid"][3] - 1
    assert found.mask[5].sum() == grids["n_grid"][5] - 2


def test_a_damaged_value_is_no_padding(grids: dict[str, np.ndarray]) -> None:
    """NaN in the ESP alone, or in the point alone, must reach the check that names it."""
    points, esp = grids["points"].copy(), grids["esp"].copy()
    esp[2, 5] = np.nan
    points[4, 6, 1] = np.nan
    found = find_real_points(points, esp, grids["positions"], grids["n_atoms"], 1.0)
    assert found.mask[2, 5]
    assert found.mask[4, 6]


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_gathering_keeps_the_order(mask: list[list[bool]]) -> None:
    """As indexing row by row does."""
    table = np.array(mask)
    values = np.arange(table.size * 3, dtype=np.float64).reshape(*table.shape, 3)
    moved = gather_points(values, table)
    for row in range(len(table)):
        np.testing.assert_array_equal(moved[row, : table[row].sum()], values[row, table[row]])

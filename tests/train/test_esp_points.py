"""The ESP mask against brute force in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data.vdw_alvarez import vdw_radii

from train.data.esp_mask import EspSelection, esp_mask

RNG = np.random.default_rng(0)
NUMBERS = np.array([[6, 8, 8, 0], [1, 0, 0, 0], [7, 1, 1, 1]], np.int32)
POSITIONS = np.where(NUMBERS[..., None] > 0, 1.2 * RNG.normal(size=(3, 4, 3)), 0.0).astype(np.float32)
GRID = (3.0 * RNG.normal(size=(3, 200, 3))).astype(np.float32)
ESP = RNG.normal(size=(3, 200)).astype(np.float32)
N_GRID = np.array([200, 150, 0], np.int32)


def brute_force(selection: EspSelection) -> np.ndarray:
    mask = np.zeros(ESP.shape, bool)
    for b in range(3):
        for g in range(N_GRID[b]):
            kept = selection.max_value == 0 or abs(ESP[b, g]) <= selection.max_value
            for number, position in zip(NUMBERS[b], POSITIONS[b], strict=True):
                distance = np.linalg.norm(GRID[b, g].astype(float) - position.astype(float))
                if number and distance < max(selection.radius_factor * vdw_radii[number], selection.min_distance):
                    kept = False
            mask[b, g] = kept
    return mask


@pytest.mark.parametrize(
    "selection",
    [
        EspSelection(),
        EspSelection(radius_factor=1.0),
        EspSelection(radius_factor=1.4),
        EspSelection(min_distance=2.2),
        EspSelection(max_value=0.7),
        EspSelection(radius_factor=1.0, min_distance=1.6, max_value=1.0),
    ],
)
def test_mask_is_brute_force(selection: EspSelection) -> None:
    expected = brute_force(selection)
    assert expected.any()
    if selection != EspSelection():
        assert expected.sum() < N_GRID.sum()
    np.testing.assert_array_equal(esp_mask(selection, POSITIONS, NUMBERS, GRID, ESP, N_GRID), expected)


def test_a_point_inside_an_atom_is_dropped() -> None:
    grid = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.4], [0.0, 0.0, 2.0], [0.0, 0.0, 6.0]]], np.float32)
    mask = esp_mask(
        EspSelection(radius_factor=1.0),
        np.zeros((1, 2, 3), np.float32),
        np.array([[8, 0]], np.int32),
        grid,
        np.array([[50.0, 1.0, 0.5, 0.1]], np.float32),
        np.array([4], np.int32),
    )
    # The van der Waals radius of oxygen is 1.5 Å.
    assert mask.tolist() == [[False, False, True, True]]


def test_padded_atoms_hide_no_points() -> None:
    """Padding lies at the origin with a minimum distance set: it is no atom."""
    mask = esp_mask(
        EspSelection(min_distance=2.0),
        np.array([[[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], np.float32),
        np.array([[6, 0]], np.int32),
        np.array([[[0.5, 0.0, 0.0], [50.5, 0.0, 0.0]]], np.float32),
        np.zeros((1, 2), np.float32),
        np.array([2], np.int32),
    )
    assert mask.tolist() == [[True, False]]

"""Steps of rounded numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_VALUES = 64
_DECIMALS = 6
_OFF = 0.02
"""Largest distance of a rounded number from a multiple of its step, in steps: units of other tables, and float32."""


def common_step(values: np.ndarray, noise: float) -> float:
    """Return the largest number of which all values are multiples up to ``noise``, by Euclid's algorithm; 0 if none.

    Numbers that were not rounded have a step of the size of the noise.
    """
    step = largest = 0.0
    for value in np.abs(values[np.abs(values) > noise]).tolist():
        large, small = max(step, value), min(step, value)
        while small > noise:
            rest = large - small * round(large / small)
            large, small = small, abs(rest)
        if large < 20 * noise:
            return 0.0
        # A division multiplies the error of its divisor: the largest value is the most exact multiple.
        largest = max(largest, value)
        step = largest / round(largest / large)
    return step


def steps_of_rows(values: np.ndarray, units: Iterable[float]) -> np.ndarray:
    """Return the coarsest decimal step (n,), in one of the units, of which all first values of a row are multiples.

    Args:
        values: (n, ...) in the project's unit; NaN where they are missing.
        units: in the project's unit.

    Returns:
        (n,) in the project's unit; 0 if there is none, NaN for rows that are 0 or missing.
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:], dtype=int)))[:, :_VALUES].astype(np.float64)
    flat = np.where(np.isfinite(flat), flat, 0.0)
    found = np.where(flat.any(axis=1), 0.0, np.nan)
    for unit in units:
        for decimals in range(_DECIMALS):
            step = unit / 10**decimals
            multiple = flat / step
            fits = (np.abs(multiple - np.rint(multiple)) < _OFF) & ((flat == 0) | (np.abs(multiple) > 0.5))
            found = np.where(fits.all(axis=1) & (step > found), step, found)
    return found

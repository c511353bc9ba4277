"""Helpers of all pictures: a canvas without a display, literal names, principal axes of molecules."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from shared.files import write_atomically

_DPI = 120


def literal(text: str) -> str:
    """Escape a name for matplotlib, which takes text between dollar signs for mathematics."""
    return text.replace("$", r"\$")


def principal_axes(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre (3,) of positions (N, 3) and the matrix (3, 3) that turns the longest extents to x and y."""
    center = positions.mean(axis=0)
    _, _, turn = np.linalg.svd(positions - center, full_matrices=True)
    return center, turn.T


def save_picture(path: Path, draw: Callable[[], Figure]) -> Path:
    """Draw a PNG atomically and return its path."""
    content = io.BytesIO()
    # A canvas of its own: no display is needed, and no other figure is touched.
    with mpl.rc_context({"axes.titlesize": "medium", "figure.dpi": _DPI}):
        draw().savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return path

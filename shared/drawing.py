"""What all pictures share: a canvas without a display, names as they are, molecules turned to their longest extents."""

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
    """A name as it is: matplotlib takes what stands between dollar signs for mathematics."""
    return text.replace("$", r"\$")


def principal_axes(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (3,) of a molecule's atoms (N, 3) and the matrix (3, 3) that turns its longest extents to x and y."""
    center = positions.mean(axis=0)
    _, _, turn = np.linalg.svd(positions - center, full_matrices=True)
    return center, turn.T


def save_picture(path: Path, draw: Callable[[], Figure]) -> Path:
    """Draw a PNG, whole or not at all, and return its path."""
    content = io.BytesIO()
    # A canvas of its own: no display is needed, and no other figure is touched.
    with mpl.rc_context({"axes.titlesize": "medium", "figure.dpi": _DPI}):
        draw().savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return path

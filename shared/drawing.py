"""Helpers of all pictures: a canvas without a display, literal names, principal axes of molecules."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from shared.files import write_atomically
from shared.text import shown

_DPI = 120


def literal(text: str) -> str:
    """Return a name as matplotlib can draw it: cut, and escaped where its font has no letter.

    Text between dollar signs would be mathematics.
    """
    known = _letters()
    letters = (one if ord(one) in known else one.encode("unicode_escape").decode() for one in shown(text))
    return "".join(letters).replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


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

"""Settings that determine how files are divided among the splits, without the slow imports of the division."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess.config import PreprocessConfig
from shared.errors import UserError
from shared.input.npz import NpzFile
from shared.schema import SPLITS


def split_settings(config: PreprocessConfig) -> dict[str, Any]:
    """Return the settings of the division, for digests and messages; empty where splits have their own files.

    Raises:
        UserError: the shares are invalid, or a split file cannot be read.
    """
    if not config.data:
        return {}
    if config.split_file:
        return {"split_file": NpzFile(Path(config.split_file)).content_digest}
    return {
        "split": list(check_shares(config.split)),
        "split_seed": config.split_seed,
        "split_by": config.split_by,
    }


def check_shares(shares: Sequence[float]) -> tuple[float, float, float]:
    """Return the shares of train, valid and test.

    Raises:
        UserError: not two or three numbers that add up to 1, or no training or validation molecules.
    """
    given = tuple(float(share) for share in shares)
    three = (*given, *[0.0] * (3 - len(given)))
    shown = f"--split {' '.join(f'{share:g}' for share in given)}"
    # A share that is no number fails the last comparison.
    if len(given) not in (2, 3) or min(three) < 0 or not abs(sum(three) - 1) <= 1e-6:
        raise UserError(f"{shown}: give the shares of train, valid and test (which may be 0); they add up to 1")
    if min(three[:2]) == 0:
        raise UserError(f"{shown}: {SPLITS[three.index(0)]} would be empty, which training needs; test alone may be 0")
    return three[0], three[1], three[2]

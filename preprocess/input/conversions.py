"""Conversion of files of other formats (extended XYZ, ASE databases, cubes) to NPZ in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocess.config import PreprocessConfig
from preprocess.input.pairs import Pair
from shared.digest_cache import DigestCache
from shared.errors import UserError
from shared.input.file_names import is_npz
from shared.input.layout import CONVERTED_KEY, Layout, read_member
from shared.manifest import CONVERTED


def convert_foreign(pairs: list[Pair], config: PreprocessConfig, digests: DigestCache) -> list[Pair]:
    """Return the pairs with every file that is not NPZ, or has cubes beside it, replaced by its conversion.

    Raises:
        UserError: a file cannot be read, or cubes that belong to no frame.
    """
    if config.cubes:
        return [_with_cubes(pairs, config, digests)]
    return [pair if is_npz(pair.efd) else _converted(pair, config, digests) for pair in pairs]


def _with_cubes(pairs: Sequence[Pair], config: PreprocessConfig, digests: DigestCache) -> Pair:
    from shared.input.foreign import convert

    if any(pair.split is not None for pair in pairs):
        raise UserError(
            "--cubes go with --data, whose frames are divided among the splits; leave out the files of single splits"
        )
    if any(pair.esp is not None for pair in pairs):
        raise UserError("--cubes and --grids both give the ESP of --data; give one of them")
    made = convert(
        [str(pair.efd) for pair in pairs],
        config.cubes,
        config,
        Path(config.cache_dir) / CONVERTED,
        digests.digest,
    )
    shown = [str(pair.efd) for pair in pairs] or list(config.cubes)
    return Pair(None, made.path, made.path, shown[0] if len(shown) == 1 else f"{shown[0]} and {len(shown) - 1} more")


def _converted(pair: Pair, config: PreprocessConfig, digests: DigestCache) -> Pair:
    from shared.input.foreign import convert  # slow: imports ASE's readers

    made = convert([str(pair.efd)], [], config, Path(config.cache_dir) / CONVERTED, digests.digest)
    return replace(pair, efd=made.path, source=str(pair.efd))


def converted_from(layout: Layout) -> dict[str, Any]:
    """Return what was understood of the files that this one was converted from; empty for other files."""
    if not layout.is_converted:
        return {}
    text = read_member(layout.file, CONVERTED_KEY).reshape(-1)[0]
    return dict(json.loads(text.decode("utf-8") if isinstance(text, bytes) else str(text)))

"""Compiled steps kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import jax

_LARGEST_BYTES = 1 << 30
_SHORTEST_SECONDS = 0.5


def keep_compilations() -> None:
    """Keep what is compiled, so that the next run of the same shapes starts in seconds.

    In JAX_COMPILATION_CACHE_DIR if that is set, or in the user's cache folder; never more than 1 GiB, the least
    recently used going first. JAX tells its entries apart by the program, the compiler's version and the processor.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "joint-physnet-dcmnet" / "jax"))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS)

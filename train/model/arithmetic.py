"""JAX's settings that a model's numbers depend on, for code that runs in other people's programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def arithmetic(double: bool) -> Iterator[None]:
    """Compute in this precision within a context, whatever the program around it has set for itself.

    Nor do copies between host and device, or e3x's functions, stop where it asked JAX to look for such things.

    Args:
        double: float64 instead of float32; in either, matrix products are of the full precision.
    """
    with (
        jax.enable_x64(double),
        jax.default_matmul_precision("highest"),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_checks(False),
        jax.transfer_guard("allow"),
    ):
        yield

"""The bound of the distributed charges' arms: against the formula with a norm, and where that has no derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.model.dcmnet import bound_length

LONGEST = 0.4


def test_lengths_are_bounded_and_directions_kept() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.geomspace(1e-6, 1e3, 50)
    with jax.enable_x64(True):
        bounded = np.asarray(bound_length(jnp.asarray(directions * lengths[:, None]), LONGEST))
    np.testing.assert_allclose(
        bounded, directions * LONGEST * np.tanh(lengths / LONGEST)[:, None], rtol=1e-12, atol=1e-18
    )


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, 0.0126, 0.0127, 3.0])
def test_two_derivatives_exist_everywhere(length: float) -> None:
    """Those of the longer side of the series' end and of the shorter one agree, too."""
    vector = jnp.asarray([length, 0.0, 0.0])
    slope = jax.jacobian(lambda v: bound_length(v, LONGEST))(vector)
    curvature = jax.jacobian(jax.jacobian(lambda v: bound_length(v, LONGEST)))(vector)
    x = length / LONGEST
    across = np.tanh(x) / x if x > 1e-20 else 1.0
    np.testing.assert_allclose(slope, np.diag([1.0 / np.cosh(x) ** 2, across, across]), atol=1e-6)
    np.testing.assert_allclose(curvature[0, 0, 0], -2.0 / LONGEST * np.tanh(x) / np.cosh(x) ** 2, rtol=1e-4, atol=1e-5)
    assert np.isfinite(curvature).all()

"""PhysNet's message pass against loops over the atoms and their neighbours, in float64."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from train.model.graph import Edges
from train.model.physnet import Interaction

ATOMS, FEATURES, BASIS = 4, 3, 5
DST = np.array([0, 0, 1, 2, 2])
SRC = np.array([1, 2, 3, 0, 3])
"""Not symmetric: atom 3 sends and receives nothing, and what arrives shows who sent it."""


def softplus(x: np.ndarray) -> np.ndarray:
    """Shifted, Unke & Meuwly 2019, eq 3."""
    return np.logaddexp(0.0, x) - np.log(2.0)


def dense(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ params["kernel"] + params.get("bias", 0.0))


def expected_interaction(params: dict[str, Any], x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Equations 5 and 6, atom by atom."""
    out = np.empty_like(x)
    for i in range(len(x)):
        v = softplus(dense(params["own"], softplus(x[i])))
        for edge in np.flatnonzero(i == DST):
            j = SRC[edge]
            v = v + dense(params["filter"], basis[edge]) * softplus(dense(params["others"], softplus(x[j])))
        block = params["residual_0"]
        v = v + dense(block["second"], softplus(dense(block["first"], softplus(v))))
        out[i] = params["gate"] * x[i] + dense(params["update"], softplus(v))
    return out


def test_interaction_is_the_sum_over_neighbours() -> None:
    rng = np.random.default_rng(0)
    x, basis = rng.normal(size=(ATOMS, FEATURES)), rng.normal(size=(len(DST), BASIS))
    with jax.enable_x64(True):
        edges = Edges(jax.numpy.asarray(DST), jax.numpy.asarray(SRC), jax.numpy.zeros((len(DST), 3)))
        module = Interaction(residuals=1)
        drawn = module.init(jax.random.key(0), x, basis, edges)
        # None of them zero, as those of a new block are.
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), drawn)
        found = np.asarray(module.apply(params, x, basis, edges))
    np.testing.assert_allclose(found, expected_interaction(params["params"], x, basis), rtol=1e-10)

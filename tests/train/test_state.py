"""The optimizer: AMSGrad by its published equations, and how far a gradient that rarely comes moves a parameter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config import TrainConfig
from train.state import as_adam, build_optimizer, from_adam


def run(gradients: np.ndarray, **changes: Any) -> tuple[np.ndarray, Any]:
    """Directions (n, P) for gradients (n, P), and the last state."""
    optimizer = build_optimizer(TrainConfig(**changes))

    def step(state: Any, gradient: jax.Array) -> tuple[Any, jax.Array]:
        direction, state = optimizer.update(gradient, state)
        return state, direction

    state, directions = jax.lax.scan(step, optimizer.init(jnp.zeros(gradients.shape[1])), jnp.asarray(gradients))
    return np.asarray(directions), state


def amsgrad(gradients: np.ndarray) -> np.ndarray:
    """Reddi, Kale & Kumar 2018, algorithm 2, with Adam's corrections of the moments."""
    first, second, largest, directions = 0.0, 0.0, 0.0, []
    for i, gradient in enumerate(gradients.astype(np.float64), start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        largest = np.maximum(largest, second / (1.0 - 0.999**i))
        directions.append(first / (1.0 - 0.9**i) / (np.sqrt(largest) + 1e-8))
    return np.array(directions)


def test_directions_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    gradients = (rng.normal(size=(40, 5)) * np.geomspace(1.0, 0.1, 40)[:, None]).astype(np.float32)
    np.testing.assert_allclose(run(gradients, grad_clip_norm=0.0)[0], amsgrad(gradients), rtol=2e-4, atol=1e-6)
    # Clipped: by the norm of all of them together.
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped = gradients * np.minimum(1.0, 0.5 / norms)
    np.testing.assert_allclose(run(gradients, grad_clip_norm=0.5)[0], amsgrad(clipped), rtol=2e-4, atol=1e-6)


def test_a_rare_gradient_moves_a_parameter_little() -> None:
    """Of the same size every 5,000 steps: what Adam has forgotten by then, and answers with thirty steps' length."""
    gradients = np.zeros((10_000, 1), np.float32)
    gradients[[0, 5_000]] = 0.3
    assert np.abs(run(gradients)[0][5_000:]).sum() < 2.0
    state, moved = optax.scale_by_adam().init(jnp.zeros(1)), []
    state = state._replace(count=jnp.asarray(5_000), nu=jnp.full(1, 0.001 * 0.3**2 * 0.999**5_000))
    for gradient in (0.3, *[0.0] * 200):
        update, state = optax.scale_by_adam().update(jnp.full(1, gradient), state)
        moved.append(float(update[0]))
    assert 25.0 < sum(moved) < 35.0


def test_the_state_of_earlier_versions_goes_on() -> None:
    """Adam's moments are kept. While gradients grow, the present second moment is the largest: nothing is lost."""
    rng = np.random.default_rng(1)
    gradients = (0.01 * np.geomspace(1.0, 9.0, 31)[:, None] * rng.choice([-1.0, 1.0], size=(31, 4))).astype(np.float32)
    _, state = run(gradients[:30])
    adam = as_adam(state)
    assert jax.tree.structure(adam) != jax.tree.structure(state)
    again = from_adam(adam)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for name in ("count", "mu", "nu"):
        np.testing.assert_array_equal(optax.tree.get(again, name), optax.tree.get(state, name))
    direction, _ = build_optimizer(TrainConfig()).update(jnp.asarray(gradients[30]), again)
    np.testing.assert_allclose(direction, run(gradients)[0][30], rtol=1e-5)

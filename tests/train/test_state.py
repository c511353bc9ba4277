"""The optimizer: AMSGrad by its published equations, Adam by optax, clipping by network, and rare gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.support import small_config
from train.config import TrainConfig
from train.step.optimizer import build_optimizer
from train.step.train_step import parameter_vector


def run(gradients: np.ndarray, dcmnet: int = 0, **changes: Any) -> tuple[np.ndarray, Any]:
    """Directions (n, P) for gradients (n, P), of which the first ``dcmnet`` are DCMNet's, and the last state."""
    optimizer = build_optimizer(TrainConfig(**changes), networks(dcmnet, gradients.shape[1]))

    def step(state: Any, gradient: jax.Array) -> tuple[Any, jax.Array]:
        direction, state = optimizer.update(gradient, state)
        return state, direction

    state, directions = jax.lax.scan(step, optimizer.init(jnp.zeros(gradients.shape[1])), jnp.asarray(gradients))
    return np.asarray(directions), state


def networks(dcmnet: int, parameters: int) -> dict[str, slice]:
    return {"dcmnet": slice(0, dcmnet), "physnet": slice(dcmnet, parameters)}


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
    # Clipped: by the norm of all of a network's together.
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped = gradients * np.minimum(1.0, 0.5 / norms)
    np.testing.assert_allclose(run(gradients, grad_clip_norm=0.5)[0], amsgrad(clipped), rtol=2e-4, atol=1e-6)


def test_each_network_has_its_own_rule() -> None:
    """Gradients that fall a hundredfold: DCMNet's steps stay as long as Adam's, whatever PhysNet's gradients are."""
    rng = np.random.default_rng(2)
    gradients = (rng.normal(size=(60, 6)) * np.geomspace(0.1, 0.001, 60)[:, None]).astype(np.float32)
    gradients[:, 3:] *= 1e4
    directions, _ = run(gradients, dcmnet=3)
    adam = optax.scale_by_adam()
    state, expected = adam.init(jnp.zeros(3)), []
    for gradient in gradients[:, :3]:
        update, state = adam.update(jnp.asarray(gradient), state)
        expected.append(update)
    np.testing.assert_allclose(directions[:, :3], np.array(expected), rtol=1e-4, atol=1e-6)
    clipped = gradients[:, 3:] / np.linalg.norm(gradients[:, 3:], axis=1, keepdims=True)
    np.testing.assert_allclose(directions[:, 3:], amsgrad(clipped), rtol=2e-4, atol=1e-6)


def test_state_and_directions_are_those_of_optax() -> None:
    """Without DCMNet's parameters; some gradients are clipped. A refused step leaves no trace."""
    rng = np.random.default_rng(4)
    gradients = (rng.normal(size=(30, 7)) * np.geomspace(0.01, 10.0, 30)[:, None]).astype(np.float32)
    directions, state = run(gradients, grad_clip_norm=2.0)
    optimizer = optax.chain(optax.clip_by_global_norm(2.0), optax.scale_by_amsgrad())
    reference, expected = optimizer.init(jnp.zeros(7)), []
    for gradient in gradients:
        direction, reference = optimizer.update(jnp.asarray(gradient), reference)
        expected.append(direction)
    np.testing.assert_allclose(directions, np.array(expected), rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), state, reference)
    ours = build_optimizer(TrainConfig(grad_clip_norm=2.0), networks(0, 7))
    _, refused = ours.update(jnp.full(7, jnp.nan), state, sound=jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, refused, state)


def test_every_parameter_belongs_to_one_network() -> None:
    """In the order of the vector, which clipping puts together again."""
    vector = parameter_vector(small_config(mix_coulomb_energy=True))
    places = vector.networks
    assert set(places) == {"coulomb_scale", "dcmnet", "physnet"}
    assert np.array_equal(
        np.concatenate([np.arange(vector.size)[place] for place in places.values()]), np.arange(vector.size)
    )
    marked = vector.to_host(jnp.zeros(vector.size).at[places["dcmnet"]].set(1.0))
    assert {float(x) for leaf in jax.tree.leaves(marked["dcmnet"]) for x in leaf.ravel()} == {1.0}
    assert not any(leaf.any() for leaf in jax.tree.leaves({**marked, "dcmnet": {}}))


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

"""Charges fitted to the ESP of single molecules: the error that point charges can reach, whatever predicts them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from shared.units import BOHR_IN_ANGSTROM
from train.data.batch import Batch
from train.model.arithmetic import arithmetic

Array = jax.Array

LONGEST_DISPLACEMENT_ANGSTROM = 0.175
"""Largest distance of a fitted charge from its atom: DCMNet's published scale."""

_STARTS = 2
_STEPS = 300
_LEARNING_RATE = 0.05
_RIDGE = 1e-9
"""Relative to the mean diagonal of the normal equations, in float64: charges 0.01 Å apart have nearly equal columns."""


def fit_charges(batch: Batch, n_dcm: int, displaced: bool = True, seed: int = 0) -> np.ndarray:
    """Fit charges to each molecule by itself; return the error (B, G) of their ESP in Hartree/e, 0 in the padding.

    The charges are the least-squares solution for their sites, under the molecule's total charge. The sites are moved
    by Adam from a few random arrangements, within LONGEST_DISPLACEMENT_ANGSTROM of their atoms, along the gradient at
    fixed charges, which is the whole gradient where these are optimal (variable projection; Golub & Pereyra, SIAM J.
    Numer. Anal. 1973, 10, 413).

    Args:
        batch: molecules with grid points.
        n_dcm: charges per atom.
        displaced: whether the sites may leave their atoms.
        seed: of the random arrangements.
    """
    atoms = np.asarray(batch.atomic_numbers) > 0
    shape = (_STARTS if displaced else 1, *atoms.shape, n_dcm, 3)
    start = np.random.default_rng(seed).normal(size=shape) * (0.5 if displaced else 0.0)
    arrays = (batch.positions, atoms, batch.grid, batch.esp, batch.esp_mask, batch.total_charge)
    # Beyond float32: neighbouring charges differ by some thousandths of their potential.
    with arithmetic(double=True):
        fitted = _fit(start, *map(jnp.asarray, arrays), steps=_STEPS if displaced else 0)
        return np.asarray(fitted, np.float64)


@functools.partial(jax.jit, static_argnames="steps")
def _fit(
    start: Array, positions: Array, atoms: Array, grid: Array, esp: Array, points: Array, charge: Array, steps: int
) -> Array:
    # The padding is replaced before it can enter a derivative.
    positions = jnp.where(atoms[..., None], positions, 0.0).astype(start.dtype)
    grid = jnp.where(points[..., None], grid, 0.0).astype(start.dtype)
    esp, charge = jnp.where(points, esp, 0.0).astype(start.dtype), charge.astype(start.dtype)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, max(steps, 1)))
    number = jnp.maximum(points.sum(axis=1), 1)

    def errors(free: Array) -> Array:
        """Return errors (B, G) of the sites at which free vectors (B, A, n, 3) place the charges, within the bound."""
        length = jnp.sqrt((free**2).sum(-1, keepdims=True) + 1e-12)
        sites = positions[:, :, None] + LONGEST_DISPLACEMENT_ANGSTROM * jnp.tanh(length) / length * free
        difference = grid[:, :, None, None] - sites[:, None]
        columns = BOHR_IN_ANGSTROM / jnp.sqrt((difference**2).sum(-1) + 1e-12)
        real = points[:, :, None, None] & atoms[:, None, :, None]
        columns = jnp.where(real, columns, 0.0).reshape(*points.shape, -1)
        fixed = jax.lax.stop_gradient(columns)
        charges = _best_charges(fixed, esp, jnp.repeat(atoms, free.shape[2], axis=1), charge)
        error = jnp.einsum("bgk,bk->bg", columns, charges) - esp
        return jnp.where(points, error, 0.0)

    def mean_squares(free: Array) -> Array:
        return (errors(free) ** 2).sum(axis=1) / number

    def optimise(free: Array) -> Array:
        def move(carry: Any, _: None) -> tuple[Any, None]:
            free, state = carry
            # Molecules do not interact: with the logarithm, the gradients of all have a similar size.
            slope = jax.grad(lambda free: jnp.log(mean_squares(free) + 1e-20).sum())(free)
            update, state = optimizer.update(slope, state)
            return (free + update, state), None

        (free, _), _ = jax.lax.scan(move, (free, optimizer.init(free)), None, length=steps)
        return free

    found = jax.vmap(optimise)(start)
    best = jax.vmap(mean_squares)(found).argmin(axis=0)
    return errors(jnp.take_along_axis(found, best[None, :, None, None, None], axis=0)[0])


def _best_charges(columns: Array, esp: Array, real: Array, total: Array) -> Array:
    """Return least-squares charges (B, K) that sum to the total charge; zero where there is no atom.

    Args:
        columns: (B, G, K) potential of a unit charge at each site.
        esp: (B, G).
        real: (B, K).
        total: (B,).
    """
    normal = jnp.einsum("bgk,bgl->bkl", columns, columns)
    mean = jnp.einsum("bkk->b", normal) / jnp.maximum(real.sum(axis=1), 1)
    diagonal = jnp.where(real, _RIDGE * mean[:, None], mean[:, None])
    normal = normal + jnp.eye(real.shape[1]) * diagonal[:, None]
    # A Lagrange multiplier for the sum, in the matrix's own units.
    border = (real * mean[:, None])[:, :, None]
    matrix = jnp.block([[normal, border], [jnp.swapaxes(border, 1, 2), jnp.zeros_like(border[:, :1])]])
    right = jnp.concatenate([jnp.einsum("bgk,bg->bk", columns, esp), (mean * total)[:, None]], axis=1)
    return jnp.linalg.solve(matrix, right[..., None])[:, :-1, 0]

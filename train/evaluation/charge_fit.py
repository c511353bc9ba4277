"""Charges fitted to the ESP of single molecules: the error that point charges can reach, whatever predicts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
_STEPS_AT_ONCE = 25
"""Steps of one call, which no signal can interrupt."""

_LEARNING_RATE = 0.05
_RIDGE = 1e-9
"""Relative to the mean diagonal of the normal equations, in float64: charges 0.01 Å apart have nearly equal columns."""

_BYTES_AT_ONCE = 256 << 20
_COPIES = 6
"""Arrays (points, sites) of each molecule and start that a step holds."""


def fit_work(points: int, sites: int) -> float:
    """Return the multiplications that the fit of one molecule takes: the normal equations' and their solution's."""
    return _STARTS * _STEPS * (points * sites**2 + sites**3)


def fit_charges(
    batch: Batch, n_dcm: int, displaced: bool = True, seed: int = 0, done: Callable[[int], object] = lambda _: None
) -> np.ndarray:
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
        done: called with the number of further molecules that are fitted.
    """
    atoms = np.asarray(batch.atomic_numbers) > 0
    shape = (_STARTS if displaced else 1, *atoms.shape, n_dcm, 3)
    start = np.random.default_rng(seed).normal(size=shape) * (0.5 if displaced else 0.0)
    arrays = tuple(
        np.asarray(array)
        for array in (batch.positions, atoms, batch.grid, batch.esp, batch.esp_mask, batch.total_charge)
    )
    size = 8 * _COPIES * shape[0] * batch.esp.shape[1] * atoms.shape[1] * n_dcm
    together = int(np.clip(_BYTES_AT_ONCE // size, 1, len(atoms)))
    errors = []
    for first in range(0, len(atoms), together):
        # The last ones are joined by some of those before: one shape, one compilation.
        rows = slice(max(0, min(first, len(atoms) - together)), first + together)
        fitted = _fit(start[:, rows], tuple(array[rows] for array in arrays), _STEPS if displaced else 0)
        errors.append(fitted[first - rows.start :])
        done(len(errors[-1]))
    return np.concatenate(errors)


def _fit(start: np.ndarray, arrays: tuple[np.ndarray, ...], steps: int) -> np.ndarray:
    # Beyond float32: neighbouring charges differ by some thousandths of their potential.
    with arithmetic(double=True):
        molecules = _Molecules.of(*map(jnp.asarray, arrays))
        free = jnp.asarray(start)
        moving = (free, _OPTIMIZER.init(free))
        for _ in range(0, steps, _STEPS_AT_ONCE):
            moving = jax.block_until_ready(_move(moving, molecules))
        return np.asarray(_errors_of_best(moving[0], molecules), np.float64)


class _Molecules(NamedTuple):
    """Molecules without anything in their padding that could enter a derivative."""

    positions: Array  # (B, A, 3) Å
    atoms: Array  # (B, A) bool
    grid: Array  # (B, G, 3) Å
    esp: Array  # (B, G) Hartree/e
    points: Array  # (B, G) bool
    charge: Array  # (B,) e

    @classmethod
    def of(cls, positions: Array, atoms: Array, grid: Array, esp: Array, points: Array, charge: Array) -> _Molecules:
        double = jnp.float64
        return cls(
            jnp.where(atoms[..., None], positions, 0.0).astype(double),
            atoms,
            jnp.where(points[..., None], grid, 0.0).astype(double),
            jnp.where(points, esp, 0.0).astype(double),
            points,
            charge.astype(double),
        )

    def errors(self, free: Array) -> Array:
        """Return errors (B, G) of the sites at which free vectors (B, A, n, 3) place the charges, within the bound."""
        length = jnp.sqrt((free**2).sum(-1, keepdims=True) + 1e-12)
        sites = self.positions[:, :, None] + LONGEST_DISPLACEMENT_ANGSTROM * jnp.tanh(length) / length * free
        difference = self.grid[:, :, None, None] - sites[:, None]
        columns = BOHR_IN_ANGSTROM / jnp.sqrt((difference**2).sum(-1) + 1e-12)
        real = self.points[:, :, None, None] & self.atoms[:, None, :, None]
        columns = jnp.where(real, columns, 0.0).reshape(*self.points.shape, -1)
        fixed = jax.lax.stop_gradient(columns)
        charges = _best_charges(fixed, self.esp, jnp.repeat(self.atoms, free.shape[2], axis=1), self.charge)
        error = jnp.einsum("bgk,bk->bg", columns, charges) - self.esp
        return jnp.where(self.points, error, 0.0)

    def mean_squares(self, free: Array) -> Array:
        """Return the mean squares (B,) of these errors."""
        return (self.errors(free) ** 2).sum(axis=1) / jnp.maximum(self.points.sum(axis=1), 1)


_OPTIMIZER = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))


@jax.jit
def _move(moving: tuple[Array, Any], molecules: _Molecules) -> tuple[Array, Any]:
    """Take some steps from all starts: free vectors (starts, B, A, n, 3) and the optimizer's state."""

    def loss(free: Array) -> Array:
        # Neither molecules nor starts interact: with the logarithm, the gradients of all have a similar size.
        return jnp.log(jax.vmap(molecules.mean_squares)(free) + 1e-20).sum()

    def step(moving: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        free, state = moving
        update, state = _OPTIMIZER.update(jax.grad(loss)(free), state)
        return (free + update, state), None

    return jax.lax.scan(step, moving, None, length=_STEPS_AT_ONCE)[0]


@jax.jit
def _errors_of_best(free: Array, molecules: _Molecules) -> Array:
    """Return the errors (B, G) of each molecule's best start."""
    best = jax.vmap(molecules.mean_squares)(free).argmin(axis=0)
    return molecules.errors(jnp.take_along_axis(free, best[None, :, None, None, None], axis=0)[0])


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

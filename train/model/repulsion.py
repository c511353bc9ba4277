"""Repulsion of nuclei at short distances: the universal potential of Ziegler, Biersack & Littmark.

J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (Pergamon, 1985), chapter 2; the
digits are those of LAMMPS's pair style zbl. No library among the dependencies has them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from shared.elements import COVALENT_RADII, MAX_ATOMIC_NUMBER
from shared.units import COULOMB_CONSTANT_EV_ANGSTROM
from train.model.electrostatics import polynomial_cutoff
from train.model.graph import Pairs

Array = jax.Array

_SHARES = (0.18175, 0.50986, 0.28022, 0.02817)
_RATES = (3.19980, 0.94229, 0.40290, 0.20162)
"""Of the four exponentials of the screening function."""

_LENGTH, _POWER = 0.46850, 0.23
"""Screening length a = 0.4685 Å/(Z₁^0.23 + Z₂^0.23)."""


def screened_repulsion(first: Array, second: Array, distances: Array) -> Array:
    """Return k_e Z₁Z₂/r Σ_k c_k exp(-d_k r/a) (P,) in eV.

    Args:
        first: (P,) atomic numbers.
        second: (P,).
        distances: (P,) in Å.
    """
    z_first, z_second = first.astype(distances.dtype), second.astype(distances.dtype)
    reduced = distances * (z_first**_POWER + z_second**_POWER) / _LENGTH
    screening = sum(share * jnp.exp(-rate * reduced) for share, rate in zip(_SHARES, _RATES, strict=True))
    return COULOMB_CONSTANT_EV_ANGSTROM * z_first * z_second / distances * screening


def nuclear_repulsion(atomic_numbers: Array, pairs: Pairs, distances: Array, cutoff: float) -> Array:
    """Return the repulsion of the nuclei of each molecule in eV, (B,).

    It acts within the sum of two atoms' covalent radii (and the pairs' cutoff), about the length of a single bond.
    There it ends, with two derivatives of zero; what it adds to bonds, the network learns to subtract.

    Args:
        atomic_numbers: (B, A), 0 = padding.
        pairs: of the batch, each molecule's in a row.
        distances: (P,) of the pairs in Å.
        cutoff: of the pairs in Å.
    """
    numbers = atomic_numbers.reshape(-1)
    first, second = numbers[pairs.first_idx], numbers[pairs.second_idx]
    radii = jnp.asarray(COVALENT_RADII[: MAX_ATOMIC_NUMBER + 1], distances.dtype)
    reach = jnp.minimum(radii[first] + radii[second], cutoff)
    # 1 at the nucleus, 0 from the reach on, as is padding.
    switch = polynomial_cutoff(distances / reach, 1.0)
    return (switch * screened_repulsion(first, second, distances)).reshape(atomic_numbers.shape[0], -1).sum(axis=1)

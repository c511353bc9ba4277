"""The joint loss: L = ½Δ² of each target, averaged over what is real, weighted and summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from shared.batch import Batch
from train.config import TrainConfig
from train.joint import Prediction

Array = jax.Array


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, and the charges whose dipole is fitted."""

    energy: float
    forces: float
    dipole: float
    esp: float
    mono: float
    dipole_source: Literal["physnet", "dcmnet"]


class Losses(NamedTuple):
    """Unweighted terms and their weighted sum; scalars."""

    total: Array
    energy: Array  # eV²
    forces: Array  # (eV/Å)²
    dipole: Array  # (e·Å)²
    esp: Array  # (Hartree/e)²
    mono: Array  # e²


def loss_weights(config: TrainConfig) -> LossWeights:
    """The weights that the settings name."""
    return LossWeights(
        config.energy_weight,
        config.forces_weight,
        config.dipole_weight,
        config.esp_weight,
        config.mono_weight,
        config.dipole_source,
    )


def masked_mean(values: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Mean of the values where ``mask`` holds; 0 where it never does. Masked values are not looked at."""
    count = mask.sum(axis=axis)
    return jnp.where(mask, values, 0.0).sum(axis=axis) / jnp.maximum(count, 1)


def esp_mean_square(error: Array, batch: Batch) -> tuple[Array, Array]:
    """Mean square over each molecule's grid points (B,), and which molecules (B,) have any."""
    return masked_mean(error**2, batch.esp_mask, axis=1), batch.esp_mask.any(axis=1)


def joint_loss(prediction: Prediction, batch: Batch, weights: LossWeights) -> Losses:
    """The loss of a cleaned batch: a padded batch has the loss of the unpadded one.

    Energies and dipoles are averaged over molecules, forces over the atoms' components, the ESP over each
    molecule's grid points and then over molecules, monopoles over atoms.
    """
    molecules = batch.molecule_mask
    atoms = batch.atomic_numbers > 0
    xyz = (1, 1, 3)
    fitted_dipole = prediction.dipole if weights.dipole_source == "physnet" else prediction.dipole_dcm
    energy = 0.5 * masked_mean((prediction.energy - batch.energy) ** 2, molecules)
    forces = 0.5 * masked_mean((prediction.forces - batch.forces) ** 2, jnp.tile(atoms[..., None], xyz))
    dipole = 0.5 * masked_mean((fitted_dipole - batch.dipole) ** 2, jnp.tile(molecules[:, None], (1, 3)))
    esp = 0.5 * masked_mean(*esp_mean_square(prediction.esp - batch.esp, batch))
    mono = 0.5 * masked_mean((prediction.dcm_charges.sum(axis=-1) - prediction.charges) ** 2, atoms)
    total = (
        weights.energy * energy
        + weights.forces * forces
        + weights.dipole * dipole
        + weights.esp * esp
        + weights.mono * mono
    )
    return Losses(total, energy, forces, dipole, esp, mono)

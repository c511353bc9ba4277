"""The joint loss: L = ½Δ² of each target, averaged over what is real, weighted and summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from shared.batch import Batch
from train.config import TrainConfig
from train.prediction import Prediction

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


def esp_mean_square(error: Array, batch: Batch) -> tuple[Array, Array]:
    """Mean square over each molecule's grid points (B,), and which molecules (B,) have any."""
    points = batch.esp_mask.sum(axis=1)
    return jnp.where(batch.esp_mask, error**2, 0.0).sum(axis=1) / jnp.maximum(points, 1), points > 0


class Counts(NamedTuple):
    """What the means of a batch divide by; scalars, at least 1."""

    molecules: Array
    atoms: Array
    esp_molecules: Array  # with any grid point that counts


def count(batch: Batch) -> Counts:
    """Counts of a cleaned batch, or of a device's part of it; those of the parts add up."""
    numbers = (batch.molecule_mask, batch.atomic_numbers > 0, batch.esp_mask.any(axis=1))
    return Counts(*(mask.sum().astype(jnp.float32) for mask in numbers))


def joint_loss(prediction: Prediction, batch: Batch, weights: LossWeights, counts: Counts | None = None) -> Losses:
    """The loss of a cleaned batch: a padded batch has the loss of the unpadded one.

    Energies and dipoles are averaged over molecules, forces over the atoms' components, the ESP over each
    molecule's grid points and then over molecules, monopoles over atoms.

    Args:
        prediction: of these molecules.
        batch: their references.
        weights: of the terms.
        counts: of the whole batch, if this is a part: the losses of the parts add up to that of the whole.
    """
    counts = Counts(*(jnp.maximum(number, 1.0) for number in (counts or count(batch))))
    molecules = batch.molecule_mask
    atoms = batch.atomic_numbers > 0
    fitted_dipole = prediction.dipole if weights.dipole_source == "physnet" else prediction.dipole_dcm
    monopoles = prediction.dcm_charges.sum(axis=-1)
    mean_square, has_points = esp_mean_square(prediction.esp - batch.esp, batch)

    def half_mean(values: Array, mask: Array, number: Array) -> Array:
        return 0.5 * jnp.where(mask, values, 0.0).sum() / number

    energy = half_mean((prediction.energy - batch.energy) ** 2, molecules, counts.molecules)
    forces = half_mean((prediction.forces - batch.forces) ** 2, atoms[..., None], 3.0 * counts.atoms)
    dipole = half_mean((fitted_dipole - batch.dipole) ** 2, molecules[:, None], 3.0 * counts.molecules)
    esp = half_mean(mean_square, has_points, counts.esp_molecules)
    mono = half_mean((monopoles - prediction.charges) ** 2, atoms, counts.atoms)
    total = (
        weights.energy * energy
        + weights.forces * forces
        + weights.dipole * dipole
        + weights.esp * esp
        + weights.mono * mono
    )
    return Losses(total, energy, forces, dipole, esp, mono)

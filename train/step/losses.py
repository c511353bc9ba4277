"""The joint loss: L = ½Δ² of each target, averaged over what is real and known, weighted and summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from train.config import TrainConfig
from train.data.batch import Batch, known_targets
from train.model.prediction import Prediction

Array = jax.Array

_SMALL_EXCESS = 0.01
"""Excess of charge in e below which its loss becomes a square, so that it has a derivative at 0."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, and the charges whose dipole and quadrupole are fitted; None: no part of the program."""

    energy: float
    forces: float
    dipole: float
    esp: float
    mono: float
    charge_sum: float | None  # None: runs that are older than this term
    dipole_source: Literal["physnet", "dcmnet", "both"]
    quadrupole: float | None = None
    point_charge_esp: float | None = None
    charge: float | None = None


class Losses(NamedTuple):
    """Unweighted terms and their weighted sum; scalars."""

    total: Array
    energy: Array  # eV²
    forces: Array  # (eV/Å)²
    dipole: Array  # (e·Å)²
    esp: Array  # (Hartree/e)²
    mono: Array  # e²
    charge_sum: Array  # e
    quadrupole: Array  # (e·Å²)², 0 without a weight
    point_charge_esp: Array  # (Hartree/e)², 0 without a weight
    charge: Array  # e², of the distributed charges, 0 without a weight


def loss_weights(config: TrainConfig) -> LossWeights:
    """Return the weights that the settings name."""
    return LossWeights(
        config.energy_weight,
        config.forces_weight,
        config.dipole_weight,
        config.esp_weight,
        config.mono_weight,
        config.charge_sum_weight or None,
        config.dipole_source,
        config.quadrupole_weight or None,
        config.point_charge_esp_weight or None,
        config.charge_weight or None,
    )


def esp_mean_square(error: Array, batch: Batch) -> Array:
    """Return the mean square (B,) over each molecule's grid points, 0 where it has none."""
    points = batch.esp_mask.sum(axis=1)
    return jnp.where(batch.esp_mask, error**2, 0.0).sum(axis=1) / jnp.maximum(points, 1)


def point_charge_esp_mean_square(prediction: Prediction, batch: Batch) -> Array:
    """Return the mean square (B,) of the error of the ESP of PhysNet's own charges over each molecule's grid points."""
    from train.model.electrostatics import electrostatic_potential  # slow: imports e3x, which nothing else here needs

    return esp_mean_square(electrostatic_potential(prediction.charges, batch.positions, batch.grid) - batch.esp, batch)


class Counts(NamedTuple):
    """Denominators of the means over a batch; scalars."""

    molecules: Array
    atoms: Array
    energy_molecules: Array  # with a known energy
    force_atoms: Array  # of molecules with known forces
    dipole_molecules: Array  # with a known dipole
    quadrupole_molecules: Array  # with a known quadrupole
    esp_molecules: Array  # with any grid point that counts


def count(batch: Batch) -> Counts:
    """Count a cleaned batch, or a device's part of it; the counts of the parts add up."""
    known = known_targets(batch)
    masks = Counts(
        molecules=batch.molecule_mask,
        atoms=batch.atomic_numbers > 0,
        energy_molecules=known.energy,
        force_atoms=known.forces,
        dipole_molecules=known.dipole,
        quadrupole_molecules=known.quadrupole,
        esp_molecules=known.esp,
    )
    return Counts(*(mask.sum().astype(jnp.float32) for mask in masks))


def joint_loss(prediction: Prediction, batch: Batch, weights: LossWeights, counts: Counts | None = None) -> Losses:
    """Return the loss of a cleaned batch, which padding does not change.

    Energies, dipoles and quadrupoles (their nine components) are averaged over molecules, forces over the atoms'
    components, the ESP over each molecule's grid points and then over molecules, monopoles over atoms, squares of
    distributed charges over all of these, the sums of PhysNet's uncorrected charges over molecules (Unke & Meuwly 2019,
    eq 16). A target that is not known (NaN, or no grid point that counts) has no part in its average; a target that no
    molecule has, no loss.

    Args:
        prediction: of these molecules.
        batch: their references.
        weights: of the terms.
        counts: of the whole batch, if this is a part: the losses of the parts add up to that of the whole.
    """
    counts = Counts(*(jnp.maximum(number, 1.0) for number in (counts or count(batch))))
    known = known_targets(batch)
    monopoles = prediction.dcm_charges.sum(axis=-1)

    def half_mean_square(error: Array, mask: Array, number: Array) -> Array:
        # Selected before it is squared: the derivative of the square of an unknown target's error is NaN, even times 0.
        return 0.5 * (jnp.where(mask, error, 0.0) ** 2).sum() / number

    def of_moments(of_physnet: Array, of_dcmnet: Array, reference: Array, mask: Array, number: Array) -> Array:
        fitted = {"physnet": [of_physnet], "dcmnet": [of_dcmnet], "both": [of_physnet, of_dcmnet]}
        errors = (moments - reference for moments in fitted[weights.dipole_source])
        return jnp.stack([half_mean_square(error, mask, number) for error in errors]).sum()

    energy = half_mean_square(prediction.energy - batch.energy, known.energy, counts.energy_molecules)
    forces = half_mean_square(prediction.forces - batch.forces, known.forces[..., None], 3.0 * counts.force_atoms)
    dipoles = (prediction.dipole, prediction.dipole_dcm, batch.dipole)
    dipole = of_moments(*dipoles, known.dipole[:, None], 3.0 * counts.dipole_molecules)
    esp = 0.5 * esp_mean_square(prediction.esp - batch.esp, batch).sum() / counts.esp_molecules
    mono = half_mean_square(monopoles - prediction.charges, batch.atomic_numbers > 0, counts.atoms)
    excess = jnp.where(batch.molecule_mask, prediction.charge_excess, 0.0)
    charge_sum = (jnp.sqrt(excess**2 + _SMALL_EXCESS**2) - _SMALL_EXCESS).sum() / counts.molecules
    total = (
        weights.energy * energy
        + weights.forces * forces
        + weights.dipole * dipole
        + weights.esp * esp
        + weights.mono * mono
    )
    if weights.charge_sum is not None:
        total = total + weights.charge_sum * charge_sum
    quadrupole = point_charge_esp = charge = jnp.zeros(())
    if weights.quadrupole is not None and batch.quadrupole is not None:
        quadrupoles = (prediction.quadrupole, prediction.quadrupole_dcm, batch.quadrupole)
        quadrupole = of_moments(*quadrupoles, known.quadrupole[:, None, None], 9.0 * counts.quadrupole_molecules)
        total = total + weights.quadrupole * quadrupole
    if weights.point_charge_esp is not None:
        point_charge_esp = 0.5 * point_charge_esp_mean_square(prediction, batch).sum() / counts.esp_molecules
        total = total + weights.point_charge_esp * point_charge_esp
    if weights.charge is not None:
        every = prediction.dcm_charges
        charge = half_mean_square(every, (batch.atomic_numbers > 0)[..., None], every.shape[-1] * counts.atoms)
        total = total + weights.charge * charge
    return Losses(total, energy, forces, dipole, esp, mono, charge_sum, quadrupole, point_charge_esp, charge)

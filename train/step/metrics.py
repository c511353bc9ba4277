"""Errors as sums on the device, turned into named numbers once an epoch. Names carry their unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets
from train.data.quantities import (
    CHARGE_SUM,
    DIPOLE,
    DIPOLE_DCM,
    ENERGY,
    ESP,
    ESP_PHYSNET,
    FORCES,
    MONOPOLE,
    QUADRUPOLE,
    QUADRUPOLE_DCM,
    QUANTITIES,
)
from train.model.prediction import Prediction
from train.step.losses import Counts, Losses, LossWeights, count, esp_mean_square, point_charge_esp_mean_square

Array = jax.Array


class MetricSums(NamedTuple):
    """Sums of errors over real, known targets, and the counts of :class:`train.step.losses.Counts`; scalars."""

    molecules: Array
    atoms: Array
    energy_molecules: Array
    force_atoms: Array
    dipole_molecules: Array
    quadrupole_molecules: Array
    esp_molecules: Array
    loss: Array
    energy: Array
    forces: Array
    dipole: Array
    dipole_dcm: Array
    quadrupole: Array
    quadrupole_dcm: Array
    esp: Array
    esp_point_charges: Array
    monopole: Array
    charge_sum: Array


_NOT_SUMMED = -1.0

METRIC_NAMES = ("loss", *(quantity.metric for quantity in QUANTITIES))


_SMALLEST_ERROR = 1e-6
"""Least error that is resolved, in any of the units: below is float32's noise, as for dipoles that are zero."""


def zero_sums(shape: tuple[int, ...] = ()) -> MetricSums:
    """Return sums over no molecules; of several models of this shape."""
    return MetricSums(*(jnp.zeros(shape) for _ in MetricSums._fields))


def batch_sums(prediction: Prediction, batch: Batch, losses: Losses, counts: Counts, point_charges: bool) -> MetricSums:
    """Sum over one cleaned batch, or over a part of it; the sums of the parts add up.

    Args:
        prediction: of these molecules.
        batch: their references.
        losses: of these molecules.
        counts: of the whole batch.
        point_charges: also evaluate the ESP of PhysNet's own charges (a third more work on the grid).
    """
    known = known_targets(batch)
    atoms = batch.atomic_numbers > 0

    def over_molecules(error: Array, mask: Array) -> Array:
        error = jnp.abs(error).reshape(error.shape[0], -1).mean(axis=1)
        return jnp.where(mask, error, 0.0).sum()

    # No sum of squares; NaN would stop whoever looks for NaN (JAX_DEBUG_NANS).
    not_summed = jnp.full((), _NOT_SUMMED)
    point_square = point_charge_esp_mean_square(prediction, batch).sum() if point_charges else not_summed
    quadrupole = quadrupole_dcm = jnp.zeros(())
    if batch.quadrupole is not None:
        quadrupole, quadrupole_dcm = (
            over_molecules(predicted - batch.quadrupole, known.quadrupole)
            for predicted in (prediction.quadrupole, prediction.quadrupole_dcm)
        )
    monopole = jnp.abs(prediction.dcm_charges.sum(axis=-1) - prediction.charges)
    return MetricSums(
        **count(batch)._asdict(),
        loss=losses.total * counts.molecules,
        energy=over_molecules(prediction.energy - batch.energy, known.energy),
        forces=jnp.where(known.forces[..., None], jnp.abs(prediction.forces - batch.forces), 0.0).sum() / 3.0,
        dipole=over_molecules(prediction.dipole - batch.dipole, known.dipole),
        dipole_dcm=over_molecules(prediction.dipole_dcm - batch.dipole, known.dipole),
        quadrupole=quadrupole,
        quadrupole_dcm=quadrupole_dcm,
        esp=esp_mean_square(prediction.esp - batch.esp, batch).sum(),
        esp_point_charges=point_square,
        monopole=jnp.where(atoms, monopole, 0.0).sum(),
        charge_sum=over_molecules(prediction.charge_excess, batch.molecule_mask),
    )


def add_sums(first: MetricSums, second: MetricSums) -> MetricSums:
    """Add two sums."""
    return MetricSums(*(a + b for a, b in zip(first, second, strict=True)))


def mean_error(metrics: dict[str, float], weights: LossWeights) -> float:
    """Return the geometric mean of the errors with weights in the loss: energy, forces, dipole, quadrupole, ESP.

    A change by one part in a hundred counts the same in each of them, whatever its unit and weight. The loss itself is
    a mean of squares, and a few strained molecules with the largest forces can decide it: on 38 small molecules, its
    lowest value could come a fifth of the way through a training that went on to halve all errors.

    Args:
        metrics: of the validation split, as :func:`named_metrics` gives them.
        weights: of the loss; targets of weight 0 do not count, nor do those that no molecule of the split has. Moments
            of both kinds of charges, where both are fitted, count as two errors.
    """
    of_physnet, of_dcmnet = weights.dipole_source != "dcmnet", weights.dipole_source != "physnet"
    quadrupole = weights.quadrupole or 0.0
    names = {
        ENERGY.metric: weights.energy,
        FORCES.metric: weights.forces,
        DIPOLE.metric: weights.dipole * of_physnet,
        DIPOLE_DCM.metric: weights.dipole * of_dcmnet,
        QUADRUPOLE.metric: quadrupole * of_physnet,
        QUADRUPOLE_DCM.metric: quadrupole * of_dcmnet,
        ESP.metric: weights.esp,
        ESP_PHYSNET.metric: weights.point_charge_esp or 0.0,
    }
    known = [metrics[name] for name, weight in names.items() if weight > 0 and name in metrics]
    errors = [max(error, _SMALLEST_ERROR) for error in known]
    return float(np.exp(np.mean(np.log(errors)))) if errors else metrics["loss"]


def mean_metrics(members: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the means over models of the errors that all of them have; those of a single one as they are."""
    return {name: float(np.mean([one[name] for one in members])) for name in members[0]}


def named_metrics(sums: MetricSums) -> dict[str, float]:
    """Return mean errors under the names of METRIC_NAMES, waiting for the device.

    Left out are errors that were not summed, and those of targets that no molecule has.
    """
    s = {name: float(value) for name, value in jax.device_get(sums)._asdict().items()}
    debye = 1.0 / DEBYE_IN_E_ANGSTROM
    means = {
        "loss": (s["loss"], max(s["molecules"], 1.0)),
        ENERGY.metric: (s["energy"], s["energy_molecules"]),
        FORCES.metric: (s["forces"], s["force_atoms"]),
        DIPOLE.metric: (s["dipole"] * debye, s["dipole_molecules"]),
        DIPOLE_DCM.metric: (s["dipole_dcm"] * debye, s["dipole_molecules"]),
        QUADRUPOLE.metric: (s["quadrupole"] * debye, s["quadrupole_molecules"]),
        QUADRUPOLE_DCM.metric: (s["quadrupole_dcm"] * debye, s["quadrupole_molecules"]),
        ESP.metric: (s["esp"], s["esp_molecules"]),
        ESP_PHYSNET.metric: (s["esp_point_charges"], s["esp_molecules"]),
        MONOPOLE.metric: (s["monopole"], s["atoms"]),
        CHARGE_SUM.metric: (s["charge_sum"], s["molecules"]),
    }
    if s["esp_point_charges"] < 0:
        del means[ESP_PHYSNET.metric]
    if math.isnan(s["charge_sum"]) and not math.isnan(s["loss"]):
        del means[CHARGE_SUM.metric]
    named = {name: total / number for name, (total, number) in means.items() if number > 0}
    for name in named:
        if name.startswith("esp"):
            named[name] = math.sqrt(named[name]) * HARTREE_IN_KCAL_PER_MOL
    return named

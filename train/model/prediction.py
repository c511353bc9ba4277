"""Predictions of the joint model; separate from the model, whose import takes seconds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any
"""Tree of parameters: nested dictionaries of arrays."""


class Prediction(NamedTuple):
    """Predictions for a batch of B molecules; zero for padded atoms."""

    energy: Array  # (B,) eV, without reference energies
    forces: Array  # (B, A, 3) eV/Å, exactly -dE/dR of this energy
    charges: Array  # (B, A) e, PhysNet's; they sum to the total charge
    charge_excess: Array  # (B,) e, of the sum of PhysNet's charges over the total charge, before it was corrected
    dcm_charges: Array  # (B, A, n_dcm) e
    dcm_sites: Array  # (B, A, n_dcm, 3) Å
    dipole: Array  # (B, 3) e·Å, of PhysNet's charges about the centre of mass
    dipole_dcm: Array  # (B, 3) e·Å, of the distributed charges about the same origin
    quadrupole: Array  # (B, 3, 3) e·Å², traceless, of PhysNet's charges about the centre of mass
    quadrupole_dcm: Array  # (B, 3, 3) e·Å², of the distributed charges about the same origin
    esp: Array  # (B, G) Hartree/e, of the distributed charges


class Deviations(NamedTuple):
    """Standard deviations of the predictions over the N members of an ensemble, with N - 1 in the denominator."""

    energy: Array  # (B,) eV
    forces: Array  # (B, A, 3) eV/Å
    charges: Array  # (B, A) e
    dipole: Array  # (B, 3) e·Å
    dipole_dcm: Array  # (B, 3) e·Å
    esp: Array  # (B, G) Hartree/e


class EnsemblePrediction(NamedTuple):
    """Means over the members of an ensemble, with the distributed charges of all, and how the members differ."""

    mean: Prediction  # dcm_charges (B, A, N·n_dcm), each member's divided by N
    std: Deviations

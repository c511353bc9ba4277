"""A batch: B molecules of one bucket, padded to its shape; the only data that the jitted functions of training take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shared.buckets import BucketShape, array_shape
from shared.schema import EDGE_ARRAYS, FRAME_ARRAYS

Array = Any  # numpy on the host, JAX on the device


class Batch(NamedTuple):
    """B molecules of A atoms and G grid points, padding included. Units and padding: :mod:`shared.schema`.

    Rows past the end of the data (the last batch of an epoch) are molecules without atoms: ``molecule_mask`` is False.
    Energies, forces, dipoles and quadrupoles that are not known are NaN, see :func:`known_targets`.
    """

    molecule_mask: Array  # (B,) bool
    atomic_numbers: Array  # (B, A) int32, 0 = padding
    positions: Array  # (B, A, 3) Å
    total_charge: Array  # (B,) e
    energy: Array  # (B,) eV, reference energies subtracted
    forces: Array  # (B, A, 3) eV/Å
    dipole: Array  # (B, 3) e·Å, about the centre of mass
    grid: Array  # (B, G, 3) Å
    esp: Array  # (B, G) Hartree/e
    esp_mask: Array  # (B, G) bool, grid points that count
    physnet_dst: Array  # (B, Ep) int32
    physnet_src: Array  # (B, Ep) int32
    physnet_n_edges: Array  # (B,) int32
    dcmnet_dst: Array  # (B, Ed) int32
    dcmnet_src: Array  # (B, Ed) int32
    dcmnet_n_edges: Array  # (B,) int32
    quadrupole: Array | None = None  # (B, 3, 3) e·Å², about the centre of mass; None where no frame of the data has one


class Known(NamedTuple):
    """Masks of the known targets of a batch; those of padding are False."""

    energy: Array  # (B,) bool
    forces: Array  # (B, A) bool, of all of a molecule's atoms or of none
    dipole: Array  # (B,) bool
    quadrupole: Array  # (B,) bool
    esp: Array  # (B,) bool, whether any grid point counts


def known_targets(batch: Batch) -> Known:
    """Return masks of the targets that enter losses and errors: of real molecules, and not NaN.

    Works on the host and on the device, whatever the padding holds.
    """
    isnan = batch.energy.__array_namespace__().isnan
    real = batch.molecule_mask
    atoms = real[:, None] & (batch.atomic_numbers > 0)
    with_forces = ~(isnan(batch.forces).any(axis=-1) & atoms).any(axis=1)
    quadrupole = batch.quadrupole
    return Known(
        energy=real & ~isnan(batch.energy),
        forces=atoms & with_forces[:, None],
        dipole=real & ~isnan(batch.dipole).any(axis=-1),
        quadrupole=real & False if quadrupole is None else real & ~isnan(quadrupole).any(axis=(-2, -1)),
        esp=real & batch.esp_mask.any(axis=1),
    )


def map_arrays(function: Callable[[Array], Array], batch: Batch) -> Batch:
    """Return the batch with a function applied to every array that it has."""
    return Batch(*(None if array is None else function(array) for array in batch))


def empty_batch(shape: BucketShape, batch_size: int) -> Batch:
    """Return a batch of this shape without molecules, for tracing and initialisation."""
    sizes = shape.sizes()
    arrays = {
        name: np.zeros((batch_size, *array_shape(spec, sizes)), spec.dtype)
        for name, spec in {**FRAME_ARRAYS, **EDGE_ARRAYS}.items()
        if name in Batch._fields
    }
    return Batch(
        molecule_mask=np.zeros(batch_size, bool),
        esp_mask=np.zeros((batch_size, shape.frame.grid), bool),
        **arrays,
    )

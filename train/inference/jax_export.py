"""The model as one file that runs without this project: a ``jax.export`` artefact that carries its weights.

Batch size and number of atoms are symbolic, so that one artefact takes molecules of any size. Edges are all pairs of
real atoms, made inside: those beyond a cutoff vanish with the cutoff functions.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from shared.elements import MAX_ATOMIC_NUMBER, element_table, symbol
from shared.geometry import SHORTEST_PREDICTED
from train.data.batch import Batch
from train.inference.predictor import Precision
from train.model.arithmetic import arithmetic
from train.model.joint import build_model
from train.model.saved_model import TrainedModel

Array = jax.Array

FORMAT_VERSION = 1
PLATFORMS = ("cpu", "cuda")

FARTHEST = 256.0
"""Largest coordinate of an atom in float32, Å, whose steps are 1.5e-5 Å there: forces are still right to 1e-3 eV/Å."""

INPUTS = {
    "atomic_numbers": "(B, A) int32; 0 = padding, anywhere in a row; A at least 2",
    "positions": "(B, A, 3) Å; the padding is ignored; in float32 less than 256 Å from the origin: subtract the "
    "molecule's centre before you cast them",
    "total_charge": "(B,) e",
}
OUTPUTS = {
    "energy": "(B,) eV, without reference energies",
    "reference_energy": "(B, 2) eV: whole eV and the rest; added to the energy in float64 they make the total energy",
    "forces": "(B, A, 3) eV/Å, the negative gradient of the energy; 0 for padding",
    "charges": "(B, A) e, PhysNet's; they sum to the total charge; 0 for padding",
    "dcm_charges": "(B, A, n_dcm) e, the distributed charges of each atom; 0 for padding",
    "dcm_sites": "(B, A, n_dcm, 3) Å, where the distributed charges are",
    "dipole": "(B, 3) e·Å, of PhysNet's charges about the centre of mass",
    "dipole_dcm": "(B, 3) e·Å, of the distributed charges about the centre of mass",
    "quadrupole": "(B, 3, 3) e·Å², ½ Σ q (3 x xᵀ - |x|² 1) of PhysNet's charges about the centre of mass",
    "quadrupole_dcm": "(B, 3, 3) e·Å², of the distributed charges about the centre of mass",
}


def export_model(trained: TrainedModel, precision: Precision) -> bytes:
    """Return the serialised artefact: a function of ``INPUTS`` that returns a dictionary of ``OUTPUTS``.

    Args:
        trained: settings, reference energies and weights.
        precision: of all floating-point arrays; calling a float64 artefact needs jax_enable_x64.
    """
    # As in training: full float32 on GPUs too, which would otherwise round the factors of matrix products.
    with arithmetic(precision == "float64"):
        # One more than a number that is at least 1, so that JAX knows that there is at least one pair.
        batch, atoms = export.symbolic_shape("batch, more_atoms + 1")
        arguments = (
            jax.ShapeDtypeStruct((batch, atoms), jnp.int32),
            jax.ShapeDtypeStruct((batch, atoms, 3), precision),
            jax.ShapeDtypeStruct((batch,), precision),
        )
        return bytes(export.export(jax.jit(_function(trained, precision)), platforms=PLATFORMS)(*arguments).serialize())


def describe(trained: TrainedModel, precision: Precision) -> dict[str, Any]:
    """Return what a user of the artefact needs to know, to be written as JSON."""
    config = trained.config
    return {
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "platforms": list(PLATFORMS),
        "elements": [symbol(number) for number in sorted(trained.reference_energies_ev)],
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "n_dcm": config.n_dcm,
        "physnet_cutoff_angstrom": config.physnet_cutoff,
        "dcmnet_cutoff_angstrom": config.dcmnet_cutoff,
        "reference_energies_ev": {str(z): e for z, e in sorted(trained.reference_energies_ev.items())},
        "written_by": {name: metadata.version(name) for name in ("jax", "jaxlib")},
    }


def _function(trained: TrainedModel, precision: Precision) -> Callable[[Array, Array, Array], dict[str, Array]]:
    model = build_model(trained.config)
    params = jax.tree.map(lambda x: jnp.asarray(x, precision), trained.params)
    references = element_table({0: 0.0, **trained.reference_energies_ev}, np.nan)
    # Sums of whole numbers are exact in float32 too, those of the small rest to 1e-6 eV.
    whole = np.round(references)
    table = jnp.asarray(np.stack([whole, references - whole], axis=1), precision)

    def predict(atomic_numbers: Array, positions: Array, total_charge: Array) -> dict[str, Array]:
        predicted = model.apply_off_grid(params, _all_pairs(atomic_numbers, positions, total_charge))
        inside = (atomic_numbers >= 0) & (atomic_numbers <= MAX_ATOMIC_NUMBER)
        reference = jnp.where(inside[..., None], table[jnp.where(inside, atomic_numbers, 0)], jnp.nan).sum(axis=1)
        outputs = {**predicted._asdict(), "reference_energy": reference}
        # What cannot be predicted gives NaN rather than a wrong number.
        known = jnp.isfinite(reference).all(axis=1) & _possible(atomic_numbers, positions)
        return {
            name: jnp.where(known.reshape(-1, *[1] * (outputs[name].ndim - 1)), outputs[name], jnp.nan)
            for name in OUTPUTS
        }

    return predict


def _possible(atomic_numbers: Array, positions: Array) -> Array:
    """Return which molecules (B,) have no atoms at one place, and in float32 none where it resolves too little."""
    atoms = atomic_numbers > 0
    different = atoms[:, :, None] & atoms[:, None, :] & ~jnp.eye(atoms.shape[1], dtype=bool)[None]
    squared = ((positions[:, :, None] - positions[:, None, :]) ** 2).sum(axis=-1)
    possible = ~(different & (squared < SHORTEST_PREDICTED**2)).any(axis=(1, 2))
    if positions.dtype == jnp.float32:
        possible &= ~(atoms & (jnp.abs(positions) >= FARTHEST).any(axis=-1)).any(axis=1)
    return possible


def _all_pairs(atomic_numbers: Array, positions: Array, total_charge: Array) -> Batch:
    """Return a batch whose edges are all pairs of real atoms; arrays that predictions do not need are zero."""
    size, atoms = atomic_numbers.shape
    real = atomic_numbers > 0
    n_atoms = real.sum(axis=1, dtype=jnp.int32)
    # Index of the k-th real atom, so that padding may be anywhere.
    places = jnp.argsort(~real, axis=1, stable=True).astype(jnp.int32)
    edge = jnp.arange(atoms * (atoms - 1), dtype=jnp.int32)[None, :]
    others = jnp.maximum(n_atoms - 1, 1)[:, None]
    # Edge (n - 1) i + k goes to atom i from the k-th other atom; from n (n - 1) on is padding.
    dst, src = edge // others, edge % others
    src = src + (src >= dst)
    dst, src = (jnp.take_along_axis(places, jnp.minimum(index, atoms - 1), axis=1) for index in (dst, src))
    n_edges = n_atoms * (n_atoms - 1)
    nothing = jnp.zeros_like(total_charge)
    return Batch(
        molecule_mask=n_atoms > 0,
        atomic_numbers=atomic_numbers,
        positions=positions,
        total_charge=total_charge,
        energy=nothing,
        forces=jnp.zeros_like(positions),
        dipole=jnp.zeros((size, 3), positions.dtype),
        grid=jnp.zeros((size, 1, 3), positions.dtype),
        esp=nothing[:, None],
        esp_mask=jnp.zeros((size, 1), bool),
        physnet_dst=dst,
        physnet_src=src,
        physnet_n_edges=n_edges,
        dcmnet_dst=dst,
        dcmnet_src=src,
        dcmnet_n_edges=n_edges,
    )

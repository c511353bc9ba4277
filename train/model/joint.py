"""The joint model: PhysNet's charges enter DCMNet, and the gradient flows all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.config import ModelConfig
from train.data.batch import Batch
from train.model.dcmnet import DCMNet
from train.model.electrostatics import (
    centers_of_mass,
    dipole,
    distributed_coulomb_energy,
    electrostatic_potential,
    quadrupole,
)
from train.model.graph import Edges, Pairs, batch_edges, batch_pairs
from train.model.physnet import PhysNet
from train.model.prediction import Params, Prediction

Array = jax.Array


class _State(NamedTuple):
    """Outputs of the two networks."""

    energy: Array
    charges: Array
    charge_excess: Array
    dcm_charges: Array
    dcm_sites: Array


def clean(batch: Batch) -> Batch:
    """Replace the padding by zeros, by selection and not by a product: it may hold NaN or infinity.

    Targets of real molecules stay as they are, NaN where they are unknown: the model does not read them.
    """
    real = batch.molecule_mask
    atomic_numbers = jnp.where(real[:, None], batch.atomic_numbers, 0)
    atoms = atomic_numbers > 0
    points = batch.esp_mask & real[:, None]
    return batch._replace(
        atomic_numbers=atomic_numbers,
        positions=jnp.where(atoms[..., None], batch.positions, 0.0),
        total_charge=jnp.where(real, batch.total_charge, 0.0),
        energy=jnp.where(real, batch.energy, 0.0),
        forces=jnp.where(atoms[..., None], batch.forces, 0.0),
        dipole=jnp.where(real[:, None], batch.dipole, 0.0),
        grid=jnp.where(points[..., None], batch.grid, 0.0),
        esp=jnp.where(points, batch.esp, 0.0),
        esp_mask=points,
        physnet_n_edges=jnp.where(real, batch.physnet_n_edges, 0),
        dcmnet_n_edges=jnp.where(real, batch.dcmnet_n_edges, 0),
        quadrupole=None if batch.quadrupole is None else jnp.where(real[:, None, None], batch.quadrupole, 0.0),
    )


@dataclass(frozen=True)
class JointModel:
    """PhysNet and DCMNet with one set of parameters, {"physnet", "dcmnet"[, "coulomb_scale"]}.

    Attributes:
        physnet: network for energies and charges.
        dcmnet: network for distributed charges.
        mix_coulomb_energy: add the energy of the distributed charges, times a learnt factor.
        share_features: PhysNet's features enter DCMNet, beside its charges.
    """

    physnet: PhysNet
    dcmnet: DCMNet
    mix_coulomb_energy: bool = False
    share_features: bool = False

    def init(self, key: Array, batch: Batch) -> Params:
        """Return new parameters; only the shapes of ``batch`` matter."""
        physnet_key, dcmnet_key = jax.random.split(key)
        batch = clean(batch)
        pairs, edges = self._graphs(batch, batch.positions)
        no_charges = jnp.zeros_like(batch.positions[..., 0])
        no_features = jnp.zeros((*no_charges.shape, self.physnet.features)) if self.share_features else None
        params: dict[str, Any] = {
            "physnet": self.physnet.init(physnet_key, batch.atomic_numbers, batch.positions, pairs, batch.total_charge),
            "dcmnet": self.dcmnet.init(dcmnet_key, batch.atomic_numbers, no_charges, edges, no_features),
        }
        if self.mix_coulomb_energy:
            params["coulomb_scale"] = jnp.zeros(())
        return params

    def apply(self, params: Params, batch: Batch) -> Prediction:
        """Predict everything for a batch, whatever is in its padding."""
        batch = clean(batch)
        prediction = self._predict(params, batch)
        batch_size = batch.positions.shape[0]
        charges, sites = prediction.dcm_charges.reshape(batch_size, -1), prediction.dcm_sites.reshape(batch_size, -1, 3)
        return prediction._replace(esp=electrostatic_potential(charges, sites, batch.grid))

    def apply_off_grid(self, params: Params, batch: Batch) -> Prediction:
        """Predict everything but the ESP, which is (B, 0); this can be differentiated in forward mode."""
        return self._predict(params, clean(batch))

    def _predict(self, params: Params, batch: Batch) -> Prediction:
        def total_energy(positions: Array) -> tuple[Array, _State]:
            state = self._networks(params, batch, positions)
            return state.energy.sum(), state

        gradient, state = jax.grad(total_energy, has_aux=True)(batch.positions)
        batch_size = batch.positions.shape[0]
        origin = centers_of_mass(batch.positions, batch.atomic_numbers)
        flat_charges = state.dcm_charges.reshape(batch_size, -1)
        flat_sites = state.dcm_sites.reshape(batch_size, -1, 3)
        return Prediction(
            energy=state.energy,
            forces=-gradient,
            charges=state.charges,
            charge_excess=state.charge_excess,
            dcm_charges=state.dcm_charges,
            dcm_sites=state.dcm_sites,
            dipole=dipole(state.charges, batch.positions, origin),
            dipole_dcm=dipole(flat_charges, flat_sites, origin),
            quadrupole=quadrupole(state.charges, batch.positions, origin),
            quadrupole_dcm=quadrupole(flat_charges, flat_sites, origin),
            esp=jnp.zeros((batch_size, 0), batch.positions.dtype),
        )

    def _networks(self, params: Params, batch: Batch, positions: Array) -> _State:
        pairs, edges = self._graphs(batch, positions)
        physnet: Any = self.physnet.apply(params["physnet"], batch.atomic_numbers, positions, pairs, batch.total_charge)
        features = physnet.features if self.share_features else None
        distributed: Any = self.dcmnet.apply(params["dcmnet"], batch.atomic_numbers, physnet.charges, edges, features)
        sites = positions[:, :, None, :] + distributed.displacements
        energy = physnet.energy
        if self.mix_coulomb_energy:
            coulomb = distributed_coulomb_energy(distributed.charges, sites, batch.atomic_numbers > 0)
            energy = energy + params["coulomb_scale"] * coulomb
        return _State(energy, physnet.charges, physnet.charge_excess, distributed.charges, sites)

    def _graphs(self, batch: Batch, positions: Array) -> tuple[Pairs, Edges]:
        """Return PhysNet's pairs of atoms and DCMNet's edges."""
        return (
            batch_pairs(positions, batch.physnet_dst, batch.physnet_src, batch.physnet_n_edges, self.physnet.cutoff),
            batch_edges(positions, batch.dcmnet_dst, batch.dcmnet_src, batch.dcmnet_n_edges, self.dcmnet.cutoff),
        )


def build_model(config: ModelConfig) -> JointModel:
    """Return the model with these hyperparameters."""
    return JointModel(
        physnet=PhysNet(
            features=config.physnet_features,
            iterations=config.physnet_iterations,
            basis=config.physnet_basis,
            cutoff=config.physnet_cutoff,
            residual_interaction=config.physnet_residual_interaction,
            residual_atomic=config.physnet_residual_atomic,
            residual_output=config.physnet_residual_output,
            degree=config.physnet_degree,
            channels=config.physnet_channels,
            zbl=config.zbl,
        ),
        dcmnet=DCMNet(
            features=config.dcmnet_features,
            iterations=config.dcmnet_iterations,
            basis=config.dcmnet_basis,
            cutoff=config.dcmnet_cutoff,
            n_dcm=config.n_dcm,
            max_degree=config.dcmnet_max_degree,
            exact_monopoles=config.exact_monopoles,
            longest_arm=config.longest_arm,
        ),
        mix_coulomb_energy=config.mix_coulomb_energy,
        share_features=config.share_features,
    )

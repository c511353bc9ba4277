"""DCMNet written with e3x's own layers: what the fast one is compared with, in tests and benchmarks."""

from __future__ import annotations

import functools

import e3x
import jax
import jax.numpy as jnp
from flax import linen as nn

from shared.elements import MAX_ATOMIC_NUMBER
from train.model.dcmnet import DISPLACEMENT_SCALE_ANGSTROM, DistributedCharges
from train.model.graph import Edges

Array = jax.Array


class PlainDCMNet(nn.Module):
    """DCMNet written with e3x's layers, parameter for parameter the network of train.model.dcmnet."""

    features: int
    iterations: int
    basis: int
    cutoff: float
    n_dcm: int
    max_degree: int

    @nn.compact
    def __call__(
        self, atomic_numbers: Array, monopoles: Array, edges: Edges, atom_features: None = None
    ) -> DistributedCharges:
        """Charges and displacements, without exact monopoles and PhysNet's features."""
        shape = atomic_numbers.shape
        numbers = atomic_numbers.reshape(-1)
        basis = e3x.nn.basis(
            edges.displacements,
            max_degree=self.max_degree,
            num=self.basis,
            radial_fn=e3x.nn.reciprocal_bernstein,
            cutoff_fn=functools.partial(e3x.nn.smooth_cutoff, cutoff=self.cutoff),
        )
        x = e3x.nn.Embed(MAX_ATOMIC_NUMBER + 1, self.features, name="embedding")(numbers)
        charges = monopoles.reshape(-1)[:, None, None, None]
        x = x + e3x.nn.Dense(self.features, use_bias=False, name="monopole")(charges)
        for i in range(self.iterations):
            y = e3x.nn.MessagePass(max_degree=self.max_degree, include_pseudotensors=False, name=f"message_{i}")(
                x, basis, dst_idx=edges.dst_idx, src_idx=edges.src_idx, indices_are_sorted=True
            )
            x = e3x.nn.add(x, y)
            y = e3x.nn.Dense(self.features, name=f"mlp_{i}_0")(x)
            y = e3x.nn.Dense(self.features, name=f"mlp_{i}_1")(e3x.nn.silu(y))
            x = e3x.nn.add(x, y)
        x = e3x.nn.TensorDense(self.n_dcm, max_degree=1, include_pseudotensors=False, name="head")(x)
        bias = self.param("element_bias", nn.initializers.zeros, (MAX_ATOMIC_NUMBER + 1, self.n_dcm))
        scalars, vectors = x[:, 0, 0, :], e3x.nn.hard_tanh(x)[:, 0, 1:4, :]
        charges = nn.Dense(self.n_dcm, use_bias=False, name="charges")(scalars) + bias[numbers]
        displacements = DISPLACEMENT_SCALE_ANGSTROM * jnp.swapaxes(vectors, 1, 2)
        real = atomic_numbers > 0
        return DistributedCharges(
            jnp.where(real[..., None], charges.reshape(*shape, self.n_dcm), 0.0),
            jnp.where(real[..., None, None], displacements.reshape(*shape, self.n_dcm, 3), 0.0),
        )

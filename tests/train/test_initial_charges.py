"""Charges fitted to dipoles: recovered from dipoles that such charges have, and part of every new run's weights."""

from __future__ import annotations

import numpy as np

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.cache import BucketArrays
from shared.elements import MASSES
from shared.units import DEBYE_IN_E_ANGSTROM
from tests import support
from train.initial_charges import element_charges
from train.physnet import conserve_charge

TRUE = {1: 0.15, 6: 0.3, 8: -0.55}


def molecules(numbers: list[list[int]], seed: int = 0) -> BucketArrays:
    """Random geometries, some of them ions, whose dipoles are those of the true charges about the centre of mass."""
    rng = np.random.default_rng(seed)
    atoms = max(map(len, numbers))
    padded = np.array([row + [0] * (atoms - len(row)) for row in numbers])
    positions = rng.normal(size=(*padded.shape, 3)) * (padded > 0)[..., None]
    total_charge = rng.integers(-1, 2, len(numbers)).astype(float)
    own = np.vectorize(lambda z: TRUE.get(z, 0.0))(padded)
    charges = np.asarray(conserve_charge(own, padded > 0, total_charge), np.float64)
    mass = MASSES[padded]
    center = (mass[..., None] * positions).sum(axis=1) / mass.sum(axis=1)[:, None]
    dipole = (charges[..., None] * (positions - center[:, None])).sum(axis=1)
    arrays = {
        "atomic_numbers": padded.astype(np.int32),
        # Relative to the centre of mass, as in every shard.
        "positions": ((positions - center[:, None]) * (padded > 0)[..., None]).astype(np.float32),
        "total_charge": total_charge.astype(np.float32),
        "dipole": dipole.astype(np.float32),
        "energy": np.zeros(len(numbers), np.float32),
    }
    return BucketArrays(BucketShape(FrameShape(atoms, 0), EdgeShape(0, 0)), [arrays])


def test_charges_of_dipoles_are_found() -> None:
    """Up to a constant, which total charges hide."""
    water, formic = [[8, 1, 1]] * 5, [[6, 8, 8, 1, 1]] * 5
    found = element_charges([molecules(water), molecules([*formic, [6, 8]], seed=1)])
    differences = found[[1, 6, 8]] - found[1]
    np.testing.assert_allclose(differences, np.array([TRUE[1], TRUE[6], TRUE[8]]) - TRUE[1], atol=1e-4)
    assert not found[[0, 2, 7, 9]].any()


def test_elements_that_dipoles_do_not_tell_apart_get_no_charges() -> None:
    """Nitrogen alone has no dipole, whatever its charge; what is fitted to noise stays within bounds."""
    assert not element_charges([molecules([[7, 7]] * 3)]).any()
    strange = molecules([[8, 1, 1]] * 4)
    strange.shards[0]["dipole"] *= 100.0
    assert np.abs(element_charges([strange])).max() == 1.0


def test_carbon_dioxide_is_positive_in_the_middle() -> None:
    """Of the carried sample: between the 0.7 e of charges fitted to its potential and twice that."""
    efd, _ = support.read_sample("co2", "train", slice(100))
    numbers, positions = efd["Z"][:, :3].astype(np.int32), efd["R"][:, :3].astype(np.float32)
    arrays = {
        "atomic_numbers": numbers,
        "positions": positions,
        "total_charge": np.zeros(100, np.float32),
        "dipole": (efd["Dxyz"] * DEBYE_IN_E_ANGSTROM).astype(np.float32),
        "energy": np.zeros(100, np.float32),
    }
    charges = element_charges([BucketArrays(BucketShape(FrameShape(3, 0), EdgeShape(0, 0)), [arrays])])
    on_carbon = 2.0 / 3.0 * (charges[6] - charges[8])
    assert 0.7 < on_carbon < 1.4

"""Charges fitted to dipoles: recovered from dipoles that such charges have, and part of every new run's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.elements import MASSES
from shared.units import DEBYE_IN_E_ANGSTROM
from tests import support
from train.data.dataset import BucketArrays, open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader
from train.model.physnet import conserve_charge
from train.run.initial_charges import element_charges

TRUE = {1: 0.15, 6: 0.3, 8: -0.55}


def molecules(numbers: list[list[int]], seed: int = 0) -> BucketArrays:
    """Random geometries, some of them ions, whose dipoles are those of the true charges about the centre of mass."""
    rng = np.random.default_rng(seed)
    atoms = max(map(len, numbers))
    padded = np.array([row + [0] * (atoms - len(row)) for row in numbers])
    positions = rng.normal(size=(*padded.shape, 3)) * (padded > 0)[..., None]
    total_charge = rng.integers(-1, 2, len(numbers)).astype(float)
    own = np.vectorize(lambda z: TRUE.get(z, 0.0))(padded)
    charges = np.asarray(conserve_charge(own, padded > 0, total_charge)[0], np.float64)
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
        "n_grid": np.zeros(len(numbers), np.int32),
    }
    return BucketArrays(BucketShape(FrameShape(atoms, 0), EdgeShape(0, 0)), [arrays])


def fitted(buckets: list[BucketArrays]) -> np.ndarray:
    return element_charges(Loader(buckets, 4, EspSelection()))


def test_charges_of_dipoles_are_found() -> None:
    """Up to a constant, which total charges hide."""
    water, formic = [[8, 1, 1]] * 5, [[6, 8, 8, 1, 1]] * 5
    found = fitted([molecules(water), molecules([*formic, [6, 8]], seed=1)])
    differences = found[[1, 6, 8]] - found[1]
    np.testing.assert_allclose(differences, np.array([TRUE[1], TRUE[6], TRUE[8]]) - TRUE[1], atol=1e-4)
    assert not found[[0, 2, 7, 9]].any()


def test_molecules_without_a_dipole_are_left_out() -> None:
    whole, lacking = molecules([[8, 1, 1]] * 5), molecules([[8, 1, 1]] * 9)
    lacking.shards[0]["dipole"][5:] = np.nan
    for name, array in whole.shards[0].items():
        lacking.shards[0][name][:5] = array
    none = molecules([[6, 8]] * 4)
    none.shards[0]["dipole"][:] = np.nan
    np.testing.assert_allclose(fitted([lacking, none]), fitted([whole]), atol=1e-12)
    assert not fitted([none]).any()


def test_charges_of_potentials_are_found_where_there_are_no_dipoles(small_cache: Path) -> None:
    """Real molecules, whose potential is replaced by that of the true charges, with a constant total charge."""
    buckets = open_cache(small_cache, 6.0, 10.0).load_split("train")
    true = np.zeros(119)
    true[[1, 6, 7, 8]] = 0.15, 0.3, -0.4, -0.55
    changed = []
    for bucket in buckets:
        arrays = {name: bucket.column(name).copy() for name in bucket.shards[0]}
        arrays["dipole"][:] = np.nan
        for i, n_grid in enumerate(arrays["n_grid"]):
            own = arrays["atomic_numbers"][i] > 0
            charges = true[arrays["atomic_numbers"][i][own]]
            charges += (arrays["total_charge"][i] - charges.sum()) / len(charges)
            difference = arrays["grid"][i, :n_grid, None] - arrays["positions"][i][own][None]
            arrays["esp"][i, :n_grid] = (0.529177 * charges / np.linalg.norm(difference, axis=-1)).sum(axis=1)
        arrays["n_grid"][::3] = 0
        changed.append(BucketArrays(bucket.shape, [arrays]))
    found = element_charges(Loader(changed, 4, EspSelection(1.0)))
    np.testing.assert_allclose(found[[1, 7, 8]] - found[6], true[[1, 7, 8]] - true[6], atol=1e-3)
    assert not found[[0, 2, 9]].any()


def test_elements_that_dipoles_do_not_tell_apart_get_no_charges() -> None:
    """Nitrogen alone has no dipole, whatever its charge; what is fitted to noise stays within bounds."""
    assert not fitted([molecules([[7, 7]] * 3)]).any()
    strange = molecules([[8, 1, 1]] * 4)
    strange.shards[0]["dipole"] *= 100.0
    assert np.abs(fitted([strange])).max() == 1.0


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
    charges = fitted([BucketArrays(BucketShape(FrameShape(3, 0), EdgeShape(0, 0)), [arrays])])
    on_carbon = 2.0 / 3.0 * (charges[6] - charges[8])
    assert 0.7 < on_carbon < 1.4

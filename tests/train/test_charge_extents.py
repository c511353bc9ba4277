"""Extremes of the distributed charges, by loops over all of them; depths against a sampled surface."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from shared.elements import VAN_DER_WAALS_RADII
from tests import support
from train.evaluation import charge_extents
from train.evaluation.charge_extents import ChargeExtents, depths, describe_charges
from train.model.prediction import Prediction


def test_depths_are_distances_to_the_surface() -> None:
    """Exact outside and for one atom; inside, no sampled point of the surface is nearer."""
    atoms = molecule("CH3CONH2")
    radii = VAN_DER_WAALS_RADII[atoms.numbers]
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(atoms), 4000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    spheres = atoms.positions[:, None] + radii[:, None, None] * directions
    away = np.linalg.norm(spheres[:, :, None] - atoms.positions, axis=-1)
    surface = spheres[(away > radii - 1e-9).all(axis=-1)]
    sites = rng.normal(size=(300, 3)) * 2.0
    found = depths(sites, atoms.positions, radii)
    nearest = np.linalg.norm(sites[:, None] - surface, axis=-1).min(axis=1)
    inside = (np.linalg.norm(sites[:, None] - atoms.positions, axis=-1) < radii).any(axis=1)
    assert 50 < inside.sum() < 250
    assert ((found > 0) == inside).all()
    np.testing.assert_allclose(-found[~inside], nearest[~inside], atol=0.15)  # the sampled surface has gaps
    assert (found[inside] <= nearest[inside]).all()
    assert depths(np.zeros((1, 3)), np.array([[0.5, 0.0, 0.0]]), np.array([1.7])) == pytest.approx(1.2)


@pytest.mark.parametrize("pairs", [1, 1 << 20], ids=["one molecule at a time", "together"])
def test_extremes_are_those_of_loops(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charge_extents, "_PAIRS_AT_ONCE", pairs)
    rng, found = np.random.default_rng(4), ChargeExtents()
    every: list[tuple[float, float, float, float, tuple[int, int]]] = []
    for first in (0, 4):
        kinds = [[8, 6, 8], [1, 9], [6, 1, 1, 1, 1], [8, 1, 1]]
        batch = support.random_batch(rng, kinds, extra_molecules=2, poison=np.nan)
        sites = batch.positions[:, :, None] + 0.6 * rng.normal(size=(*batch.positions.shape[:2], 2, 3))
        charges = rng.normal(size=sites.shape[:3])
        fields = {"dcm_charges": charges, "dcm_sites": np.nan_to_num(sites)}
        prediction = Prediction(**dict.fromkeys(Prediction._fields) | fields)  # type: ignore[arg-type]
        found.add(batch, prediction, np.arange(first, first + 4), ["", "b", "c", "d"])
        for i, numbers in enumerate(kinds):
            for a, k in np.ndindex(len(numbers), 2):
                away = [np.linalg.norm(sites[i, a, k] - batch.positions[i, b]) for b in range(len(numbers))]
                radii = [VAN_DER_WAALS_RADII[z] for z in numbers]
                depth = max(r - d for r, d in zip(radii, away, strict=True))
                every.append((abs(charges[i, a, k]), away[a], -depth, away[a] - radii[a], (first + i, a)))
    record = found.as_record()
    magnitudes, arms, shallow, beyond = (np.array([one[j] for one in every]) for j in range(4))
    assert record["charges"] == len(every) == 2 * 2 * 13
    assert record["mean_magnitude_e"] == pytest.approx(magnitudes.mean())
    assert record["mean_arm_angstrom"] == pytest.approx(arms.mean())
    assert record["largest_magnitude_e"] == pytest.approx(magnitudes.max())
    assert record["longest_arm_angstrom"] == pytest.approx(arms.max())
    assert record["least_depth_angstrom"] == pytest.approx(-shallow.max())
    for name, values in (
        ("largest", magnitudes),
        ("longest_arm", arms),
        ("least_deep", shallow),
        ("farthest_outside", beyond),
    ):
        assert (record[name]["row"], record[name]["atom"]) == every[int(values.argmax())][4]
    outside = [one[4][0] for one in every if one[3] > 0]
    assert 0 < len(outside) < len(every)
    assert (record["outside_their_atoms"], record["molecules_outside"]) == (len(outside), len(set(outside)))
    text = describe_charges({"distributed_charges": record})
    owner = record["farthest_outside"]
    assert f"warning: {len(outside)} of 52 distributed charges, in {len(set(outside))} molecules, left" in text
    assert f"atom {owner['atom']} of {owner['name'] or 'CO2'}, row {owner['row']}" in text.splitlines()[-1]


def test_charges_inside_their_atoms_are_no_finding() -> None:
    batch = support.random_batch(np.random.default_rng(0), [[8, 6, 8]])
    fields = {"dcm_charges": np.ones((1, 3, 2)), "dcm_sites": np.repeat(batch.positions[:, :, None], 2, axis=2)}
    found = ChargeExtents()
    found.add(batch, Prediction(**dict.fromkeys(Prediction._fields) | fields), np.zeros(1, int), ["x"])  # type: ignore[arg-type]
    record = found.as_record()
    assert (record["outside_their_atoms"], record["farthest_outside"]) == (0, None)
    assert record["mean_arm_angstrom"] == 0.0
    assert "warning" not in describe_charges({"distributed_charges": record})

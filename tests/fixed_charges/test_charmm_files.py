"""Files for CHARMM: charges that a reader of the format rebuilds are those of the model, in any geometry."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import UserError
from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import charges_of_dcm, local_of_kernel
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.charmm_files import charmm_dcm, charmm_kernel, charmm_rtf, kernel_departure

MODELS = {
    "H2O": hand_made.random_model("H2O", ((0, 1, 2), (0, 1, 2), (0,), (1, 0, 2), (2, 0), (2,))),
    "CO2": hand_made.carbon_dioxide(),
    "N2": hand_made.random_model("N2", ((0, 1), (1, 0), (1,))),
    "C3H8": hand_made.propane(),
}


def in_order_of_atoms(model: ChargeModel, geometry: np.ndarray) -> list[np.ndarray]:
    """Charges of each atom (n, 4) as x, y, z, q."""
    everything = np.hstack([model.sites(geometry), model.charges[:, None]])
    owners = np.array([frame[0] for frame in model.frames])
    return [everything[owners == atom] for atom in range(len(geometry))]


def geometries_of(model: ChargeModel, count: int) -> np.ndarray:
    """Bent ones, of linear molecules of more than two atoms, too: there only one axis is used."""
    return np.concatenate([model.positions[None], hand_made.bent(model, count)])


@pytest.mark.parametrize("name", MODELS)
def test_charges_come_back_in_any_geometry(name: str) -> None:
    model = MODELS[name]
    text = charmm_dcm(model, "RES")
    assert text.splitlines()[2].split()[0] == "RES"
    for geometry in geometries_of(model, 5):
        found = charges_of_dcm(text, geometry)
        for own, expected in zip(found, in_order_of_atoms(model, geometry), strict=True):
            np.testing.assert_allclose(own, expected, atol=1e-8)


@pytest.mark.parametrize("width", [1.0, 0.4])
@pytest.mark.parametrize("name", ["H2O", "CO2"])
def test_a_kernel_comes_back_at_its_geometries(name: str, width: float) -> None:
    model = hand_made.with_kernel(MODELS[name], width)
    at_reference = charges_of_dcm(charmm_dcm(model, "RES"), model.positions)
    for own, expected in zip(at_reference, in_order_of_atoms(model, model.positions), strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-8)
    texts = charmm_kernel(model)
    assert texts["charmm.kern"].split()[:4] == ["12", str(len(model.charges)), "3", "3"]
    # The model's own geometries, of which with_kernel kept the distances.
    rng = np.random.default_rng(1)
    geometries = model.positions + rng.normal(scale=0.05, size=(12, 3, 3))
    largest = 0.0
    for geometry in geometries:
        found = charges_of_dcm(charmm_dcm(model, "RES"), geometry, local_of_kernel(texts, geometry))
        for own, expected in zip(found, in_order_of_atoms(model, geometry), strict=True):
            np.testing.assert_allclose(own[:, 3], expected[:, 3], atol=1e-9)
            largest = max(largest, np.linalg.norm(own[:, :3] - expected[:, :3], axis=1).max(initial=0.0))
    assert kernel_departure(model) == pytest.approx(largest, rel=1e-3, abs=1e-9)
    assert largest < 2e-3
    shifts = np.linalg.norm(model.kernel.shifts(model.kernel.distances), axis=-1)
    assert np.ptp(shifts) > 20 * largest


def test_topology_has_the_atoms_and_no_charges() -> None:
    lines = charmm_rtf(MODELS["CO2"], "CO2").splitlines()
    atoms = [line.split() for line in lines if line.startswith("ATOM")]
    assert [(name, float(charge)) for _, name, _, charge in atoms] == [("C1", 0.0), ("O1", 0.0), ("O2", 0.0)]
    assert [line for line in lines if line.startswith("BOND")] == ["BOND C1 O1", "BOND C1 O2"]
    assert [line.split()[2:] for line in lines if line.startswith("MASS")] == [
        ["C1", "12.01100"],
        ["O1", "15.99900"],
        ["O2", "15.99900"],
    ]


def test_what_the_format_does_not_have_is_refused() -> None:
    model = hand_made.random_model("H2O", ((0, 1, 2), (0, 2, 1)))
    with pytest.raises(UserError, match=r"atom 0 are in the frames \[0, 1, 2\] and \[0, 2, 1\]"):
        charmm_dcm(model, "WAT")
    for function in (charmm_kernel, kernel_departure):
        with pytest.raises(UserError, match="has no kernel"):
            function(MODELS["H2O"])

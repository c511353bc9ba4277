"""Files for CHARMM: charges that a reader of the format rebuilds are those of the model, in any geometry."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import UserError
from tests.fixed_charges import hand_made
from tests.fixed_charges.readers import charges_of_dcm, local_of_kernel
from train.fixed_charges.charge_model import ChargeModel, pair_distances
from train.fixed_charges.charmm_files import (
    charmm_dcm,
    charmm_kernel,
    charmm_rtf,
    kernel_geometries,
    largest_departure,
)

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
        assert largest_difference(text, model, geometry) < 1e-8


def largest_difference(text: str, model: ChargeModel, geometry: np.ndarray, local: np.ndarray | None = None) -> float:
    """How far a rebuilt charge is from that of the model; the charges themselves agree."""
    found = charges_of_dcm(text, geometry, local)
    pairs = list(zip(found, in_order_of_atoms(model, geometry), strict=True))
    for own, expected in pairs:
        np.testing.assert_allclose(own[:, 3], expected[:, 3], atol=1e-9)
    return max(np.linalg.norm(own[:, :3] - expected[:, :3], axis=1).max(initial=0.0) for own, expected in pairs)


def test_charges_in_another_frame_of_their_atom_leave_it_by_as_much_as_is_said() -> None:
    """As of symmetric molecules, whose charges come in pairs of frames; not at the reference geometry."""
    model = hand_made.random_model("H2O", ((0, 1, 2), (0, 2, 1), (0,), (1, 0), (1, 0, 2), (2, 0, 1)))
    text = charmm_dcm(model, "RES")
    assert largest_difference(text, model, model.positions) < 1e-8
    geometries = hand_made.bent(model, 10)
    largest = max(largest_difference(text, model, geometry) for geometry in geometries)
    assert largest_departure(model, geometries) == pytest.approx(largest, abs=1e-8)
    assert 1e-3 < largest < 0.2


@pytest.mark.parametrize("width", [1.0, 0.4])
@pytest.mark.parametrize("name", ["H2O", "CO2", "C3H8", "two frames"])
def test_a_kernel_comes_back_at_its_geometries(name: str, width: float) -> None:
    two = hand_made.random_model("H2O", ((0, 1, 2), (0, 2, 1), (1, 0), (2, 0)))
    plain = two if name == "two frames" else MODELS[name]
    model = hand_made.with_kernel(plain, width)
    assert model.kernel
    text, texts = charmm_dcm(model, "RES"), charmm_kernel(model)
    assert largest_difference(text, model, model.positions) < 1e-8
    frames = len({frame[0] for frame in model.frames})
    assert texts["charmm.kern"].split()[:4] == ["12", str(len(model.charges)), str(frames), str(len(model.positions))]
    largest = 0.0
    # Those that with_kernel took; only their distances are known to the model.
    geometries = model.positions + np.random.default_rng(1).normal(scale=0.05, size=(12, *model.positions.shape))
    for geometry in geometries:
        largest = max(largest, largest_difference(text, model, geometry, local_of_kernel(texts, geometry)))
    assert largest_departure(model, geometries) == pytest.approx(largest, rel=1e-3, abs=1e-9)
    assert largest_departure(model, kernel_geometries(model)) == pytest.approx(largest, rel=1e-2, abs=1e-9)
    # Nearly exact there, and far nearer than without the kernel.
    shifts = np.linalg.norm(model.kernel.shifts(model.kernel.distances), axis=-1)
    assert largest < 2e-3
    assert np.ptp(shifts) > 20 * largest


def test_geometries_of_a_kernel_are_not_mirrored() -> None:
    model = hand_made.with_kernel(hand_made.random_model("H2O2", ((0, 1),)))
    assert model.kernel
    found = kernel_geometries(model)
    np.testing.assert_allclose(pair_distances(found), model.kernel.distances, atol=1e-9)
    geometries = model.positions + np.random.default_rng(1).normal(scale=0.05, size=found.shape)
    handed = [np.linalg.det(one[:, 1:] - one[:, :1]) for one in (found, geometries)]
    np.testing.assert_allclose(handed[0], handed[1], atol=1e-9)
    assert np.abs(handed[0]).min() > 0.1


def test_topology_has_the_atoms_and_no_charges() -> None:
    lines = charmm_rtf(MODELS["CO2"], "CO2").splitlines()
    atoms = [line.split() for line in lines if line.startswith("ATOM")]
    assert [(name, float(charge)) for _, name, _, charge in atoms] == [("C1", 0.0), ("O1", 0.0), ("O2", 0.0)]
    assert lines.index("AUTOGENERATE ANGLES DIHEDRALS") < lines.index("RESI CO2 0.00")
    assert [line for line in lines if line.startswith("BOND")] == ["BOND C1 O1", "BOND C1 O2"]
    assert [line.split()[2:] for line in lines if line.startswith("MASS")] == [
        ["C1", "12.01100"],
        ["O1", "15.99900"],
        ["O2", "15.99900"],
    ]


def test_without_a_kernel_there_are_no_files_of_it() -> None:
    for function in (charmm_kernel, kernel_geometries):
        with pytest.raises(UserError, match="has no kernel"):
            function(MODELS["H2O"])

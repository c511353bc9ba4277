"""Geometries at a temperature against kT/k, and what is read from a user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator

from shared.errors import UserError
from tests.fixed_charges.samples import (
    points_around,
)
from train.fixed_charges.charge_model import pair_distances
from train.fixed_charges.frames import read_geometries
from train.fixed_charges.geometries import thermal_geometries, thermal_trajectory
from train.fixed_charges.user_charges import read_charges


def test_thermal_geometries_have_the_spread_of_their_modes() -> None:
    """A diatomic molecule whose bond is the only mode: ⟨x²⟩ = kT/k, classical."""
    atoms = molecule("N2")
    stiffness = 20.0
    axis = (atoms.positions[1] - atoms.positions[0]) / np.linalg.norm(atoms.positions[1] - atoms.positions[0])
    block = stiffness * np.outer(axis, axis)
    hessian = np.block([[block, -block], [-block, block]])
    found = thermal_geometries(atoms, hessian, 4000, 300.0, "classical", 0)
    lengths = pair_distances(found)[:, 0]
    assert lengths.mean() == pytest.approx(pair_distances(atoms.positions)[0], abs=2e-3)
    assert lengths.var() == pytest.approx(8.617333e-5 * 300.0 / stiffness, rel=0.06)
    np.testing.assert_array_equal(found[:5], thermal_geometries(atoms, hessian, 4000, 300.0, "classical", 0)[:5])


class Spring(Calculator):
    """A harmonic bond between two atoms, 20 eV/Å²."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]
    length = 1.1

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        arm = atoms.positions[1] - atoms.positions[0]
        stretch = np.linalg.norm(arm) - self.length
        pull = 20.0 * stretch * arm / np.linalg.norm(arm)
        self.results = {"energy": 10.0 * stretch**2, "forces": np.array([pull, -pull])}


def test_a_trajectory_has_the_spread_of_its_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """⟨x²⟩ = kT/k, as of normal modes; which geometries come first is left to chance."""
    monkeypatch.setattr("train.fixed_charges.geometries._FRICTION_PER_FS", 0.1)
    monkeypatch.setattr("train.fixed_charges.geometries._FIRST_PS", 0.05)
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, Spring.length]], calculator=Spring())
    found = thermal_trajectory(atoms, 1.5, 300, 300.0, 0)
    lengths = pair_distances(found)[:, 0]
    assert lengths.mean() == pytest.approx(Spring.length, abs=0.01)
    assert lengths.var() == pytest.approx(8.617333e-5 * 300.0 / 20.0, rel=0.3)
    # The molecule has drifted, and the order is not that of time.
    places = found.mean(axis=1)
    assert np.abs(np.corrcoef(places[:-1, 0], places[1:, 0])[0, 1]) < 0.2
    assert np.linalg.norm(places, axis=1).max() > 0.1
    first, again = (thermal_trajectory(atoms, 0.02, 5, 300.0, 1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(UserError, match=r"--md-ps 0\.001: 2 steps of 0\.5 fs are fewer than --samples 3"):
        thermal_trajectory(atoms, 0.001, 3, 300.0, 0)
    with pytest.raises(UserError, match=r"--temperature 100000 the molecule falls apart"):
        thermal_trajectory(atoms, 0.1, 5, 1e5, 0)


MOL2 = """@<TRIPOS>MOLECULE
water
3 2
SMALL
USER_CHARGES
@<TRIPOS>ATOM
1 O 0.0 0.0 0.0 o 1 WAT -0.80
2 H1 0.0 0.0 1.0 h 1 WAT 0.40
3 H2 0.0 1.0 0.0 h 1 WAT 0.40
@<TRIPOS>BOND
1 1 2 1
"""


CHARMM = "RESI TIP3 0.0\nGROUP\nATOM OH2 OT -0.80 ! oxygen\nATOM H1 HT 0.40\nATOM H2 HT 0.40\nBOND OH2 H1\n"


@pytest.mark.parametrize("text", [MOL2, CHARMM, "atom,charge\nO,-0.8\nH,0.4\nH,0.4\n"])
def test_a_users_charges_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine").write_text(text)
    np.testing.assert_allclose(read_charges(str(tmp_path / "mine"), 3, 0.0), [-0.8, 0.4, 0.4])


@pytest.mark.parametrize(
    ("text", "atoms", "message"),
    [
        ("atom,value\nO,1\n", 1, "no charges found"),
        ("ATOM OH2 OT much\n", 1, "no charges found"),
        (MOL2, 4, "3 charges, but the molecule has 4 atoms"),
        ("atom,charge\nO,-0.8\nH,0.4\nH,0.9\n", 3, r"sum to 0\.5 e"),
        ("atom,charge\nO,nan\n", 1, "sum to nan"),
    ],
)
def test_a_file_that_has_no_such_charges(tmp_path: Path, text: str, atoms: int, message: str) -> None:
    (tmp_path / "mine").write_text(text)
    with pytest.raises(UserError, match=message) as told:
        read_charges(str(tmp_path / "mine"), atoms, 0.0)
    assert "\n" not in str(told.value)


def test_a_missing_file_of_charges(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--compare .*none: No such file"):
        read_charges(str(tmp_path / "none"), 3, 0.0)


def test_frames_and_their_esp_are_read_from_npz(tmp_path: Path) -> None:
    """Padding, points inside the atoms and points that fill rows are left out; the ESP is converted."""
    atoms = molecule("CO2")
    random = np.random.default_rng(0)
    geometries = atoms.positions + 0.02 * random.normal(size=(8, 3, 3))
    grid = np.full((8, 30, 3), 1e6)
    grid[:, :20] = points_around(geometries, 20)
    grid[:, 3] = geometries[:, 0] + 0.5  # inside the carbon atom
    esp = random.normal(size=(8, 30))
    padded = np.zeros((8, 5, 3))
    padded[:, :3] = geometries
    arrays = {"R": padded, "Z": np.tile([*atoms.numbers, 0, 0], (8, 1)), "N": np.full(8, 3)}
    counts = np.arange(19, 27)  # of the last ones, some fill the row
    np.savez(tmp_path / "esp.npz", **arrays, vdw_surface=grid, esp=esp, n_grid=counts)
    found = read_geometries(str(tmp_path / "esp.npz"), 6, 0)
    assert found.points is not None
    assert found.esp is not None
    assert found.geometries.shape == (6, 3, 3)
    np.testing.assert_array_equal(found.atoms.numbers, atoms.numbers)
    for geometry, points, values in zip(found.geometries, found.points, found.esp, strict=True):
        (row,) = np.flatnonzero(np.abs(geometries - geometry).max(axis=(1, 2)) < 1e-12)
        kept = [at for at in range(min(counts[row], 20)) if at != 3]
        np.testing.assert_array_equal(points, grid[row, kept])
        np.testing.assert_allclose(values, esp[row, kept] * 627.5095, rtol=1e-6)
    assert found.atoms.info["charge"] == 0.0
    np.savez(tmp_path / "ions.npz", **arrays, vdw_surface=grid, esp=esp, Q=np.full(8, -1.0))
    assert read_geometries(str(tmp_path / "ions.npz"), 6, 0).atoms.info["charge"] == -1.0
    np.savez(tmp_path / "two.npz", **arrays, vdw_surface=grid, esp=esp, Q=np.arange(8) // 5)
    with pytest.raises(UserError, match=r"two\.npz, frame 5: total charge 1 e, but that of frame 0 is 0 e"):
        read_geometries(str(tmp_path / "two.npz"), 6, 0)
    with pytest.raises(UserError, match=r"two\.npz@9: 0 frames"):
        read_geometries(str(tmp_path / "two.npz@9"), 6, 0)
    np.savez(tmp_path / "none.npz", vdw_surface=grid, esp=esp)
    with pytest.raises(UserError, match=r"none\.npz: no geometries"):
        read_geometries(str(tmp_path / "none.npz"), 6, 0)

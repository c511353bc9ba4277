"""Extended XYZ, ASE databases and cubes preprocessed as users type it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase.io.cube import write_cube

from preprocess import clean_cache
from shared.errors import UserError
from shared.manifest import CONVERTED
from shared.units import BOHR_IN_ANGSTROM, DEBYE_IN_E_ANGSTROM
from tests import support
from tests.input.shards import assert_same, read_clean, read_shards

ROWS = np.arange(0, 120, 6)


def frames(dipoles: bool = True) -> list[ase.Atoms]:
    """Some of the sample's molecules with labels under MACE's names."""
    efd, _ = support.read_sample("mixed", "train", ROWS)
    found = []
    for i, n in enumerate(efd["N"]):
        atoms = ase.Atoms(efd["Z"][i, :n], efd["R"][i, :n])
        atoms.info["REF_energy"] = float(efd["E"][i])
        atoms.arrays["REF_forces"] = efd["F"][i, :n].astype(np.float64)
        if dipoles:
            atoms.info["REF_dipole"] = efd["Dxyz"][i] * DEBYE_IN_E_ANGSTROM
        found.append(atoms)
    return found


def preprocess(tmp_path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Molecules of a new cache, divided by frame."""
    support.run_preprocess(settings, tmp_path / "cache", split_by="frame", checks="stop")
    return read_shards(tmp_path / "cache")


@pytest.mark.parametrize(("known", "other"), [("REF_energy", "Energy"), ("REF_forces", "force_ev_ang")])
def test_a_quantity_under_another_name_is_not_left_out(known: str, other: str, tmp_path: Path) -> None:
    """Which would be found after training, by its errors. One that is not there is not in the table either."""
    named = frames()
    for atoms in named:
        values = atoms.info if known in atoms.info else atoms.arrays
        values[other] = values.pop(known)
    ase.io.write(tmp_path / "all.xyz", named)
    quantity = known.removeprefix("REF_")
    with pytest.raises(UserError, match=f"holds {other}; give --{quantity}-key {other}"):
        preprocess(tmp_path, {"data": (str(tmp_path / "all.xyz"),)})
    assert len(preprocess(tmp_path, {"data": (str(tmp_path / "all.xyz"),), f"{quantity}_key": other})) == len(ROWS)


def test_frames_without_any_energy_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = frames()
    for atoms in bare:
        del atoms.info["REF_energy"]
        atoms.info["gap"] = 1.0
    ase.io.write(tmp_path / "all.xyz", bare)
    preprocess(tmp_path, {"data": (str(tmp_path / "all.xyz"),)})
    said = capsys.readouterr().out
    assert "warning: no frame has an energy" in said
    assert "left alone: gap" in said
    (row,) = [line.split() for line in said.splitlines() if line.strip().startswith("energy ")]
    assert row == ["energy", "-", "not", "in", "the", "file"]


def test_extended_xyz_with_grids_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same shards as the NPZ pair gives; the table names the file's own keys."""
    ase.io.write(tmp_path / "all.xyz", frames())
    _, esp = support.read_sample("mixed", "train", ROWS)
    np.savez(tmp_path / "grids.npz", **esp)
    settings = {"data": (str(tmp_path / "all.xyz"),), "grids": (str(tmp_path / "grids.npz"),)}
    found = preprocess(tmp_path, settings)
    assert len(found) == len(ROWS)
    assert_same(found, read_clean(*support.read_sample("mixed", "train", ROWS)))
    said = capsys.readouterr().out
    assert "frames in all.xyz, the ESP in grids.npz" in said
    assert "REF_energy" in said
    assert "ASE's convention" in said
    # Converted once.
    (made,) = (tmp_path / "cache" / CONVERTED).glob("*.npz")
    stamp = made.stat().st_mtime_ns
    preprocess(tmp_path, settings)
    assert "up to date" in capsys.readouterr().out
    assert made.stat().st_mtime_ns == stamp
    clean_cache.main(["--cache-dir", str(tmp_path / "cache"), "--runs-dir", str(tmp_path / "runs")])
    assert made.exists()


def test_frames_without_dipoles_and_files_of_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each split its own file, one of them without dipoles; no potentials at all."""
    ase.io.write(tmp_path / "train.xyz", [*frames()[:10], *frames(dipoles=False)[10:]])
    ase.io.write(tmp_path / "valid.xyz", frames()[::3])
    settings = {"train_efd": (str(tmp_path / "train.xyz"),), "valid_efd": (str(tmp_path / "valid.xyz"),)}
    support.run_preprocess(settings, tmp_path / "cache", checks="stop")
    found = read_shards(tmp_path / "cache")
    lacking = {m["row"] for m in found if m["split"] == "train" and np.isnan(m["dipole"]).all()}
    assert lacking == set(range(10, len(ROWS)))
    assert "10 of 20 frames have no dipole" in capsys.readouterr().out


def test_mistakes_name_the_users_file(tmp_path: Path) -> None:
    """And not its conversion in the cache."""
    atoms = frames()
    atoms[4].positions[0, 0] = np.nan
    ase.io.write(tmp_path / "all.xyz", atoms)
    with pytest.raises(UserError, match=r"all\.xyz"):
        preprocess(tmp_path, {"data": (str(tmp_path / "all.xyz"),)})


def test_cubes_of_the_potential(tmp_path: Path) -> None:
    """Point charges on the atoms, whose potential the shards have to hold at their points."""
    atoms = frames()
    charges = []
    for index, molecule in enumerate(atoms):
        own = np.cos(molecule.numbers + np.arange(len(molecule)))
        own -= own.mean()
        charges.append(own)
        box = molecule.copy()
        origin = box.positions.min(axis=0) - 4.0
        box.set_cell(np.diag(np.ptp(box.positions, axis=0) + 8.0))
        shape = (26, 26, 26)
        steps = [np.arange(n) / n * length for n, length in zip(shape, box.cell.lengths(), strict=True)]
        points = origin + np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
        away = np.linalg.norm(points[..., None, :] - box.positions, axis=-1)
        with (tmp_path / f"esp-{index}.cube").open("w", encoding="utf-8") as stream:
            write_cube(stream, box, (own / away * BOHR_IN_ANGSTROM).sum(axis=-1), origin=origin)
        # Dipoles of these charges, so that nothing contradicts.
        mass = molecule.get_masses()
        center = mass @ molecule.positions / mass.sum()
        molecule.info["REF_dipole"] = own @ (molecule.positions - center)
    ase.io.write(tmp_path / "all.xyz", atoms)
    settings = {"data": (str(tmp_path / "all.xyz"),), "cubes": (str(tmp_path / "esp-*.cube"),), "grid_points": 400}
    found = preprocess(tmp_path, settings)
    assert len(found) == len(ROWS)
    for molecule in found:
        assert 100 < len(molecule["esp"]) <= 400
        away = np.linalg.norm(molecule["grid"][:, None] - molecule["positions"], axis=-1)
        expected = (charges[molecule["row"]] / away * BOHR_IN_ANGSTROM).sum(axis=1)
        np.testing.assert_allclose(molecule["esp"], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ("absent.xyz",)}, "absent.xyz.*no such file"),
        ({"cubes": ("absent.cube",)}, "absent.cube.*no such file"),
        ({"train_efd": ("a.npz",), "cubes": ("b.cube",)}, "--cubes"),
    ],
)
def test_files_that_are_not_there(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(UserError, match=message):
        preprocess(tmp_path, settings)

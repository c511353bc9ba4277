"""Foreign files as NPZ files of the project's kind: what numpy reads back, and what preprocessing makes of them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.row import AtomsRow

from shared.digests import file_digest
from shared.errors import UserError
from shared.input.ase_frames import ASE_UNITS
from shared.input.canonical import CanonicalFile
from shared.input.foreign import Conversion, ForeignConfig, convert
from shared.input.labels import LabelledMolecule
from shared.schema import FRAME_ARRAYS
from tests import support
from tests.input.test_ase_frames import schnetpack_database
from tests.input.test_cubes import potential, water, write_potential
from train.data.dataset import open_cache

NAMES = ("H2O", "CH3CH2OH", "NH3", "H2O")


def frames() -> list[ase.Atoms]:
    """Four molecules; the second one without dipole, the third one a cation without forces."""
    rng = np.random.default_rng(0)
    result = []
    for seed, name in enumerate(NAMES):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=seed)
        values = {"energy": -100.0 - seed, "forces": rng.normal(size=(len(atoms), 3)), "dipole": rng.normal(size=3)}
        for lacking in {1: ["dipole"], 2: ["forces"]}.get(seed, []):
            del values[lacking]
        atoms.calc = SinglePointCalculator(atoms, **values)
        atoms.info |= {"name": ("wässrig", "ethanol", "NH3")[seed]} if seed < 3 else {}
        result.append(atoms)
    result[2].info["charge"] = 1
    return result


def load(conversion: Conversion) -> dict[str, np.ndarray]:
    with np.load(conversion.path, allow_pickle=False) as file:
        return dict(file)


def quiet(files: list[str], cubes: list[str], folder: Path, **changes: object) -> Conversion:
    return convert(files, cubes, replace(ForeignConfig(), **changes), folder, quiet=True)  # type: ignore[arg-type]


def test_arrays_are_those_of_the_frames(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    conversion = quiet([str(tmp_path / "a.xyz")], [], tmp_path / "cache")
    arrays = load(conversion)
    shapes = {
        "R": (4, 9, 3),
        "Z": (4, 9),
        "N": (4,),
        "E": (4,),
        "F": (4, 9, 3),
        "Dxyz": (4, 3),
        "Q": (4,),
        "name": (4,),
    }
    assert {key: arrays[key].shape for key in shapes} == shapes
    assert arrays["R"].dtype == np.float64
    assert arrays["Z"].dtype == np.int32
    assert json.loads(str(arrays["_mmml_units"])) == ASE_UNITS
    for row, atoms in enumerate(ase.io.read(tmp_path / "a.xyz", index=":")):
        n = len(atoms)
        assert arrays["N"][row] == n
        np.testing.assert_array_equal(arrays["Z"][row], [*atoms.numbers, *[0] * (9 - n)])
        np.testing.assert_array_equal(arrays["R"][row, :n], atoms.positions)
        assert not arrays["R"][row, n:].any()
        assert arrays["E"][row] == atoms.get_potential_energy()
        np.testing.assert_array_equal(arrays["F"][row, :n], atoms.get_forces() if row != 2 else np.full((n, 3), np.nan))
        assert not arrays["F"][row, n:].any()
        np.testing.assert_array_equal(arrays["Dxyz"][row], atoms.get_dipole_moment() if row != 1 else [np.nan] * 3)
    np.testing.assert_array_equal(arrays["Q"], [0, 0, 1, 0])
    assert [name.decode() for name in arrays["name"]] == ["wässrig", "ethanol", "NH3", ""]
    assert "esp" not in arrays
    assert (conversion.frames, conversion.frames_without_esp, conversion.cubes) == (4, 4, 0)
    (summary,) = conversion.sources.values()
    assert summary.lacking == {"energy": 0, "forces": 1, "dipole": 1}
    assert summary.keys == {"energy": "energy", "forces": "forces", "dipole": "dipole", "charge": "charge"}


def test_a_conversion_is_kept_for_the_same_content_and_settings(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    first = quiet([str(tmp_path / "a.xyz")], [], tmp_path / "cache")
    stamp = first.path.stat().st_mtime_ns
    (tmp_path / "b.xyz").write_bytes((tmp_path / "a.xyz").read_bytes())
    again = quiet([str(tmp_path / "b.xyz")], [], tmp_path / "cache")
    assert again.path == first.path
    assert again.path.stat().st_mtime_ns == stamp
    assert again.sources == {str(tmp_path / "b.xyz"): first.sources[str(tmp_path / "a.xyz")]}
    others = [
        quiet([f"{tmp_path / 'a.xyz'}@0:2"], [], tmp_path / "cache"),
        quiet([str(tmp_path / "a.xyz")], [], tmp_path / "cache", energy_key="energy"),
    ]
    assert len({first.path, *(other.path for other in others)}) == 3
    # What lies there is complete files alone, and the same content gives the same bytes.
    assert len(list((tmp_path / "cache").iterdir())) == 3
    elsewhere = quiet([str(tmp_path / "a.xyz")], [], tmp_path / "elsewhere")
    assert file_digest(elsewhere.path) == file_digest(first.path)


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "cut.xyz").write_text(text[: len(text) - 150])
    with pytest.raises(UserError, match="frame 3"):
        quiet([str(tmp_path / "cut.xyz")], [], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def cubes(folder: Path, seeds: range) -> list[ase.Atoms]:
    folder.mkdir()
    images = [water(seed) for seed in seeds]
    for seed, atoms in zip(seeds, images, strict=True):
        write_potential(folder / f"esp-{seed}.cube", atoms, step=0.4)
    return images


def test_cubes_alone(tmp_path: Path) -> None:
    images = cubes(tmp_path / "cubes", range(8, 11))
    conversion = quiet([], [str(tmp_path / "cubes")], tmp_path / "cache", grid_points=400)
    arrays = load(conversion)
    assert arrays["vdw_surface"].shape == (3, 400, 3)
    assert (conversion.frames, conversion.frames_without_esp, conversion.cubes) == (3, 0, 3)
    for row, atoms in enumerate(images):
        np.testing.assert_allclose(arrays["R"][row], atoms.positions, atol=1e-6)
        expected = potential(atoms, arrays["vdw_surface"][row])
        np.testing.assert_allclose(arrays["esp"][row], expected, rtol=1e-4, atol=2e-6)
    for key in ("E", "F", "Dxyz"):
        assert np.isnan(arrays[key]).all()
    np.testing.assert_array_equal(arrays["n_grid"], [400] * 3)
    assert conversion.notes == []
    # Other points of the same files.
    fewer = quiet([], [str(tmp_path / "cubes")], tmp_path / "cache", grid_points=300)
    assert fewer.path != conversion.path
    every = load(quiet([], [str(tmp_path / "cubes")], tmp_path / "cache", grid_points=10**5))
    assert len(set(every["n_grid"])) > 1
    assert every["esp"].shape[1] == every["n_grid"].max()
    for row in range(3):
        assert not every["esp"][row, every["n_grid"][row] :].any()


def labelled(images: list[ase.Atoms], path: Path) -> str:
    for place, atoms in enumerate(images):
        atoms.calc = SinglePointCalculator(atoms, energy=float(place), forces=np.full((len(atoms), 3), float(place)))
    ase.io.write(path, images)
    return str(path)


def test_cubes_find_their_frames_wherever_and_in_whatever_order(tmp_path: Path) -> None:
    """Frames in another order than the cubes, in another place, one more of them, and another molecule between."""
    images = cubes(tmp_path / "cubes", range(3))
    rows = [water(7), images[2], molecule("NH3"), images[0], images[1]]
    shifts = np.array([[0.0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0], [-5, 0, 0]])
    for atoms, shift in zip(rows, shifts, strict=True):
        atoms.positions += shift
    data = labelled(rows, tmp_path / "a.xyz")
    conversion = quiet([data], [str(tmp_path / "cubes")], tmp_path / "cache", grid_points=200)
    arrays = load(conversion)
    np.testing.assert_array_equal(arrays["n_grid"], [0, 200, 0, 200, 200])
    np.testing.assert_array_equal(arrays["E"], np.arange(5.0))
    assert (conversion.frames, conversion.frames_without_esp) == (5, 2)
    for row in (1, 3, 4):
        expected = potential(rows[row], arrays["vdw_surface"][row])
        np.testing.assert_allclose(arrays["esp"][row], expected, rtol=1e-4, atol=2e-6)
    assert conversion.notes == ["2 of 3 cubes are up to 5 Å from their frames, and were moved there"]


def test_cubes_of_no_frame_are_refused(tmp_path: Path) -> None:
    images = cubes(tmp_path / "cubes", range(2))
    turned = images[1].copy()
    turned.rotate(40, "z")
    one = str(tmp_path / "cubes" / "esp-1.cube")
    (tmp_path / "copy.cube").write_bytes((tmp_path / "cubes" / "esp-0.cube").read_bytes())
    for rows, files, message in (
        ([images[0], turned], [one], r"esp-1\.cube: .*frame 1 is the same but turned"),
        ([images[0]], [one], r"esp-1\.cube: no frame has its geometry within .*frame 0, is 0\.\d+ Å off"),
        ([molecule("NH3")], [one], r"no frame has its 3 atoms in this order"),
        ([images[1][[1, 0, 2]]], [one], r"no frame has its 3 atoms in this order"),
        (images, [str(tmp_path / "cubes"), str(tmp_path / "copy.cube")], r"has the geometry of .*(esp-0|copy)\.cube"),
    ):
        data = labelled([atoms.copy() for atoms in rows], tmp_path / "a.xyz")
        with pytest.raises(UserError, match=message):
            quiet([data], files, tmp_path / "cache")
    # A frame that is there twice has two cubes.
    twice = labelled([images[0], images[0].copy()], tmp_path / "a.xyz")
    both = quiet([twice], [str(tmp_path / "cubes" / "esp-0.cube"), str(tmp_path / "copy.cube")], tmp_path / "cache")
    assert both.frames_without_esp == 0


def test_energies_of_an_npz_and_grids_of_cubes(tmp_path: Path) -> None:
    images = cubes(tmp_path / "cubes", range(2))
    arrays = {
        "R": np.stack([atoms.positions for atoms in images]),
        "Z": np.array([[8, 1, 1]] * 2),
        "N": np.array([3, 3]),
    }
    np.savez(tmp_path / "efd.npz", **arrays, E=np.array([1.0, 2.0]), F=np.ones((2, 3, 3)), Dxyz=np.ones((2, 3)))
    conversion = quiet([str(tmp_path / "efd.npz")], [str(tmp_path / "cubes")], tmp_path / "cache", grid_points=50)
    result = load(conversion)
    np.testing.assert_array_equal(result["E"], [1.0, 2.0])
    assert json.loads(str(result["_mmml_units"])) == {**ASE_UNITS, "F": "ev/angstrom", "Dxyz": "debye"}
    ase.io.write(tmp_path / "a.xyz", frames())
    with pytest.raises(UserError, match=r"a\.xyz: Dxyz is in e_angstrom, but that of .*efd\.npz in debye"):
        quiet([str(tmp_path / "efd.npz"), str(tmp_path / "a.xyz")], [], tmp_path / "cache")


def test_a_databases_units_are_recorded_and_its_lengths_are_in_angstrom(tmp_path: Path) -> None:
    schnetpack_database(tmp_path / "a.db", {"energy": "kcal/mol", "forces": "kcal/mol/Ang"}, "Bohr")
    result = load(quiet([str(tmp_path / "a.db")], [], tmp_path / "cache"))
    units = json.loads(str(result["_mmml_units"]))
    assert units == {**ASE_UNITS, "E": "kcal/mol", "F": "kcal/mol/Ang"}
    assert result["E"][0] == -1.0
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=0)
    np.testing.assert_allclose(result["R"][0, :3], atoms.positions * 0.5291772, rtol=1e-6)


def test_a_box_too_small_for_the_shell_is_said(tmp_path: Path) -> None:
    write_potential(tmp_path / "small.cube", water(), margin=2.5)
    conversion = quiet([], [str(tmp_path / "small.cube")], tmp_path / "cache")
    assert len(conversion.notes) == 1
    assert "1 of 1 cubes end inside of --grid-shell" in conversion.notes[0]


def test_the_shell_is_checked(tmp_path: Path) -> None:
    for shell in ((2.0, 1.4), (-1.0, 2.0), (1.4, np.inf)):
        with pytest.raises(UserError, match="--grid-shell"):
            quiet([], [], tmp_path, grid_shell=shell)


@pytest.mark.parametrize("name", ["a.xyz", "a.db"])
def test_no_more_than_a_few_frames_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("shared.input.ase_files._ROWS_AT_ONCE", 5)
    ase.io.write(tmp_path / name, [molecule("H2O") for _ in range(60)])
    alive = []
    add = CanonicalFile.add

    def count(file: CanonicalFile, own: LabelledMolecule) -> None:
        add(file, own)
        if len(file) == 50:
            gc.collect()
            kinds = (ase.Atoms, AtomsRow, LabelledMolecule)
            alive.append(sum(isinstance(held, kinds) for held in gc.get_objects()))

    before = sum(isinstance(held, ase.Atoms) for held in gc.get_objects())
    monkeypatch.setattr(CanonicalFile, "add", count)
    assert quiet([str(tmp_path / name)], [], tmp_path / "cache").frames == 60
    assert alive[0] - before < 20


def test_preprocessing_reads_it_like_the_users_own_file(tmp_path: Path) -> None:
    """The carried sample written as extended XYZ for MACE, converted and preprocessed, gives the sample's shards."""
    shards = []
    for kind in ("own", "foreign"):
        settings: dict[str, object] = {}
        for split in ("train", "valid"):
            efd, esp = support.read_sample("mixed", split, slice(0, 12))
            paths = support.write_pair(tmp_path / kind, split, efd, esp)
            efd_path = paths[0]
            if kind == "foreign":
                ase.io.write(tmp_path / f"{split}.xyz", list(as_frames(efd)))
                efd_path = quiet([str(tmp_path / f"{split}.xyz")], [], tmp_path / "cache").path
                settings["dipole_unit"] = "e-angstrom"
            settings |= {f"{split}_efd": (str(efd_path),), f"{split}_esp": (str(paths[1]),)}
        support.run_preprocess(settings, tmp_path / kind / "shards", max_buckets=1)
        (bucket,) = open_cache(tmp_path / kind / "shards", 6.0, 10.0).load_split("train")
        shards.append({name: bucket.column(name) for name in (*FRAME_ARRAYS, "name")})
    for name, own in shards[0].items():
        if own.dtype.kind == "f":
            # Extended XYZ holds eight decimals.
            np.testing.assert_allclose(shards[1][name], own, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(shards[1][name], own, err_msg=name)


def as_frames(efd: dict[str, np.ndarray]) -> Iterator[ase.Atoms]:
    for row, n in enumerate(np.ravel(efd["N"])):
        atoms = ase.Atoms(efd["Z"][row, :n], efd["R"][row, :n])
        atoms.arrays["REF_forces"] = efd["F"][row, :n].astype(float)
        atoms.info |= {"REF_energy": float(np.ravel(efd["E"])[row]), "name": str(efd["name"][row])}
        atoms.info["REF_dipole"] = efd["Dxyz"][row] * 0.20819434
        yield atoms

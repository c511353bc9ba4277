"""Labelled molecules of files that ASE reads, against the arrays that they were written from and ASE's own reading."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from shared.errors import UserError
from shared.input.ase_frames import ASE_UNITS, AseSource
from shared.input.labelled import open_source, read_labelled
from shared.input.labels import FrameKeys, LabelledMolecule, looks_like

NAMES = ("H2O", "CH3CH2OH", "NH3", "CO2")
HARTREE, BOHR, DEBYE = 27.211386, 0.5291772, 0.20819434  # eV, Å, e·Å (CODATA, to eight digits)


def frames(labels: bool = True) -> list[ase.Atoms]:
    """Four molecules with energy, forces, dipole from a calculator, as a program's output leaves them."""
    rng = np.random.default_rng(0)
    result = []
    for seed, name in enumerate(NAMES):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=seed)
        if labels:
            values = {"energy": -100.0 - seed, "forces": rng.normal(size=(len(atoms), 3)), "dipole": rng.normal(size=3)}
            atoms.calc = SinglePointCalculator(atoms, **values)
        result.append(atoms)
    return result


def read(path: Path | str, **keys: str) -> tuple[list[LabelledMolecule], AseSource]:
    source = AseSource(str(path), FrameKeys(**keys))
    return list(source), source


def refused(path: Path | str, **keys: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, images: list[ase.Atoms], **changes: Any) -> Path:
    ase.io.write(path, images, **changes)
    return path


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "a.db", "a.json", "a.traj"])
def test_labels_are_those_that_ase_reads(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, frames())
    found, source = read(path)
    assert [molecule.where for molecule in found] == [f"{path}, frame {i}" for i in range(4)]
    for own, atoms in zip(found, ase.io.read(path, index=":"), strict=True):
        np.testing.assert_array_equal(own.numbers, atoms.numbers)
        np.testing.assert_array_equal(own.positions, atoms.positions)
        assert own.energy == atoms.get_potential_energy()
        assert own.forces is not None
        np.testing.assert_array_equal(own.forces, atoms.get_forces())
        assert own.dipole is not None
        np.testing.assert_array_equal(own.dipole, atoms.get_dipole_moment())
        assert own.charge == 0.0
    assert source.summary.keys == {"energy": "energy", "forces": "forces", "dipole": "dipole"}
    assert source.summary.lacking == {"energy": 0, "forces": 0, "dipole": 0}
    assert source.summary.units == ASE_UNITS


def test_a_reference_wins_over_what_another_method_left(tmp_path: Path) -> None:
    """As MACE wants its files, written after a dynamics with a cheap potential."""
    images = frames()
    for atoms in images:
        atoms.info |= {"REF_energy": -7.0, "REF_dipole": np.array([1.0, 2.0, 3.0]), "total_charge": -1, "spin": 2}
        atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 0.5)
    found, source = read(write(tmp_path / "a.xyz", images))
    assert source.summary.keys == {
        "energy": "REF_energy",
        "forces": "REF_forces",
        "dipole": "REF_dipole",
        "charge": "total_charge",
    }
    assert source.summary.also["energy"] == ["energy"]
    for own in found:
        assert (own.energy, own.charge) == (-7.0, -1.0)
        np.testing.assert_array_equal(own.forces, 0.5 * np.ones((len(own.numbers), 3)))
        np.testing.assert_array_equal(own.dipole, [1.0, 2.0, 3.0])
        assert own.info == {"spin": 2}
    found, source = read(tmp_path / "a.xyz", energy="energy", charge="spin")
    assert [own.energy for own in found] == [-100.0, -101.0, -102.0, -103.0]
    assert {own.charge for own in found} == {2.0}


@pytest.mark.parametrize(
    ("energy", "forces"), [("dft_energy", "dft_forces"), ("total_energy", "forces"), ("E", "force"), ("pbe", "grad")]
)
def test_other_names(tmp_path: Path, energy: str, forces: str) -> None:
    images = frames(labels=False)
    for place, atoms in enumerate(images):
        atoms.info[energy] = -3.5 - place
        atoms.arrays[forces] = np.full((len(atoms), 3), 0.25)
    path = write(tmp_path / "a.xyz", images)
    keys = {"energy": "pbe", "forces": "grad"} if energy == "pbe" else {}
    found, source = read(path, **keys)
    assert source.summary.keys == {"energy": energy, "forces": forces}
    assert [own.energy for own in found] == [-3.5, -4.5, -5.5, -6.5]
    assert all((own.forces == 0.25).all() for own in found)


def test_frames_may_lack_a_quantity(tmp_path: Path) -> None:
    images = frames()
    images[1].calc = None
    images[2].calc = SinglePointCalculator(images[2], energy=np.nan, forces=np.full((4, 3), np.nan))
    found, source = read(write(tmp_path / "a.xyz", images))
    assert source.summary.lacking == {"energy": 2, "forces": 2, "dipole": 2}
    assert [bool(np.isnan(own.energy)) for own in found] == [False, True, True, False]
    assert [own.forces is None for own in found] == [False, True, True, False]
    assert [own.dipole is None for own in found] == [False, True, True, False]


def test_frames_of_two_methods_are_not_mixed(tmp_path: Path) -> None:
    images = frames()
    images[2].info["REF_energy"] = -1.0
    path = write(tmp_path / "a.xyz", images)
    message = refused(path)
    assert message.startswith(f"{path}, frame 2: holds 'REF_energy'")
    assert "--energy-key" in message
    found, source = read(path, energy="REF_energy")
    assert source.summary.lacking["energy"] == 3
    assert found[2].energy == -1.0
    # The other way about: the reference is missing where the other method's energy is.
    for place in (0, 1, 3):
        images[place].info["REF_energy"] = -1.0
    del images[2].info["REF_energy"]
    assert "frame 2: holds 'energy'" in refused(write(tmp_path / "b.xyz", images))


def test_a_name_that_is_nowhere_lists_what_there_is(tmp_path: Path) -> None:
    images = frames()
    images[0].info["pbe0_energy"] = 1.0
    message = refused(write(tmp_path / "a.xyz", images), energy="pbe_energy")
    assert "--energy-key pbe_energy" in message
    assert "dipole, energy, forces, pbe0_energy" in message


def test_forces_of_constrained_atoms_are_whole(tmp_path: Path) -> None:
    images = frames()
    expected = images[0].get_forces()
    for atoms in images:
        atoms.set_constraint(FixAtoms([0]))
    for name in ("a.xyz", "a.db"):
        path = write(tmp_path / name, images)
        assert ase.io.read(path, index=0).get_forces()[0].tolist() == [0.0, 0.0, 0.0]
        (own, *_), _ = read(path)
        np.testing.assert_allclose(own.forces, expected, atol=1e-8)


def test_values_of_a_shape_that_does_not_fit_are_left_alone_and_said(tmp_path: Path) -> None:
    images = frames(labels=False)
    for atoms in images:
        atoms.info |= {"mu": 1.85, "Q": np.arange(9.0), "E": np.ones(3)}
    path = write(tmp_path / "a.xyz", images)
    found, source = read(path)
    assert all(own.dipole is None and np.isnan(own.energy) and own.charge == 0.0 for own in found)
    assert any(note.startswith("'mu' left alone") and "length" in note for note in source.summary.notes)
    assert len(source.summary.notes) == 3
    assert "--dipole-key mu" in refused(path, dipole="mu")


def test_charges(tmp_path: Path) -> None:
    images = frames(labels=False)
    images[1].info["charge"] = 1
    found, _ = read(write(tmp_path / "a.xyz", images))
    assert [own.charge for own in found] == [0.0, 1.0, 0.0, 0.0]
    images = frames(labels=False)
    images[2].set_initial_charges([0.25, 0.25, 0.25, 0.25])
    for name in ("b.xyz", "b.db"):
        found, source = read(write(tmp_path / name, images))
        assert [own.charge for own in found] == [0.0, 0.0, 1.0, 0.0]
        assert source.summary.keys["charge"] == "initial charges"


def test_periodic_frames_are_one_molecule_each_and_said(tmp_path: Path) -> None:
    images = frames()
    images[0].set_cell([20.0, 20.0, 20.0])
    images[0].pbc = True
    _, source = read(write(tmp_path / "a.xyz", images))
    assert source.summary.notes == ["1 of 4 frames are periodic; each is taken for one molecule by itself"]


def test_a_molecule_cut_by_its_cell_is_refused(tmp_path: Path) -> None:
    """Its atoms are where a simulation wraps them; molecules that are whole may stick out of the cell."""
    images = frames()
    for image in images:
        image.set_cell([12.0, 12.0, 12.0])
        image.pbc = True
        image.positions += 0.1 - image.positions[0]
    read(write(tmp_path / "whole.xyz", images))
    for image in images:
        image.wrap()
    message = refused(write(tmp_path / "cut.xyz", images))
    assert "frame 0: atoms 0 (O) and" in message
    assert "unwrap the molecules" in message


@pytest.mark.parametrize(
    ("quantity", "name", "alike"),
    [
        ("energy", "Energy", True),
        ("energy", "energy_ev", True),
        ("energy", "totEnergy", True),
        ("energy", "E_DFT", True),
        ("energy", "homo_energy", False),
        ("energy", "zero_point_energy", False),
        ("energy", "element", False),
        ("forces", "Forces", True),
        ("forces", "force_constant", False),
        ("dipole", "Dipole", True),
        ("dipole", "polarizability", False),
    ],
)
def test_names_that_say_a_quantity_in_other_words(quantity: Any, name: str, alike: bool) -> None:
    assert looks_like(quantity, name) == alike


def test_frames_by_index_unless_a_file_has_that_very_name(tmp_path: Path) -> None:
    images = frames()
    for name in ("a.xyz", "a.db", "a.json", "a.traj"):
        write(tmp_path / name, images)
        for index, expected in (("1:3", [1, 2]), ("2", [2]), ("::2", [0, 2]), ("1:", [1, 2, 3])):
            if name == "a.traj" and index == "::2":
                continue
            found, _ = read(f"{tmp_path / name}@{index}")
            assert [own.energy for own in found] == [-100.0 - i for i in expected], (name, index)
            assert [own.where for own in found] == [f"{tmp_path / name}, frame {i}" for i in expected]
    found, _ = read(f"{tmp_path / 'a.xyz'}@-1")
    assert [own.energy for own in found] == [-103.0]
    write(tmp_path / "b@1.xyz", images)
    assert len(read(tmp_path / "b@1.xyz")[0]) == 4
    write(tmp_path / "frames", images, format="extxyz")
    assert len(read(f"{tmp_path / 'frames'}@0")[0]) == 1
    write(tmp_path / "frames@0", images[:3], format="extxyz")
    assert len(read(f"{tmp_path / 'frames'}@0")[0]) == 3
    assert refused(f"{tmp_path / 'a.xyz'}@wrong").endswith("a.xyz@wrong: no such file")
    assert refused(f"{tmp_path / 'a.xyz'}@7:").endswith("a.xyz, which are counted from 0")


def schnetpack_database(path: Path, units: dict[str, str], length: str) -> None:
    """As schnetpack writes them: everything in ``data``, the units in the database's metadata."""
    with ase.db.connect(path) as database:
        database.metadata = {"_property_unit_dict": units, "_distance_unit": length, "atomrefs": {}}
        for place, atoms in enumerate(frames(labels=False)):
            n = len(atoms)
            values = {"energy": np.array([-1.0 - place]), "forces": np.ones((n, 3)), "dipole_moment": np.ones(3)}
            database.write(atoms, data=values, key_value_pairs={"name": NAMES[place]})


def test_schnetpacks_databases_and_their_units(tmp_path: Path) -> None:
    units = {"energy": "Hartree", "forces": "Ha/Bohr", "dipole_moment": "Debye", "other": "a0^3"}
    schnetpack_database(tmp_path / "a.db", units, "Ang")
    found, source = read(tmp_path / "a.db")
    assert source.summary.keys == {"energy": "energy", "forces": "forces", "dipole": "dipole_moment"}
    assert [own.name for own in found] == list(NAMES)
    assert source.summary.units == {**ASE_UNITS, "E": "Hartree", "F": "Ha/Bohr", "Dxyz": "Debye", "R": "Ang"}
    assert source.summary.units_from == "the database's metadata"
    (converted,) = read_labelled([open_source(str(tmp_path / "a.db"), FrameKeys())], {}, 10)
    for place, own in enumerate(converted):
        assert own.energy == pytest.approx((-1.0 - place) * HARTREE, rel=1e-7)
        assert own.forces is not None
        assert own.dipole is not None
        np.testing.assert_allclose(own.forces, HARTREE / BOHR, rtol=1e-7)
        np.testing.assert_allclose(own.dipole, DEBYE, rtol=1e-7)
    (flagged,) = read_labelled([open_source(str(tmp_path / "a.db"), FrameKeys())], {"energy": "kcal/mol"}, 10)
    assert flagged[0].energy == pytest.approx(-0.04336410, rel=1e-6)
    schnetpack_database(tmp_path / "b.db", {**units, "energy": "furlong"}, "Bohr")
    with pytest.raises(
        UserError,
        match=r"b\.db: E \(the database's metadata\): 'furlong' is no unit of energies .*; known are ev, hartree",
    ):
        list(read_labelled([open_source(str(tmp_path / "b.db"), FrameKeys())], {}, 10))
    (flagged,) = read_labelled([open_source(str(tmp_path / "b.db"), FrameKeys())], {"energy": "ev"}, 10)
    np.testing.assert_allclose(flagged[0].positions, frames()[0].positions * BOHR, rtol=1e-7)


def test_many_rows_of_a_database_come_in_order(tmp_path: Path) -> None:
    """More than are fetched at once, with a gap where rows were deleted."""
    atoms = molecule("H2O")
    with ase.db.connect(tmp_path / "a.db") as database:
        for place in range(600):
            database.write(atoms, data={"energy": float(place)})
        database.delete(list(range(100, 300)))
    found, _ = read(tmp_path / "a.db")
    assert [own.energy for own in found] == [*range(99), *range(299, 600)]


def test_sdf_with_several_molecules_and_their_formal_charges(tmp_path: Path) -> None:
    texts = []
    for name in ("H2O", "NH3"):
        ase.io.write(tmp_path / "one.sdf", molecule(name), title=name)
        texts.append((tmp_path / "one.sdf").read_text())
    texts[1] = texts[1].replace("M  END", "M  CHG  2   1   2   2  -1\nM  END")
    (tmp_path / "two.sdf").write_text("".join(texts))
    found, _ = read(tmp_path / "two.sdf")
    assert [own.name for own in found] == ["H2O", "NH3"]
    assert [own.charge for own in found] == [0.0, 1.0]
    for own, name in zip(found, ("H2O", "NH3"), strict=True):
        np.testing.assert_array_equal(own.numbers, molecule(name).numbers)
        np.testing.assert_allclose(own.positions, molecule(name).positions, atol=1e-4)


def test_files_that_are_not_what_they_seem_are_one_line(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.xyz").endswith("none.xyz: no such file")
    assert "is a directory" in refused(tmp_path)
    (tmp_path / "empty.xyz").touch()
    assert refused(tmp_path / "empty.xyz").endswith("an empty file)")
    (tmp_path / "notes.txt").write_text("To do\n")
    assert "not a format that ASE knows" in refused(tmp_path / "notes.txt")
    text = write(tmp_path / "a.xyz", frames()).read_text()
    (tmp_path / "cut.xyz").write_text(text[: len(text) - 200])
    assert "cut.xyz, frame 3: ASE cannot read it" in refused(tmp_path / "cut.xyz")
    lines = text.splitlines(keepends=True)
    (tmp_path / "gap.xyz").write_text("".join([*lines[:5], "\n", *lines[5:]]))
    assert "gap.xyz, frame 1: " in refused(tmp_path / "gap.xyz")
    assert "blank line" in refused(tmp_path / "gap.xyz")
    (tmp_path / "end.xyz").write_text(text + "\n\n")
    assert len(read(tmp_path / "end.xyz")[0]) == 4
    (tmp_path / "word.xyz").write_text('1\nProperties=species:S:1:pos:R:3 charge="none"\nH 0 0 0\n')
    assert "word.xyz, frame 0: charge = 'none' is not one number" in refused(tmp_path / "word.xyz")
    (tmp_path / "nan.xyz").write_text("1\n\nH 0 0 nan\n")
    assert "frame 0: the position of atom 0 is not finite" in refused(tmp_path / "nan.xyz")
    (tmp_path / "dummy.xyz").write_text("2\n\nH 0 0 0\nX 0 0 1\n")
    assert "atom 1 has no element" in refused(tmp_path / "dummy.xyz")
    (tmp_path / "charge.xyz").write_text("1\nProperties=species:S:1:pos:R:3 charge=nan\nH 0 0 0\n")
    assert "is not finite" in refused(tmp_path / "charge.xyz")


def test_nothing_is_unpickled_or_written_into(tmp_path: Path) -> None:
    (tmp_path / "old.traj").write_bytes(b"PickleTrajectory cos\nsystem\n(S'false'\ntR.")
    assert "pickle" in refused(tmp_path / "old.traj")
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection, connection:
        connection.execute("CREATE TABLE mine (a INTEGER)")
    before = (tmp_path / "other.db").read_bytes()
    assert "not one of ASE's" in refused(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before

"""Molecules of SMILES files: charge, spin, name and geometry; each mistake in one line; computed beside others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocess import reference_data
from preprocess.reference.molecules import Molecule, collect
from preprocess.reference.single_point import compute
from shared.errors import UserError
from shared.schema import SPLITS
from tests.preprocess.small_molecules import FITTED, named

pytestmark = pytest.mark.usefixtures("one_thread")


def from_smiles(folder: Path, content: str, seed: int = 0) -> list[Molecule]:
    """The molecules of a file."""
    path = folder / "some.smi"
    path.write_text(content, encoding="utf-8")
    return collect([], [], [str(path)], seed)


def test_smiles_have_charge_spin_and_name(tmp_path: Path) -> None:
    """As written in the file; comments and blank lines are no molecules."""
    content = "# mine\n\nOCC an alcohol\n[NH4+]\tammonium\n  [CH3]\n[O][O]\n[2H]O\n[Li+]\n[H][H]\n"
    molecules = from_smiles(tmp_path, content)
    assert [molecule.name for molecule in molecules] == [
        *("an alcohol", "ammonium", "[CH3]", "[O][O]", "[2H]O", "[Li+]", "[H][H]")
    ]
    assert [molecule.charge for molecule in molecules] == [0, 1, 0, 0, 0, 1, 0]
    assert [molecule.multiplicity for molecule in molecules] == [1, 1, 2, 3, 1, 1, 1]
    assert [len(molecule) for molecule in molecules] == [9, 5, 4, 2, 3, 1, 2]
    assert sorted(molecules[4].masses) == pytest.approx([1.008, 2.014, 15.999], abs=1e-3)
    assert molecules[0].own_masses is None


@pytest.mark.parametrize(
    ("smiles", "name", "within"), [("OC", "CH3OH", 0.06), ("C1CC1", "C3H6_D3h", 0.06), ("ClB(Cl)Cl", "BCl3", 0.2)]
)
def test_geometries_of_smiles_are_near_the_known_ones(tmp_path: Path, smiles: str, name: str, within: float) -> None:
    """Distances of the collection's, by MMFF94 and, of boron, by UFF; the same for the same seed."""
    molecule, known = from_smiles(tmp_path, smiles)[0], named(name)
    sorted_distances = [
        np.sort(np.linalg.norm(m.positions[:, None] - m.positions, axis=-1), axis=None) for m in (molecule, known)
    ]
    np.testing.assert_allclose(*sorted_distances, atol=within)
    assert from_smiles(tmp_path, smiles)[0].digest == molecule.digest
    assert from_smiles(tmp_path, smiles, seed=2**31)[0].digest != molecule.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n", "holds no SMILES"),
        ("C\nC1CC name\n", r"line 2: C1CC is no SMILES that RDKit can read; correct the line, or remove it$"),
        ("C(C)(C)(C)(C)C\nQ\nN\n", r"line 1: C\(C\)\(C\)\(C\)\(C\)C is no molecule: .*valence.* \(and 1 more lines\)"),
        ("CO\nC\nOC\n", "line 3: OC is the same molecule as .*some.smi, line 1"),
        ("C*\n", r"line 1: C\*: "),
        ("[H+]\n", r"line 1: \[H\+\]: 0 electron\(s\) cannot have multiplicity 1; write charges"),
        ("C\nc1ccccc1.[Cl-]\n", r"line 2: c1ccccc1.\[Cl-\] is of several parts"),
        ("C1#CC1\n", "line 1: C1#CC1: RDKit finds no geometry"),
        ("S(F)(F)(F)(F)(F)F\n", "neither MMFF94 nor UFF has parameters"),
    ],
)
def test_mistakes_in_smiles_are_one_line(
    content: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the file, the line and the SMILES, and without RDKit's own words."""
    with pytest.raises(UserError, match=message) as caught:
        from_smiles(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "some.smi"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_smiles_need_a_text_file_and_rdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SMILES in place of the file, a binary file, and an environment without RDKit."""
    with pytest.raises(UserError, match=r"CCO: no such file; --smiles names files"):
        collect([], [], ["CCO"])
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        collect([], [], [str(tmp_path / "b")])
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[smiles\]\""):
        from_smiles(tmp_path, "C")


def test_smiles_are_computed_beside_named_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With conformers, divided by molecule, which the record states; fitted energies by their own mean field."""
    monkeypatch.setattr("preprocess.reference_data.run_tasks", lambda tasks, *_: [task() for task in tasks])
    (tmp_path / "some.smi").write_text("O water\n[LiH]\n[OH-]\n[H][H]\n")
    output = tmp_path / "out"
    words = ["--molecules", "H2O", "--smiles", str(tmp_path / "some.smi"), "--output", str(output), "--basis", "sto-3g"]
    words += ["--samples", "2", "--sampling", "displacement", "--density-fit"]
    words += ["--split", "0.5", "0.25", "0.25"]
    reference_data.main([*words, "--split-by", "molecule"])
    record = json.loads((output / "reference-data.json").read_text())
    assert record["settings"]["density_fit"] is True
    assert record["settings"]["split_by"] == "molecule"
    assert set(record["versions"]) == {"pyscf", "rdkit", "numpy", "python"}
    splits = {}
    for split in SPLITS:
        with np.load(output / f"efd-{split}.npz") as efd:
            names, counts = np.unique(efd["name"], return_counts=True)
            assert set(counts) == {2}
            splits[split] = set(names.tolist())
            n, charge = efd["N"][0], int(efd["Q"][0])
            molecule = Molecule("", efd["Z"][0, :n].astype(int), efd["R"][0, :n], charge, 1)
            assert efd["E"][0] == pytest.approx(compute(molecule, FITTED, np.zeros((0, 3))).energy, abs=1e-6)
    assert sum(map(len, splits.values())) == 5
    assert any({"H2O", "water"} <= names for names in splits.values())
    with pytest.raises(UserError, match=r"another calculation \(split_by = molecule, not none\)"):
        reference_data.main(words)
    with pytest.raises(UserError, match=r"another calculation \(seed = 0, not 1\)"):
        reference_data.main([*words, "--split-by", "molecule", "--seed", "1"])

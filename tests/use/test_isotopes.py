"""Deuterium and tritium: hydrogen with its mass, in every program that reads a file."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from preprocess.reference.molecules import collect
from shared.errors import UserError
from shared.input.ase_files import read_frames
from shared.input.labelled import open_source
from shared.input.labels import FrameKeys
from shared.normal_modes import normal_modes
from train.inference.infrared import harmonic_modes
from train.inference.molecule_input import read_molecules
from train.inference.predicted_frames import as_atoms
from train.inference.predictor import Predictor

DEUTERIUM, TRITIUM = 2.014, 3.016
PLAIN = "3\nheavy water\nO 0 0 0.1\nD 0 0.76 -0.48\nT 0 -0.76 -0.48\n"
TYPED = (
    "3\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0 charge=-1\nO 0 0 0.1 0 0 0\nD 0 0.76 -0.48 1 0 0\n"
    "H 0 -0.76 -0.48 -1 0 0\n"
)


@pytest.mark.parametrize(("text", "masses"), [(PLAIN, [DEUTERIUM, TRITIUM]), (TYPED, [DEUTERIUM, 1.008])])
def test_symbols_of_isotopes(tmp_path: Path, text: str, masses: list[float]) -> None:
    path = tmp_path / "water.xyz"
    path.write_text(text + "1\n\nO 0 0 0\n" + text)
    frames = [atoms for _, atoms in read_frames(str(path))]
    assert [len(atoms) for atoms in frames] == [3, 1, 3]
    for atoms in (frames[0], frames[2], read_molecules("", f"{path}@0")[0]):
        assert atoms.get_chemical_formula() == "H2O"
        np.testing.assert_allclose(atoms.get_masses(), [15.999, *masses], atol=1e-3)
    if text == TYPED:
        assert frames[0].get_potential_energy() == -1.0
        assert frames[2].get_forces()[1, 0] == 1.0
        (first, *_) = open_source(str(path), FrameKeys())
        np.testing.assert_allclose(as_atoms(first).get_masses()[1], DEUTERIUM, atol=1e-3)
        assert first.charge == -1.0


def test_isotopes_of_an_sdf_file(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "h.xyz", molecule("H2O"))
    lines = ["", " made", "", "  2  1  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"    0.0000    0.0000{z:10.4f} {name}  0  0" for z, name in ((0.0, "D  "), (0.74, "H  "))]
    lines += ["  1  2  1  0", "M  ISO  1   2   3", "M  END", "$$$$", ""]
    (tmp_path / "hd.sdf").write_text("\n".join(lines))
    ((_, atoms),) = read_frames(str(tmp_path / "hd.sdf"))
    assert atoms.get_chemical_symbols() == ["H", "H"]
    np.testing.assert_allclose(atoms.get_masses(), [DEUTERIUM, TRITIUM], atol=1e-3)


def test_a_column_of_masses_reaches_spectra_and_reference_data(tmp_path: Path, predictor: Predictor) -> None:
    heavy = molecule("H2O")
    heavy.set_masses([15.999, DEUTERIUM, DEUTERIUM])
    ase.io.write(tmp_path / "d2o.xyz", heavy, format="extxyz", columns=["symbols", "positions", "masses"])
    (read,) = read_molecules("", str(tmp_path / "d2o.xyz"))
    np.testing.assert_allclose(read.get_masses(), heavy.get_masses())
    derivatives = predictor.derivatives(read)
    expected = normal_modes(read.positions, heavy.get_masses(), derivatives.hessian)
    found = harmonic_modes(derivatives, read)
    assert len(found.wavenumbers) == 3
    np.testing.assert_allclose(found.displacements, expected.displacements)
    light = harmonic_modes(derivatives, molecule("H2O"))
    # By Redlich and Teller only the masses differ: the product of the frequencies falls.
    assert np.prod(np.abs(found.wavenumbers)) < 0.6 * np.prod(np.abs(light.wavenumbers))
    (computed,) = collect([], [str(tmp_path / "d2o.xyz")])
    np.testing.assert_allclose(computed.masses, heavy.get_masses())
    (usual,) = collect(["H2O"], [])
    assert usual.digest != computed.digest
    np.testing.assert_allclose(usual.masses, Atoms("OHH").get_masses())


def test_reference_data_read_every_charge_and_spin(tmp_path: Path) -> None:
    path = tmp_path / "ions.xyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3 total_charge=1 spin=1\nO 0 0 0\n".replace("spin=1", "spin=3"))
    (cation,) = collect([], [str(path)])
    assert (cation.charge, cation.multiplicity) == (1, 4)
    path.write_text("1\nProperties=species:S:1:pos:R:3 spin=2 multiplicity=1\nO 0 0 0\n")
    with pytest.raises(UserError, match=r"spin=2 \(2S\) and multiplicity=1"):
        collect([], [str(path)])
    path.write_text("2\n\nO 0 0 0\nO 0 0 0.1\n")
    with pytest.raises(UserError, match=r"atoms 0 \(O\) and 1 \(O\) are 0.1 Å apart"):
        collect([], [str(path)])

"""``python -m train.charge_model``: its files from a random model, its mistakes, and the symmetry that it builds on."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import ase.io
import numpy as np
import openmm
import pytest
from ase.build import molecule
from openmm import app
from scipy.spatial.distance import cdist

from shared.errors import UserError
from shared.sealed import unseal
from train import charge_model
from train.fixed_charges.charge_model import charge_model_from_json
from train.fixed_charges.symmetry import point_group
from train.inference.calculator import JointCalculator
from train.inference.predictor import Predictor

FILES = {"charge-model.json", "charge-model.png"}
SIMULATION_FILES = {"openmm.xml", "molecule.pdb", "gromacs.itp", "charmm.dcm", "charmm.rtf"}


@pytest.fixture
def compiled(calculator: JointCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that other tests have compiled."""
    monkeypatch.setattr("train.inference.calculator.JointCalculator", lambda run: calculator)


@pytest.mark.usefixtures("compiled")
def test_a_molecule_gets_its_charges(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("atom,charge\nC,-0.4\nH,0.1\nH,0.1\nH,0.1\nH,0.1\n")
    monkeypatch.setattr("train.fixed_charges.geometries._FITTED_VALUES", 300)
    flags = ["--molecule", "CH4", "--samples", "6", "--max-charges", "9", "--compare", str(tmp_path / "mine.csv")]
    (tmp_path / "out" / "kernel").mkdir(parents=True)
    for name in ("coefs99.txt", "charmm.kern", "notes.txt"):
        (tmp_path / "out" / "kernel" / name).write_text("of an earlier fit")
    charge_model.main(["--run", str(run_folder), "--output", str(tmp_path / "out"), *flags])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FILES, *SIMULATION_FILES, "kernel"}
    kernel = (tmp_path / "out" / "kernel" / "charmm.kern").read_text().split()[4:]
    listed = {path.name for path in (tmp_path / "out" / "kernel").iterdir()}
    assert listed == {"charmm.dcm", "charmm.rtf", "charmm.kern", "notes.txt", *kernel}
    record = unseal(json.loads((tmp_path / "out" / "charge-model.json").read_bytes()))
    model = charge_model_from_json(record)
    assert 5 <= len(model.charges) <= 9
    sites = openmm_sites(tmp_path / "out", model.positions)
    assert len(sites) == len(model.charges)
    assert cdist(sites, model.sites(model.positions)).min(axis=0).max() < 1e-4
    assert sum(Decimal(repr(site["charge"])) for site in record["sites"]) == 0
    rows = {one["name"]: one for one in record["errors"]}
    assert list(rows) == ["network", "kernels", "fixed frames", "nuclei", "yours"]
    assert rows["network"]["esp_rmse_kcal_per_mol_e"] == pytest.approx(0.0, abs=1e-9)
    assert rows["fixed frames"]["charges"] == len(model.charges)
    assert rows["fixed frames"]["esp_rmse_kcal_per_mol_e"] < rows["yours"]["esp_rmse_kcal_per_mol_e"]
    assert record["curve"][-1]["charges"] < record["curve"][0]["charges"]
    said = capsys.readouterr().out
    assert "<- chosen" in said
    assert "fixed frames" in said
    # Constraints do not keep methane rigid.
    assert "normal modes of" in said
    assert all(f"<Harmonic{kind}Force>" in (tmp_path / "out" / "openmm.xml").read_text() for kind in ("Bond", "Angle"))
    assert "without --lennard-jones" in said
    assert "CHARMM's kernel" in said


def openmm_sites(folder: Path, positions: np.ndarray) -> np.ndarray:
    """Places of the charges in Å, those at nuclei included, as OpenMM builds them from its file."""
    field, pdb = app.ForceField(str(folder / "openmm.xml")), app.PDBFile(str(folder / "molecule.pdb"))
    molecules = app.Modeller(pdb.topology, pdb.positions)
    molecules.addExtraParticles(field)
    system = field.createSystem(molecules.topology, nonbondedMethod=app.NoCutoff)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    places = molecules.positions.value_in_unit(openmm.unit.nanometer)
    # The PDB file has three decimals.
    context.setPositions([*(0.1 * positions), *places[len(positions) :]])
    context.computeVirtualSites()
    found = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom)
    (force,) = (one for one in system.getForces() if isinstance(one, openmm.NonbondedForce))
    charges = [
        force.getParticleParameters(i)[0].value_in_unit(openmm.unit.elementary_charge) for i in range(len(found))
    ]
    return np.asarray(found[np.array(charges) != 0.0])


@pytest.mark.usefixtures("compiled")
def test_frames_of_two_molecules_and_too_few_are_refused(run_folder: Path, tmp_path: Path) -> None:
    frames = [molecule("H2O"), molecule("H2O")[[1, 0, 2]]]
    ase.io.write(tmp_path / "mixed.xyz", frames)
    ase.io.write(tmp_path / "few.xyz", frames[:1])
    for name, message in (("mixed.xyz", r"mixed\.xyz, frame 1: HOH, but frame 0 is OH2"), ("few.xyz", "1 frames; 5")):
        with pytest.raises(UserError, match=message):
            charge_model.main(["--run", str(run_folder), "--frames", str(tmp_path / name)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of the three"),
        (["--frames", "none.xyz"], r"--frames none\.xyz: no such file"),
        (["--molecule", "CH4", "--geometry", "mine.xyz"], "give one of the three"),
        (["--frames", "mine.xyz", "--md-ps", "5"], r"--md-ps 5: the geometries are those of --frames"),
        (["--molecule", "unobtainium"], "ASE does not know it"),
        (["--molecule", "CH4", "--charge", "0.5"], "sum to an integer"),
        (["--molecule", "CH4", "--compare", "none.csv"], r"--compare none\.csv: No such file"),
        (["--molecule", "CH4", "--samples", "2"], "samples"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    run_folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        charge_model.main(["--run", str(run_folder), "--output", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_charges_of_an_ensemble_are_asked_of_one_member(tmp_path: Path) -> None:
    for member in (0, 1):
        (tmp_path / f"best/member-{member}").mkdir(parents=True)
        (tmp_path / f"best/member-{member}/model.json").touch()
    with pytest.raises(UserError, match=r"an ensemble of 2 models.*--run .*member-0"):
        charge_model.main(["--run", str(tmp_path), "--molecule", "CH4"])


@pytest.mark.usefixtures("compiled")
def test_a_folder_that_cannot_be_is_told_before_the_fit(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.fixed_charges.fitting.fit_molecule", None)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        charge_model.main(["--run", str(run_folder), "--molecule", "CH4", "--output", str(tmp_path / "file" / "out")])


@pytest.mark.parametrize("name", ["CO2", "H2O", "CH4"])
def test_a_networks_charges_have_the_symmetry_of_the_molecule(predictor: Predictor, name: str) -> None:
    """Rotations and reflections exchange the charges of equivalent atoms, as far as the geometry is symmetric."""
    atoms = molecule(name)
    (found,) = predictor.predict([atoms])
    arms = atoms.positions - atoms.positions.mean(axis=0)
    exact = 0
    for operation in point_group(atoms.numbers, atoms.positions):
        image = list(operation.image)
        np.testing.assert_allclose(found.dcm_charges[image], found.dcm_charges, atol=1e-6)
        left, _, right = np.linalg.svd(arms.T @ arms[image])
        turn = right.T @ np.diag([1, 1, operation.sign * np.linalg.det(left @ right)]) @ left.T
        if np.abs(arms @ turn.T - arms[image]).max() < 1e-6:
            sites = found.dcm_sites - atoms.positions[:, None]
            np.testing.assert_allclose(sites @ turn.T, sites[image], atol=1e-6)
            exact += operation.image != tuple(range(len(atoms)))
    assert exact

"""``python -m train.predict``: what ASE reads back, against the calculator, the labels, and ``train.evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase
import ase.io
import h5py
import numpy as np
import pytest
from ase.build import molecule

from shared.errors import UserError
from train import predict
from train.inference.calculator import JointCalculator

DEBYE = 0.20819434  # e·Å


def frames() -> list[ase.Atoms]:
    """Molecules of three sizes, the second one an ion, the last one without labels, with whatever MACE's files have."""
    rng = np.random.default_rng(0)
    result = []
    for seed, name in enumerate(["H2O", "NH3", "CH3CH2OH", "H2O", "CO2"]):
        atoms = molecule(name)
        atoms.rattle(0.1, seed=seed)
        atoms.info |= {"config_type": f"kind {seed % 2}", "step": seed}
        if seed < 4:
            atoms.info |= {"REF_energy": -2000.0 + rng.normal(), "REF_dipole": rng.normal(size=3)}
            atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
            tensor = rng.normal(size=(3, 3))
            atoms.info["REF_quadrupole"] = tensor + tensor.T - np.trace(tensor) * np.eye(3) / 1.5
        result.append(atoms)
    result[1].info["charge"] = 1
    return result


@pytest.fixture(scope="module")
def output(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of the molecules in chunks smaller than the file."""
    folder = tmp_path_factory.mktemp("predict")
    ase.io.write(folder / "data.xyz", frames())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.predict._BATCHES_AT_ONCE", 2)
        run(run_folder, folder / "data.xyz", "--output", str(folder / "out.xyz"))
    assert {path.name for path in folder.iterdir()} == {"data.xyz", "out.xyz", "out.errors.json"}
    return folder / "out.xyz"


def run(folder: Path, data: Path | str, *flags: str) -> None:
    """In batches of one, which all tests share the compilations of."""
    predict.main(["--run", str(folder), "--data", str(data), "--precision", "float64", "--batch-size", "1", *flags])


def errors_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.with_suffix(".errors.json").read_text())
    return content


def test_ase_reads_the_molecules_back_with_the_calculators_values(output: Path, calculator: JointCalculator) -> None:
    read = ase.io.read(output, index=":")
    assert len(read) == 5
    for own, atoms in zip(read, frames(), strict=True):
        n = len(atoms)
        np.testing.assert_array_equal(own.numbers, atoms.numbers)
        np.testing.assert_allclose(own.positions, atoms.positions, atol=1e-8)
        calculator.calculate(atoms)
        assert own.get_potential_energy() == pytest.approx(calculator.results["energy"], abs=1e-6)
        np.testing.assert_allclose(own.get_forces(), calculator.results["forces"], atol=2e-7)
        np.testing.assert_allclose(own.get_charges(), calculator.results["charges"], atol=2e-8)
        np.testing.assert_allclose(own.get_dipole_moment(), calculator.results["dipole"], atol=1e-7)
        expected = calculator.get_distributed_charges(atoms)
        sites = own.arrays["dcm_sites"].reshape(n, -1, 3)
        np.testing.assert_allclose(own.arrays["dcm_charges"], expected.values, atol=2e-8)
        np.testing.assert_allclose(sites, expected.positions, atol=2e-8)
        charge = atoms.info.get("charge", 0)
        assert own.info["charge"] == charge
        assert own.arrays["dcm_charges"].sum() == pytest.approx(charge, abs=1e-6)
        dipole = np.einsum("ac,acx->x", own.arrays["dcm_charges"], sites - atoms.get_center_of_mass())
        np.testing.assert_allclose(own.info["dipole_dcm"], dipole, atol=1e-6)
        for name in ("quadrupole", "quadrupole_dcm"):
            np.testing.assert_allclose(own.info[name], calculator.results[name], atol=1e-7)


def test_labels_and_other_information_stay(output: Path) -> None:
    for own, atoms in zip(ase.io.read(output, index=":"), frames(), strict=True):
        for key in ("config_type", "step", "REF_energy"):
            assert own.info.get(key) == atoms.info.get(key)
        assert ("REF_forces" in own.arrays) == ("REF_forces" in atoms.arrays)
        if "REF_forces" in atoms.arrays:
            np.testing.assert_allclose(own.arrays["REF_forces"], atoms.arrays["REF_forces"], atol=1e-8)
            np.testing.assert_allclose(own.info["REF_dipole"], atoms.info["REF_dipole"], atol=1e-12)
            np.testing.assert_allclose(own.info["REF_quadrupole"], atoms.info["REF_quadrupole"], atol=1e-12)


def test_errors_are_those_between_the_files_columns(output: Path) -> None:
    read = [atoms for atoms in ase.io.read(output, index=":") if "REF_energy" in atoms.info]
    energy = np.array([atoms.get_potential_energy() - atoms.info["REF_energy"] for atoms in read])
    differences = {
        "energy_{}_ev": energy,
        "energy_per_atom_{}_ev": energy / [len(atoms) for atoms in read],
        "forces_{}_ev_per_angstrom": np.vstack([atoms.get_forces() - atoms.arrays["REF_forces"] for atoms in read]),
        "dipole_{}_debye": np.array([atoms.get_dipole_moment() - atoms.info["REF_dipole"] for atoms in read]) / DEBYE,
        "dipole_dcm_{}_debye": np.array([a.info["dipole_dcm"] - a.info["REF_dipole"] for a in read]) / DEBYE,
    }
    for name in ("quadrupole", "quadrupole_dcm"):
        errors = np.array([atoms.info[name] - atoms.info["REF_quadrupole"] for atoms in read])
        differences[f"{name}_{{}}_debye_angstrom"] = errors / DEBYE
    expected = {name.format("mae"): np.abs(error).mean() for name, error in differences.items()}
    expected |= {name.format("rmse"): np.sqrt((error**2).mean()) for name, error in differences.items()}
    record = errors_of(output)
    assert record["metrics"] == pytest.approx(expected, rel=1e-6)
    assert record["molecules"] == 5
    assert record["molecules_with"] == {"energy": 4, "forces": 4, "dipole": 4, "quadrupole": 4}


def test_predictions_are_read_as_data_again(output: Path, run_folder: Path, tmp_path: Path) -> None:
    """Labels are the references, and what was predicted is never taken for one without being asked for."""
    with pytest.raises(UserError, match=r"frame 4: holds 'energy', but .* was 'REF_energy'; .*--energy-key"):
        run(run_folder, output, "--output", str(tmp_path / "again.xyz"))
    run(run_folder, f"{output}@0:2", "--output", str(tmp_path / "again.xyz"))
    (described,) = errors_of(tmp_path / "again.xyz")["files"].values()
    assert described["keys"] == {
        "energy": "REF_energy",
        "forces": "REF_forces",
        "dipole": "REF_dipole",
        "quadrupole": "REF_quadrupole",
        "charge": "charge",
    }
    lines = output.read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "again.xyz").read_text().splitlines() == lines[: 5 + 6]


def test_errors_on_an_npz_file_are_those_of_the_evaluation(run: Path, tmp_path: Path) -> None:
    """Of one of the files that the run's test split was preprocessed from; float32 of total energies is in there."""
    data = run.parent / "input" / "co2-test-efd.npz"
    predict.main(["--run", str(run), "--data", str(data), "--output", str(tmp_path / "out.xyz")])
    read = ase.io.read(tmp_path / "out.xyz", index=":")
    with h5py.File(run / "predictions-test.h5") as file:
        values = {name: np.asarray(file[name]) for name in file}
    own = values["row"] < len(read)
    assert own.sum() == len(read) == 5
    for row, energy in zip(values["row"][own], values["energy"][own], strict=True):
        assert read[row].get_potential_energy() == pytest.approx(energy, abs=2e-3)
    metrics = errors_of(tmp_path / "out.xyz")["metrics"]
    error = np.abs(values["energy"] - values["energy_reference"])[own].mean()
    assert metrics["energy_mae_ev"] == pytest.approx(error, abs=2e-3)
    for key, name in (("dipole", "dipole_mae_debye"), ("dipole_dcm", "dipole_dcm_mae_debye")):
        error = np.abs(values[key] - values["dipole_reference"])[own].mean() / DEBYE
        assert metrics[name] == pytest.approx(error, rel=1e-4)
    forces = np.abs(values["forces"] - values["forces_reference"])[np.repeat(own, values["n_atoms"])].mean()
    assert metrics["forces_mae_ev_per_angstrom"] == pytest.approx(forces, rel=1e-4)


def test_units_charges_names_and_frames_by_flag(run_folder: Path, tmp_path: Path) -> None:
    images = frames()
    for atoms in images[:4]:
        atoms.info |= {"hf": atoms.info["REF_energy"] / 27.211386, "d": atoms.info["REF_dipole"] / DEBYE}
        atoms.arrays["slope"] = atoms.arrays["REF_forces"] / 27.211386 * 0.5291772
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = 0.0, np.zeros((len(atoms), 3))
        atoms.positions /= 0.5291772
    ase.io.write(tmp_path / "data.xyz", images)
    keys = ["--energy-key", "hf", "--forces-key", "slope", "--dipole-key", "d", "--charge-key", "step"]
    units = [
        "--energy-unit",
        "hartree",
        "--force-unit",
        "hartree/bohr",
        "--dipole-unit",
        "debye",
        "--position-unit",
        "au",
    ]
    run(run_folder, f"{tmp_path / 'data.xyz'}@0:2", "--output", str(tmp_path / "out.xyz"), *keys, *units)
    read = ase.io.read(tmp_path / "out.xyz", index=":")
    assert [atoms.get_charges().sum() for atoms in read] == pytest.approx([0, 1], abs=1e-6)
    for own, atoms in zip(read, frames()[:2], strict=True):
        np.testing.assert_allclose(own.positions, atoms.positions, atol=1e-7)
        assert own.info["REF_energy"] == pytest.approx(atoms.info["REF_energy"], abs=1e-4)
        np.testing.assert_allclose(own.arrays["REF_forces"], atoms.arrays["REF_forces"], atol=1e-6)
        np.testing.assert_allclose(own.info["REF_dipole"], atoms.info["REF_dipole"], atol=1e-6)
    run(run_folder, f"{tmp_path / 'data.xyz'}@4", "--output", str(tmp_path / "out.xyz"), "--charge", "-1")
    (own,) = ase.io.read(tmp_path / "out.xyz", index=":")
    assert own.info["charge"] == -1
    assert own.get_charges().sum() == pytest.approx(-1, abs=1e-6)
    assert errors_of(tmp_path / "out.xyz")["metrics"] == {}


def test_the_default_output_is_in_the_runs_folder(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = frames()[:1]
    images[0].info["energy"] = 1.0
    ase.io.write(tmp_path / "water.xyz", images)
    run(run_folder, tmp_path / "water.xyz")
    assert len(ase.io.read(run_folder / "predictions" / "water.xyz", index=":")) == 1
    said = capsys.readouterr().out
    assert "energy 'REF_energy' in ev" in said
    assert "energy is 'REF_energy', not energy" in said
    assert "1 molecules" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "iron.xyz",
            "1\n\nH 0 0 0\n1\n\nFe 0 0 0\n",
            r"iron\.xyz, frame 1: the model was not trained on Fe, but on H, C",
        ),
        (
            "ion.xyz",
            "1\nProperties=species:S:1:pos:R:3 charge=plenty\nH 0 0 0\n",
            r"ion\.xyz, frame 0: charge = 'plenty'",
        ),
        ("empty.xyz", "", r"empty\.xyz: no molecules in it"),
        ("bad.npz", "text", r"bad\.npz: not a readable NPZ file"),
    ],
)
def test_mistakes_in_the_data_are_one_line_and_leave_no_output(
    run_folder: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        run(run_folder, tmp_path / name, "--output", str(tmp_path / "out.xyz"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_mistakes(run_folder: Path, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    (tmp_path / "a.errors.json").write_text("mine")
    data = str(tmp_path / "a.xyz")
    for flags, message in (
        (["--data", "none.xyz"], r"none\.xyz: no such file"),
        (["--data", "none*.xyz"], "matches no file"),
        (["--data", "none.npz@0:2"], r"none\.npz@0:2: an NPZ file is read whole"),
        (["--data", data, "--output", data], r"a\.xyz is one of the files of --data"),
        (["--data", data, "--output", "out.json"], r"name it \.xyz"),
        (["--data", data, "--energy-unit", "furlong"], "--energy-unit furlong"),
        (["--data", data, "--energy-key", "nothing"], "--energy-key nothing: no frame holds it; the file holds "),
        (["--data", data, "--run", str(tmp_path)], "model"),
    ):
        with pytest.raises(UserError, match=message):
            predict.main(["--run", str(run_folder), *flags])
    assert {path.name for path in tmp_path.iterdir()} == {"a.xyz", "a.errors.json"}

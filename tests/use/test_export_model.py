"""The exported model in an interpreter that knows JAX and NumPy alone, against the predictor and finite differences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import jax
import numpy as np
import pytest
from ase.build import molecule
from jax import export

from shared.errors import UserError
from tests.use.conftest import REFERENCES
from train import export_model
from train.inference.predictor import MoleculePrediction, Predictor

STEP = 1e-4
PLACES = 6

GUARD = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("train", "shared", "preprocess", "tests", "e3x", "flax", "ase"):
            raise ImportError(f"{name} is not to be needed")
sys.meta_path.insert(0, Guard())
"""

SCRIPT = """
data = dict(np.load("molecules.npz", allow_pickle=False))
result = model.call(data["atomic_numbers"], data["positions"], data["total_charge"])
np.savez("results.npz", **jax.device_get(result))
"""


def molecules() -> list[ase.Atoms]:
    """Of three sizes, one of them an ion."""
    chosen = [molecule(name) for name in ("H2O", "CH4", "CO2")]
    for seed, atoms in enumerate(chosen):
        atoms.rattle(0.1, seed=seed)
    chosen[2].info["charge"] = -1
    return chosen


def moved(atoms: ase.Atoms) -> list[ase.Atoms]:
    """Every coordinate ahead, then every one behind."""
    copies = []
    for step in (STEP, -STEP):
        for coordinate in range(3 * len(atoms)):
            copies.append(atoms.copy())
            copies[-1].positions[divmod(coordinate, 3)] += step
    return copies


def inputs(chosen: list[ase.Atoms], places: int, precision: str, padding_first: bool = False) -> dict[str, np.ndarray]:
    """Padded arrays; in the padding's positions stands what must not matter."""
    numbers = np.zeros((len(chosen), places), np.int32)
    positions = np.full((len(chosen), places, 3), np.nan, precision)
    for row, atoms in enumerate(chosen):
        rows = slice(places - len(atoms), None) if padding_first else slice(0, len(atoms))
        numbers[row, rows], positions[row, rows] = atoms.numbers, atoms.positions
    charge = np.array([atoms.info.get("charge", 0.0) for atoms in chosen], precision)
    return {"atomic_numbers": numbers, "positions": positions, "total_charge": charge}


def total_energy(results: dict[str, np.ndarray]) -> np.ndarray:
    reference = results["reference_energy"].astype(np.float64).sum(axis=1)
    return results["energy"].astype(np.float64) + reference


def assert_predicted(results: dict[str, np.ndarray], row: int, expected: MoleculePrediction, tolerance: float) -> None:
    n = len(expected.charges)
    assert total_energy(results)[row] == pytest.approx(expected.energy, abs=tolerance)
    for name in ("dipole", "dipole_dcm", "quadrupole", "quadrupole_dcm"):
        np.testing.assert_allclose(results[name][row], getattr(expected, name), atol=tolerance, err_msg=name)
    for name in ("forces", "charges", "dcm_charges", "dcm_sites"):
        np.testing.assert_allclose(results[name][row, :n], getattr(expected, name), atol=tolerance, err_msg=name)
        assert not results[name][row, n:].any()


@pytest.fixture(scope="module")
def folders(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in both precisions."""
    folder = tmp_path_factory.mktemp("exported")
    for precision in ("float32", "float64"):
        output = str(folder / precision)
        export_model.main(["--run", str(run_folder), "--output", output, "--precision", precision])
    return {precision: folder / precision for precision in ("float32", "float64")}


@pytest.fixture(scope="module")
def single(folders: dict[str, Path]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The model in float32, which compiles once for each shape."""
    model = export.deserialize(bytearray((folders["float32"] / export_model.MODEL).read_bytes()))
    assert set(model.platforms) == {"cpu", "cuda"}
    compiled = jax.jit(model.call)
    return lambda batch: jax.device_get(compiled(*batch.values()))


def test_it_runs_without_this_project(folders: dict[str, Path], predictor: Predictor) -> None:
    """The example of the written README, then three molecules and the finite differences of one."""
    folder = folders["float64"]
    chosen = molecules()
    batch = inputs([*chosen, *moved(chosen[0])], PLACES, "float64")
    np.savez(folder / "molecules.npz", **batch)
    (example,) = re.findall(r"```python\n(.*?)```", (folder / export_model.README).read_text(), re.DOTALL)
    (folder / "use.py").write_text(GUARD + example + SCRIPT)
    done = subprocess.run([sys.executable, "-I", "use.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "energy, eV: [" in done.stdout
    results = dict(np.load(folder / "results.npz", allow_pickle=False))
    for row, expected in enumerate(predictor.predict(chosen)):
        assert_predicted(results, row, expected, 1e-9)
    ahead, behind = total_energy(results)[3:].reshape(2, 3, 3)
    np.testing.assert_allclose(results["forces"][0, :3], (behind - ahead) / (2 * STEP), rtol=1e-5, atol=1e-6)
    assert np.abs(results["forces"][0]).max() > 0.1


def test_float32_agrees_whatever_the_padding(single: Callable, predictor: Predictor) -> None:
    chosen = [*molecules(), ase.Atoms("O")]
    results = single(inputs(chosen, PLACES, "float32"))
    for row, expected in enumerate(predictor.predict(chosen)):
        # The total energy too: to better than the 1e-4 eV that float32 resolves there.
        assert_predicted(results, row, expected, 2e-5)
    other = single(inputs(chosen, PLACES, "float32", padding_first=True))
    np.testing.assert_allclose(other["energy"], results["energy"], atol=1e-5)
    np.testing.assert_allclose(other["forces"][1, 1:], results["forces"][1, :5], atol=1e-5)


def test_what_cannot_be_predicted_has_no_number(single: Callable) -> None:
    """Elements that the model was not trained on; no atoms at all are nothing."""
    batch = inputs([molecule("H2O")] * 3 + [ase.Atoms()], PLACES, "float32")
    batch["atomic_numbers"][:3, 1] = (17, 119, -1)
    for name, values in single(batch).items():
        assert np.isnan(values[:3]).all(), name
        assert not values[3].any(), name


def test_the_description_is_complete(folders: dict[str, Path], single: Callable, predictor: Predictor) -> None:
    folder = folders["float32"]
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.json", "model.jax-export"}
    description = json.loads((folder / export_model.DESCRIPTION).read_text())
    assert description["elements"] == ["H", "C", "N", "O"]
    cutoffs = description["physnet_cutoff_angstrom"], description["dcmnet_cutoff_angstrom"]
    assert cutoffs == (predictor.trained.config.physnet_cutoff, predictor.trained.config.dcmnet_cutoff)
    assert cutoffs[0] != cutoffs[1]
    assert {int(z): e for z, e in description["reference_energies_ev"].items()} == REFERENCES
    results = single(inputs([*molecules(), ase.Atoms("O")], PLACES, "float32"))
    assert set(results) == set(description["outputs"])
    assert results["dcm_charges"].shape[-1] == description["n_dcm"]


def test_a_run_without_a_model_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        export_model.main(["--run", str(tmp_path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_written_model(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.inference.jax_export.export_model", lambda trained, precision: b"a program")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_model.main(["--run", str(run_folder), "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())

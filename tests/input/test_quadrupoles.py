"""Quadrupoles of every name, shape, unit, origin and form: in the cache, one tensor about the centre of mass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest

from shared.errors import UserError
from shared.input.labelled import open_source, read_labelled
from shared.input.labels import FrameKeys
from shared.input.quadrupoles import find_form
from shared.manifest import current_stages, read_manifest, stage_folder
from tests import support
from train.data.dataset import open_cache
from train.data.esp_mask import EspSelection
from train.data.loader import Loader

COUNT = 12
DEBYE, BOHR = 0.20819434, 0.529177210
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def files() -> tuple[Arrays, Arrays]:
    """Molecules and ions of charges at their atoms, far from the origin, with their moments, summed one by one."""
    efd, esp = support.read_sample("mixed", "train", np.arange(0, 8 * COUNT, 8))
    rng = np.random.default_rng(0)
    shift = rng.normal(size=(COUNT, 1, 3))
    efd["R"], esp["R"], esp["vdw_surface"] = efd["R"] + shift, esp["R"] + shift, esp["vdw_surface"] + shift
    total = np.arange(COUNT) % 3 - 1.0
    moments: dict[str, list[np.ndarray]] = {name: [] for name in ("dipole", "about_mass", "second", "about_zero")}
    for numbers, positions, n, charge in zip(efd["Z"], efd["R"].astype(float), efd["N"], total, strict=True):
        charges = rng.normal(size=n)
        charges += (charge - charges.sum()) / n
        center = ase.Atoms(numbers[:n], positions[:n]).get_center_of_mass()
        arms = positions[:n] - center
        moments["dipole"].append(charges @ arms)
        moments["about_mass"].append(tensor(charges, arms))
        moments["about_zero"].append(tensor(charges, positions[:n]))
        moments["second"].append(sum(q * np.outer(x, x) for q, x in zip(charges, arms, strict=True)))
    arrays = {name: np.array(values) for name, values in moments.items()}
    return {**efd, "Q": total, "Dxyz": arrays.pop("dipole") / DEBYE, **arrays}, esp


def tensor(charges: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """½ Σ q (3 x xᵀ - |x|² 1), component by component."""
    result = np.zeros((3, 3))
    for q, arm in zip(charges, arms, strict=True):
        for x, y in np.ndindex(3, 3):
            result[x, y] += 0.5 * q * (3 * arm[x] * arm[y] - (x == y) * (arm @ arm))
    return result


def six(values: np.ndarray, order: str = "xx yy zz xy xz yz") -> np.ndarray:
    """Components in this order."""
    return np.stack([values[:, "xyz".index(a), "xyz".index(b)] for a, b in order.split()], axis=1)


BY_ROWS = "xx xy xz yy yz zz"
CASES: dict[str, tuple[Callable[[Arrays], Arrays], dict[str, Any]]] = {
    "quadrupole": (lambda f: {"quadrupole": f["about_mass"]}, {}),
    "six numbers": (lambda f: {"quadrupole": six(f["about_mass"])}, {}),
    "six numbers by rows": (lambda f: {"quadrupole": six(f["about_mass"], BY_ROWS)}, {}),
    "Q in Debye·Å": (lambda f: {"Q": f["about_mass"] / DEBYE}, {}),
    "Q of six numbers": (lambda f: {"Q": six(f["about_mass"] / DEBYE)}, {}),
    "atomic units by flag": (lambda f: {"quadrupole": f["about_mass"] / BOHR**2}, {"quadrupole_unit": "e*a0^2"}),
    "by record": (lambda f: {"quadrupole": f["about_mass"] / DEBYE, "_mmml_units": record("debye_angstrom")}, {}),
    "second moments": (lambda f: {"quadrupole": f["second"]}, {}),
    "second moments of six numbers": (lambda f: {"quadrupole": six(f["second"])}, {}),
    "about the zero of R": (lambda f: {"quadrupole": f["about_zero"]}, {"quadrupole_origin": "zero"}),
    "float32, rounded": (lambda f: {"quadrupole": f["about_mass"].round(3).astype(np.float32)}, {}),
    "and Q another one": (lambda f: {"quadrupole": f["about_mass"], "Q": f["second"]}, {}),
}


def record(unit: str) -> np.ndarray:
    return np.array(json.dumps({"quadrupole": unit, "Q": "e"}))


def write(folder: Path, efd: Arrays, esp: Arrays) -> dict[str, Any]:
    """A pair of files that is both splits."""
    pair = support.write_pair(folder, "all", efd, esp)
    names = {kind: (str(path),) for kind, path in zip(("efd", "esp"), pair, strict=True)}
    return {f"{split}_{kind}": name for split in ("train", "valid") for kind, name in names.items()}


def plain(files: tuple[Arrays, Arrays]) -> Arrays:
    """The file of energies without the tensors."""
    return {key: values for key, values in files[0].items() if key not in ("about_mass", "second", "about_zero")}


def read(cache_dir: Path) -> dict[int, np.ndarray] | None:
    """The quadrupoles of the training batches, by row in the file; None where batches have none."""
    loader = Loader(open_cache(cache_dir, 6.0, 10.0).load_split("train"), 5, EspSelection(1.0))
    found = {}
    for plan in loader.plan():
        batch = loader.read(plan)
        if batch.quadrupole is None:
            return None
        rows = loader.buckets[plan.bucket].take("row", plan.rows)
        found |= dict(zip(rows.tolist(), batch.quadrupole[: len(rows)], strict=True))
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_form_gives_the_same_tensors(case: str, files: tuple[Arrays, Arrays], tmp_path: Path) -> None:
    change, flags = CASES[case]
    changed = change(files[0])
    settings = write(tmp_path, plain(files) | changed, files[1])
    support.run_preprocess(settings, tmp_path / "cache", **flags)
    found = read(tmp_path / "cache")
    assert found is not None
    assert sorted(found) == list(range(COUNT))
    for row, quadrupole in found.items():
        expected = files[0]["about_mass"][row]
        tolerance = 1e-3 if case == "float32, rounded" else 2e-6 * np.abs(files[0]["about_zero"][row]).max()
        np.testing.assert_allclose(quadrupole, expected, atol=tolerance, err_msg=f"row {row}")
        assert np.trace(quadrupole) == pytest.approx(0.0, abs=1e-5)


def test_noise_of_a_symmetric_molecule_is_a_quadrupole(files: tuple[Arrays, Arrays]) -> None:
    """PySCF's of methane is 1e-15 e·Å² and not symmetric, beside which those of other molecules are read."""
    tensors = files[0]["about_mass"].copy()
    tensors[3] = 1e-15 * np.random.default_rng(0).normal(size=(3, 3))
    form = find_form(tensors)
    assert not isinstance(form, str)
    assert form.is_traceless
    tensors[3, 0, 1] += 0.1
    assert find_form(tensors) == "not symmetric, so no quadrupole"


def test_labels_that_predictions_are_compared_with(
    files: tuple[Arrays, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second moments without their trace, which the first rows do not show; the 0 of symmetric ones is a label too."""
    monkeypatch.setattr("shared.input.layout._ROWS_LOOKED_AT", 2)
    second, expected = files[0]["second"].copy(), files[0]["about_mass"].copy()
    second[:5] = expected[:5] = 0.0
    path, _ = support.write_pair(tmp_path, "all", plain(files) | {"quadrupole": second}, files[1])
    ((*molecules,),) = read_labelled([open_source(str(path), FrameKeys())], {}, COUNT)
    assert all(one.quadrupole is not None for one in molecules)
    np.testing.assert_allclose([one.quadrupole for one in molecules], expected, atol=1e-5)


LEFT_ALONE: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "not symmetric": (lambda f: {"Q": np.random.default_rng(1).normal(size=(COUNT, 3, 3))}, "Q .not symmetric"),
    "zeros": (lambda f: {"quadrupole": 0.0 * f["second"]}, "quadrupole .0 in all rows, perhaps not computed"),
    "another shape": (lambda f: {"quadrupole": np.ones((COUNT, 5))}, r"quadrupole .of shape \(12, 5\)"),
    "charges of six atoms": (lambda f: {"Q": np.full((COUNT, f["Z"].shape[1]), 0.3)}, "Q .charges of the atoms"),
    "objects": (lambda f: {"quadrupole": f["second"].astype(object)}, "quadrupole .pickled objects, never loaded"),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_is_no_quadrupole_is_left_alone_and_said(
    case: str, files: tuple[Arrays, Arrays], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = LEFT_ALONE[case]
    support.run_preprocess(write(tmp_path, plain(files) | change(files[0]), files[1]), tmp_path / "cache")
    assert read(tmp_path / "cache") is None
    assert re.search(f"left alone: .*{message}", capsys.readouterr().out)


def test_data_without_quadrupoles_have_the_digest_that_they_had(files: tuple[Arrays, Arrays], tmp_path: Path) -> None:
    """Nothing of what determines it says that there might be any; where there are, their unit and origin do."""
    digests = []
    for index, (more, flags) in enumerate(
        (
            ({}, {}),
            ({}, {"quadrupole_unit": "au", "quadrupole_origin": "zero"}),
            ({"quadrupole": files[0]["about_mass"]}, {}),
            ({"quadrupole": files[0]["about_mass"]}, {"quadrupole_origin": "zero"}),
            ({"quadrupole": files[0]["about_mass"]}, {"quadrupole_unit": "au"}),
        )
    ):
        folder = tmp_path / str(index)
        support.run_preprocess(write(folder, plain(files) | more, files[1]), folder / "cache", **flags)
        manifest = read_manifest(stage_folder(folder / "cache", "frames", current_stages(folder / "cache")["frames"]))
        assert manifest is not None
        digests.append(manifest["digest"])
        held = "quadrupole" in json.dumps([manifest["inputs"], manifest["settings"], manifest["units"]])
        assert held == bool(more)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_files_with_and_without_them(files: tuple[Arrays, Arrays], tmp_path: Path) -> None:
    """All shards have the array, unknown where a file has none."""
    one = write(tmp_path / "one", plain(files) | {"quadrupole": files[0]["about_mass"]}, files[1])
    other = write(tmp_path / "other", plain(files), files[1])
    support.run_preprocess({key: one[key] + other[key] for key in one}, tmp_path / "cache")
    found = read(tmp_path / "cache")
    assert found is not None
    assert {row for row, values in found.items() if np.isnan(values).all()} == set(range(COUNT, 2 * COUNT))
    assert np.isfinite([found[row] for row in range(COUNT)]).all()


def test_mistakes(files: tuple[Arrays, Arrays], tmp_path: Path) -> None:
    holed = files[0]["about_mass"].copy()
    holed[4, 1, 2] = holed[4, 2, 1] = np.nan
    without = {key: values for key, values in plain(files).items() if key != "Dxyz"}
    for efd, flags, message in (
        (plain(files) | {"quadrupole": holed}, {}, r"'quadrupole' is nan in row 4"),
        (without | {"quadrupole": files[0]["about_zero"]}, {"quadrupole_origin": "zero"}, "takes dipoles"),
        (plain(files) | {"quadrupole": holed, "_mmml_units": record("furlong")}, {}, r"'furlong'.*debye-angstrom, au"),
    ):
        with pytest.raises(UserError, match=message):
            support.run_preprocess(write(tmp_path, efd, files[1]), tmp_path / "cache", **flags)


def test_extended_xyz(files: tuple[Arrays, Arrays], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In e·Å²; frames may lack them, and so may whole files, whose conversions stay as they were."""
    efd = files[0]
    frames = []
    for row, n in enumerate(efd["N"]):
        atoms = ase.Atoms(efd["Z"][row, :n], efd["R"][row, :n])
        atoms.info |= {"REF_energy": float(efd["E"][row]), "charge": efd["Q"][row]}
        atoms.arrays["REF_forces"] = efd["F"][row, :n].astype(float)
        if row != 2:
            atoms.info["quadrupole"] = efd["about_mass"][row]
        frames.append(atoms)
    ase.io.write(tmp_path / "all.xyz", frames, format="extxyz")
    settings = {"train_efd": (str(tmp_path / "all.xyz"),), "valid_efd": (str(tmp_path / "all.xyz"),)}
    support.run_preprocess(settings, tmp_path / "cache")
    said = capsys.readouterr().out
    assert re.search(r"quadrupole +quadrupole +e-angstrom2 +ASE's convention", said)
    assert "1 of 12 frames have no quadrupole" in said
    found = read(tmp_path / "cache")
    assert found is not None
    for row, quadrupole in found.items():
        expected = np.full((3, 3), np.nan) if row == 2 else efd["about_mass"][row]
        np.testing.assert_allclose(quadrupole, expected, atol=1e-5, err_msg=f"row {row}")
    for atoms in frames:
        atoms.info.pop("quadrupole", None)
    ase.io.write(tmp_path / "none.xyz", frames, format="extxyz")
    settings = {"train_efd": (str(tmp_path / "none.xyz"),), "valid_efd": (str(tmp_path / "none.xyz"),)}
    support.run_preprocess(settings, tmp_path / "without")
    assert read(tmp_path / "without") is None
    (converted,) = (tmp_path / "without" / "converted").glob("*.npz")
    with np.load(converted) as arrays:
        assert not any(
            "quadrupole" in text for text in (*arrays, str(arrays["_mmml_units"]), str(arrays["_converted"]))
        )

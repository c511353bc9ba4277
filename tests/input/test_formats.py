"""Every kind of file that users have gives the molecules of the clean files, with no flag or the one that is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import units
from shared.errors import UserError
from shared.manifest import current_stages, read_manifest, stage_folder
from tests import support
from tests.input import kinds
from tests.input.shards import Molecule, assert_same, assert_same_grid, read_clean, read_shards

FORMATS = Path(__file__).parent / "formats"
EFD, ESP = "energies_forces_dipoles", "grids_esp"
AS_THEY_ARE = (
    *("seed-same-frame", "today", "today-hartree", "molpro-metadata", "molpro-bare", "q-is-quadrupole"),
    "esp_grid-name",
)


def files_of(case: str, folder: Path = FORMATS) -> dict[str, Any]:
    """Settings that name the files of a case."""
    return {
        f"{split}_{kind}": (str(folder / case / f"{stem}_{split}.npz"),)
        for split in ("train", "valid")
        for kind, stem in (("efd", EFD), ("esp", ESP))
    }


def clean(case: str, split: str) -> list[Molecule]:
    """The molecules as they are."""
    return read_clean(FORMATS / case / f"{EFD}_{split}.npz", FORMATS / case / f"{ESP}_{split}.npz")


def preprocess(tmp_path: Path, settings: dict[str, Any], **changes: Any) -> list[Molecule]:
    """Preprocess as a user does, but with small buckets; the molecules of the cache."""
    support.run_preprocess(settings, tmp_path / "cache", checks="stop", **changes)
    return read_shards(tmp_path / "cache")


def flags_named(error: str) -> dict[str, str]:
    """The flags that a message names as remedies, as settings."""
    found = dict(re.findall(r"(--(?:grid|energy|force|dipole|esp|position)-(?:unit|frame)) ([\w/.-]+)", error))
    return {flag.strip("-").replace("-", "_"): value for flag, value in found.items()}


def preprocess_as_told(tmp_path: Path, settings: dict[str, Any]) -> tuple[list[Molecule], dict[str, str]]:
    """Preprocess, giving the flags that each refusal names; the molecules, and the flags that it took."""
    flags: dict[str, str] = {}
    for _ in range(4):
        try:
            return preprocess(tmp_path, settings, **flags), flags
        except UserError as error:
            message = str(error)
        named = flags_named(message)
        assert set(named) - set(flags), message
        assert "\n" not in message
        flags |= named
    raise AssertionError(f"not satisfied by {flags}")


def assert_all_same(found: list[Molecule], case: str, frame: float = 1e-5) -> None:
    """All molecules of both splits."""
    for split in ("train", "valid"):
        own = [molecule for molecule in found if molecule["split"] == split]
        reference = clean(case, split)
        assert len(own) == len(reference)
        assert_same(own, reference, frame)


@pytest.mark.parametrize("case", AS_THEY_ARE)
def test_no_flag_is_needed(case: str, tmp_path: Path) -> None:
    """The same molecules, and all of their grid points."""
    found = preprocess(tmp_path, files_of(case))
    assert_all_same(found, "clean")
    if case != "seed-same-frame":  # which was cut to the points that all molecules have
        for split in ("train", "valid"):
            counts = {m["row"]: len(m["esp"]) for m in found if m["split"] == split}
            assert counts == {m["row"]: len(m["esp"]) for m in clean("clean", split)}


def test_one_file_with_everything(tmp_path: Path) -> None:
    """Of the PySCF evaluator: atomic units without a record, Z and N for all frames, no splits."""
    settings = {"data": (str(FORMATS / "evaluated" / "train.npz"),)}
    found, flags = preprocess_as_told(tmp_path, settings)
    assert flags == {"energy_unit": "hartree", "force_unit": "hartree/bohr", "grid_unit": "bohr"}
    reference = clean("clean-evaluated", "train")
    assert len(found) == len(reference)
    assert_same(found, reference)


@pytest.mark.parametrize("case", ["seed-other-frame", "seed-cube", "seed-cube-origin"])
def test_another_frame_is_named_and_mended(case: str, tmp_path: Path) -> None:
    """By the origins that the file keeps, else by what the data ask for."""
    found, flags = preprocess_as_told(tmp_path, files_of(case))
    assert flags == {"grid_frame": "cube" if case == "seed-cube-origin" else "fit"}
    if case == "seed-other-frame":
        assert_all_same(found, "clean", frame=1e-3)
        return
    errors = []
    for split in ("train", "valid"):
        efd = dict(np.load(FORMATS / "seed-cube-origin" / f"{EFD}_{split}.npz"))
        esp = dict(np.load(FORMATS / "seed-cube-origin" / f"{ESP}_{split}.npz"))
        esp["vdw_surface"] = esp["vdw_surface"] + esp["grid_origin"][:, None] * units.BOHR_IN_ANGSTROM
        esp["n_grid"] = np.full(len(esp["esp"]), esp["esp"].shape[1])
        reference = read_clean(efd, esp)
        for molecule in (m for m in found if m["split"] == split):
            assert_same_grid(molecule, reference[molecule["row"]], 1e-5 if flags["grid_frame"] == "cube" else 0.06)
            moved = molecule["grid"] - reference[molecule["row"]]["grid"]
            errors.append(float(np.linalg.norm(moved.mean(axis=0))))
    assert np.median(errors) < (1e-5 if flags["grid_frame"] == "cube" else 0.02)


def test_what_was_understood_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys, units and where they come from, padding, members left alone: printed, and in the manifest."""
    preprocess(tmp_path, files_of("today"))
    said = capsys.readouterr().out
    for line in (
        r"dipole +Dxyz +e-angstrom +record",
        r"grid +vdw_surface +angstrom +record",
        r"train: 5,233 grid points; padding: 24,767 at 1e\+05 or beyond",
        r"left alone: vdw_grid \(another grid, vdw_surface is taken\)",
    ):
        assert re.search(line, said), said
    cache_dir = tmp_path / "cache"
    manifest = read_manifest(stage_folder(cache_dir, "frames", current_stages(cache_dir)["frames"]))
    assert manifest is not None
    entry = manifest["files"][0]
    assert entry["quantities"]["dipole"] == {"key": "Dxyz", "unit": "e-angstrom", "from": "record"}
    assert entry["points"]["sentinel"] == 24767
    assert entry["left_alone"]["grids_esp_train.npz"]["vdw_grid"].startswith("another grid")


def test_pickled_members_are_named_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They stand beside what is needed, and nobody needs them."""
    preprocess(tmp_path, files_of("molpro-metadata"))
    assert "left alone: metadata (pickled objects, never loaded)" in capsys.readouterr().out


def rewritten(tmp_path: Path, case: str, name: str, /, **changes: Any) -> dict[str, Any]:
    """A case with members of both splits' files of one kind changed (None: left out); settings that name it."""
    for split in ("train", "valid"):
        for stem in (EFD, ESP):
            source = dict(np.load(FORMATS / case / f"{stem}_{split}.npz", allow_pickle=False))
            if stem == name:
                made = {key: change(source) if callable(change) else change for key, change in changes.items()}
                source |= made
                source = {key: values for key, values in source.items() if values is not None}
            (tmp_path / case).mkdir(exist_ok=True)
            np.savez(tmp_path / case / f"{stem}_{split}.npz", **source)
    return files_of(case, tmp_path)


RECORD = {"R": "angstrom", "E": "ev", "F": "ev_angstrom", "Dxyz": "e_angstrom", "esp": "hartree_per_e"}
CONTRADICTIONS = {
    "a record that says Debye of e·Å": (
        "today",
        EFD,
        {"_mmml_units": np.str_(json.dumps({**RECORD, "Dxyz": "debye"}))},
        {"dipole_unit": "e-angstrom"},
    ),
    "a record that says eV of Hartree": (
        "today-hartree",
        EFD,
        {"_mmml_units": np.str_(json.dumps({"E": "ev", "F": "ev/A", "Dxyz": "debye"}))},
        {"energy_unit": "hartree", "force_unit": "hartree/bohr"},
    ),
    "a record that says Å of Bohr": (
        "today-hartree",
        ESP,
        {"_mmml_units": np.str_(json.dumps({"vdw_surface": "angstrom", "R": "angstrom"}))},
        {"grid_unit": "bohr"},
    ),
    "no record of e·Å": ("today", EFD, {"_mmml_units": None}, {"dipole_unit": "e-angstrom"}),
    "potentials taken for kcal/mol": (
        "clean",
        ESP,
        {"_mmml_units": np.str_(json.dumps({"esp": "kcal_mol_e", "vdw_surface": "angstrom", "R": "angstrom"}))},
        {"esp_unit": "hartree/e"},
    ),
    "potentials in volt": (
        "clean",
        ESP,
        {"esp": lambda esp: esp["esp"] * units.HARTREE_IN_EV},
        {"esp_unit": "ev/e"},
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_stop_and_name_the_flag(case: str, tmp_path: Path) -> None:
    """With the flags that were named, the molecules are those of the clean files."""
    name, stem, changes, expected = CONTRADICTIONS[case]
    settings = rewritten(tmp_path, name, stem, **changes)
    found, flags = preprocess_as_told(tmp_path, settings)
    assert flags == expected
    assert_all_same(found, "clean")


def test_contradictions_can_be_gone_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--checks warn`` says the same and goes on."""
    settings = rewritten(tmp_path, "today", EFD, _mmml_units=None)
    support.run_preprocess(settings, tmp_path / "cache", checks="warn")
    assert "--dipole-unit e-angstrom" in capsys.readouterr().out
    assert len(read_shards(tmp_path / "cache")) == 14
    # What was gone over is not forgotten.
    with pytest.raises(UserError, match=r"contradict themselves \(dipole-unit\)"):
        support.run_preprocess(settings, tmp_path / "cache", checks="stop")


def test_a_record_beside_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``units_manifest.json``, flat or by file; an unknown unit is one line that lists the known ones."""
    settings = rewritten(tmp_path, "today", EFD, _mmml_units=None)
    manifest = tmp_path / "today" / "units_manifest.json"
    manifest.write_text(json.dumps(RECORD), encoding="utf-8")
    assert_all_same(preprocess(tmp_path, settings), "clean")
    assert re.search(r"dipole +Dxyz +e-angstrom +.*units_manifest.json", capsys.readouterr().out)
    names = [Path(settings[f"{split}_efd"][0]).name for split in ("train", "valid")]
    manifest.write_text(json.dumps({"files": dict.fromkeys(names, RECORD)}), encoding="utf-8")
    support.run_preprocess(settings, tmp_path / "by-file", checks="stop")
    assert_all_same(read_shards(tmp_path / "by-file"), "clean")
    manifest.write_text(json.dumps({**RECORD, "E": "furlong"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"units_manifest.json.*'E'.*'furlong'.*ev, hartree, kcal/mol, kj/mol"):
        preprocess(tmp_path, settings)


def test_a_flag_beats_the_record_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its spelling."""
    settings = rewritten(tmp_path, "today", EFD, _mmml_units=np.str_(json.dumps({**RECORD, "Dxyz": "debye"})))
    assert_all_same(preprocess(tmp_path, settings, dipole_unit="e_Angstrom"), "clean")
    assert "settings (the record says debye)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--dipole-unit furlong.*debye, e-angstrom, au"):
        preprocess(tmp_path, settings, dipole_unit="furlong")


def widened(values: np.ndarray) -> np.ndarray:
    """Thirty more atoms of padding."""
    return np.pad(values, [(0, 0), (0, 30)] + [(0, 0)] * (values.ndim - 2))


SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "big-endian": (EFD, {"R": lambda f: f["R"].astype(">f8"), "Z": lambda f: f["Z"].astype(">i8")}),
    "Fortran order": (ESP, {"vdw_surface": lambda f: np.asfortranarray(f["vdw_surface"])}),
    "E of one column": (EFD, {"E": lambda f: f["E"][:, None], "N": lambda f: f["N"][:, None]}),
    "esp of one column": (ESP, {"esp": lambda f: f["esp"][..., None], "n_grid": lambda f: f["n_grid"][:, None]}),
    "N counted from Z": (EFD, {"N": None}),
    "dipole": (EFD, {"Dxyz": None, "dipole": lambda f: f["Dxyz"]}),
    "D, and its length": (EFD, {"D": lambda f: np.linalg.norm(f["Dxyz"], axis=1)}),
    "vdw_grid": (ESP, {"vdw_surface": None, "vdw_grid": lambda f: f["vdw_surface"]}),
    "names as numbers": (EFD, {"name": lambda f: np.arange(len(f["E"]))}),
    "one name for all": (EFD, {"name": np.array("CO2")}),
    "D, and pickled Dxyz": (EFD, {"D": lambda f: f["Dxyz"], "Dxyz": lambda f: f["Dxyz"].astype(object)}),
    "Q of one column": (EFD, {"Q": lambda f: np.zeros((len(f["E"]), 1))}),
    "Q as atomic charges": (EFD, {"Q": lambda f: 0.3 * np.ones(f["Z"].shape)}),
    "Q as atomic charges, wider than R": (EFD, {"Q": lambda f: 0.3 * np.ones((len(f["E"]), 60))}),
    "Q as charges that are none": (EFD, {"Q": lambda f: 0.3 * np.ones(len(f["E"]))}),
    "Q as six numbers": (EFD, {"Q": lambda f: np.ones((len(f["E"]), 6))}),
    "wide": (EFD, {key: lambda f, key=key: widened(f[key]) for key in ("R", "Z", "F")}),
    "a mask, its points scattered": (ESP, {"n_grid": None}),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_spellings(case: str, tmp_path: Path) -> None:
    """Names, shapes, byte orders and dtypes that are met."""
    stem, changes = SPELLINGS[case]
    settings = rewritten(tmp_path, "clean", stem, **changes)
    if case.startswith("a mask"):
        for split in ("train", "valid"):
            scatter(Path(settings[f"{split}_esp"][0]), clean("clean", split))
    assert_all_same(preprocess(tmp_path, settings), "clean")


def scatter(path: Path, molecules: list[Molecule]) -> None:
    """Mix the real points of an ESP file with others that a mask leaves out."""
    arrays = dict(np.load(path))
    rng = np.random.default_rng(0)
    mask = np.arange(arrays["esp"].shape[1]) < np.array([len(m["esp"]) for m in molecules])[:, None]
    for row in range(len(mask)):
        order = rng.permutation(mask.shape[1])
        for key in ("esp", "vdw_surface"):
            arrays[key][row] = arrays[key][row][order]
        mask[row] = mask[row][order]
    np.savez(path, **arrays, espMask=mask)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "D as a length": ({"Dxyz": None, "D": lambda f: np.linalg.norm(f["Dxyz"], axis=1)}, "'D' .*the dipole's length"),
    "D as a length in a column": (
        {"Dxyz": None, "D": lambda f: np.linalg.norm(f["Dxyz"], axis=1)[:, None]},
        "'D' .*the dipole's length",
    ),
    "Q as text": (
        {"Q": lambda f: np.full(len(f["E"]), "0")},
        r"'Q' is of shape \(\d+,\) and dtype <U1, expected .*numbers",
    ),
    "Q of no molecule": ({"Q": np.zeros(3)}, r"'Q' is of shape \(3,\) and dtype float64, expected"),
    "D of single atoms": ({"Dxyz": None, "D": lambda f: f["F"]}, "'D' .*dipoles of single atoms"),
    "E as objects": ({"E": lambda f: f["E"].astype(object)}, "'E' is a pickled object array, .*as numbers"),
    "E as float16": ({"E": lambda f: (f["E"] / 100).astype(np.float16)}, "energy-resolution"),
    "E as whole numbers": ({"E": lambda f: f["E"].astype(np.int64)}, "energy-resolution"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    """One line: file, key, reason."""
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        preprocess(tmp_path, rewritten(tmp_path, "clean", EFD, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["dtype", "values"])
def test_the_resolution_of_energies_is_a_finding(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """float32 at thousands of eV, by its dtype or in float64: steps of half a meV."""
    narrow = {"dtype": np.float32, "values": np.float64}[how]
    settings = rewritten(tmp_path, "clean", EFD, E=lambda f: f["E"].astype(np.float32).astype(narrow))
    preprocess(tmp_path, settings)
    assert re.search(r"warning \[energy-resolution\].*(0\.488|0\.977) meV", capsys.readouterr().out)


@pytest.mark.parametrize("absent", ["F", "Dxyz", "both files' grids"])
def test_frames_may_lack_a_quantity(absent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is NaN in the shards, or no grid points, and it is said."""
    if absent in ("F", "Dxyz"):
        found = preprocess(tmp_path, rewritten(tmp_path, "clean", EFD, **{absent: None}))
        name = {"F": "forces", "Dxyz": "dipole"}[absent]
        assert all(np.isnan(molecule[name]).all() for molecule in found)
        assert re.search(rf"{name} +- +not in the file", capsys.readouterr().out)
        reference = clean("clean", "train")
        for molecule in (m for m in found if m["split"] == "train"):
            molecule[name] = reference[molecule["row"]][name]
            assert_same([molecule], reference)
        return
    settings = {**files_of("clean"), "train_esp": (), "valid_esp": ()}
    found = preprocess(tmp_path, settings)
    assert all(len(molecule["esp"]) == 0 for molecule in found)
    assert "no ESP" in capsys.readouterr().out


def test_rows_without_an_esp_keep_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All zeros, or no points: energies and forces stay."""

    def zeros(esp: dict[str, np.ndarray]) -> np.ndarray:
        return np.where(np.arange(len(esp["esp"]))[:, None] == 1, 0.0, esp["esp"])

    def none(esp: dict[str, np.ndarray]) -> np.ndarray:
        return np.where(np.arange(len(esp["esp"])) == 2, 0, esp["n_grid"])

    found = preprocess(tmp_path, rewritten(tmp_path, "clean", ESP, esp=zeros, n_grid=none))
    assert {m["row"] for m in found if not len(m["esp"])} == {1, 2}
    reference = clean("clean", "train")
    for molecule in (m for m in found if m["split"] == "train"):
        assert abs(molecule["energy"] - reference[molecule["row"]]["energy"]) < 1e-3
    assert_same([m for m in found if m["split"] == "train" and len(m["esp"])], reference)
    said = capsys.readouterr().out
    assert "2 of 10 frames have no ESP, 1 of them with 0 at all points" in said
    counted = dict(np.load(tmp_path / "clean" / f"{ESP}_train.npz"))
    padding = counted["esp"].size - counted["n_grid"].sum()
    assert f"padding: {padding:,} by n_grid" in said


def test_one_geometry_with_two_charges_is_no_match(tmp_path: Path) -> None:
    """A shorter ESP file cannot say which of both it is of."""
    settings = files_of("clean")
    efd, esp = (dict(np.load(settings[f"train_{kind}"][0])) for kind in ("efd", "esp"))
    efd = {key: np.concatenate([values, values[:1]]) for key, values in efd.items()}
    np.savez(tmp_path / "efd.npz", **efd, Q=np.arange(len(efd["E"])) // 10.0)
    np.savez(tmp_path / "esp.npz", **{key: values[:8] for key, values in esp.items()})
    changed = {"train_efd": (str(tmp_path / "efd.npz"),), "train_esp": (str(tmp_path / "esp.npz"),)}
    with pytest.raises(UserError, match=r"rows 0 and 10 have one geometry and the total charges 0 and 1"):
        preprocess(tmp_path, {**settings, **changed})


@pytest.mark.parametrize("order", [[0, 2, 3, 6], [6, 3, 0, 2]])
def test_more_energies_than_potentials(order: list[int], tmp_path: Path) -> None:
    """The ESP's molecules are found by their geometry, the rest have none."""
    settings = files_of("clean")
    arrays = dict(np.load(settings["train_esp"][0]))
    path = tmp_path / "some.npz"
    np.savez(path, **{key: values[order] for key, values in arrays.items()})
    found = [m for m in preprocess(tmp_path, {**settings, "train_esp": (str(path),)}) if m["split"] == "train"]
    assert {m["row"] for m in found if len(m["esp"])} == set(order)
    assert len(found) == 10
    assert_same([m for m in found if len(m["esp"])], clean("clean", "train"))


def test_a_bad_value_is_named_with_its_row_in_its_own_file(tmp_path: Path) -> None:
    """Where the files hold different rows, that of the ESP file."""
    settings = files_of("clean")
    arrays = {key: values[[6, 3, 0]] for key, values in np.load(settings["train_esp"][0]).items()}
    arrays["esp"][2, 5] = np.nan
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(UserError, match=r"some.npz: 'esp' is nan in row 2 \(index \(2, 5\)\)"):
        preprocess(tmp_path, {**settings, "train_esp": (str(tmp_path / "some.npz"),)})


def test_an_esp_file_without_geometries_has_to_belong(tmp_path: Path) -> None:
    """Rows are paired by number; rows of other molecules are found by physics."""
    settings = rewritten(
        tmp_path, "molpro-bare", ESP, esp=lambda f: f["esp"][::-1], vdw_surface=lambda f: f["vdw_surface"][::-1]
    )
    with pytest.raises(UserError, match=r"grid-frame|esp-pairing"):
        preprocess(tmp_path, settings)


@pytest.mark.parametrize("case", ["today", "molpro-bare"])
def test_points_that_are_counted_but_nowhere_are_a_finding(case: str, tmp_path: Path) -> None:
    """``n_grid`` that counts the fill value 1e6, or zeros."""
    settings = rewritten(tmp_path, case, ESP, n_grid=lambda f: np.full(len(f["esp"]), f["esp"].shape[1]))
    with pytest.raises(UserError, match=r"grid-padding.*leave n_grid out"):
        preprocess(tmp_path, settings)


@pytest.mark.parametrize("kind", kinds.PAIRS)
def test_carbon_dioxide_of_each_kind(kind: str, tmp_path: Path) -> None:
    """A molecule without a dipole, so that less can be told: the same molecules, with no flag or the one named."""
    settings: dict[str, Any] = {}
    reference = {}
    for split, count in (("train", 24), ("valid", 8)):
        efd, esp = support.read_sample("co2", split, np.arange(count))
        names = kinds.write_kind(kind, tmp_path, split, efd, esp)
        settings |= {f"{split}_efd": names[:1], f"{split}_esp": names[1:]}
        reference[split] = read_clean(efd, esp)
    found, flags = preprocess_as_told(tmp_path, settings)
    assert flags == ({"grid_frame": "fit"} if kind == "seed-other-frame" else {})
    for split, molecules in reference.items():
        own = [molecule for molecule in found if molecule["split"] == split]
        assert len(own) == len(molecules)
        assert_same(own, molecules, frame=1e-3 if flags else 1e-5)
        if not kind.startswith("seed"):
            assert {m["row"]: len(m["esp"]) for m in own} == {m["row"]: len(m["esp"]) for m in molecules}


def test_carbon_dioxide_in_one_file(tmp_path: Path) -> None:
    """In atomic units, and nothing says so."""
    efd, esp = support.read_sample("co2", "train", np.arange(30))
    np.savez_compressed(tmp_path / "evaluated.npz", **kinds.evaluated(efd, esp))
    found, flags = preprocess_as_told(tmp_path, {"data": (str(tmp_path / "evaluated.npz"),)})
    assert flags == {"energy_unit": "hartree", "force_unit": "hartree/bohr", "grid_unit": "bohr"}
    assert len(found) == 30
    assert_same(found, read_clean(efd, esp))

"""What stands in the shards, against the input files read and converted independently."""

from __future__ import annotations

import copy
import functools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import scipy.linalg

from preprocess import check_data
from preprocess.input.survey import Composition, Moments
from preprocess.stages.reference_energies import fit_reference_energies
from shared.elements import centers_of_mass
from shared.errors import UserError
from shared.schema import EDGE_ARRAYS, FRAME_ARRAYS, NAME_ARRAY, SPLITS
from tests import support
from train.data.dataset import BucketArrays, Cache, open_cache

Files = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
DEBYE, BOHR, HARTREE = 0.20819434, 0.529177211, 27.2113860

# The mixed sample is grouped by molecule: these rows are nine different ones of 2 to 9 atoms.
MIXED_ROWS = np.arange(0, 300, 37)


@functools.cache
def stored_sample() -> Files:
    """Read once."""
    return support.read_sample("mixed", "train", MIXED_ROWS)


def sample() -> Files:
    """Mixed molecules of several sizes with all that the format holds; charges that are not all zero."""
    efd, esp = copy.deepcopy(stored_sample())
    efd["Q"] = np.arange(len(MIXED_ROWS)) % 3 - 1.0
    return efd, esp


def settings_for(folder: Path, train: Files | list[Files], valid: Files | None = None) -> dict[str, tuple[str, ...]]:
    """Write files of training (one or several) and validation, and name them."""
    parts = [train] if isinstance(train, tuple) else train
    pairs = [support.write_pair(folder, f"t{i}", *files) for i, files in enumerate(parts)]
    valid_pair = support.write_pair(folder, "v", *(valid or sample()))
    return {
        "train_efd": tuple(str(efd) for efd, _ in pairs),
        "train_esp": tuple(str(esp) for _, esp in pairs),
        "valid_efd": (str(valid_pair[0]),),
        "valid_esp": (str(valid_pair[1]),),
    }


def molecules(cache: Cache, split: Any) -> dict[int, dict[str, np.ndarray]]:
    """Every molecule of a split by its row; checks that no row is found twice."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for bucket in cache.load_split(split):
        for i in range(len(bucket)):
            row = int(bucket.column("row")[i])
            assert row not in found
            found[row] = {name: np.asarray(values[i]) for name, values in whole(bucket).items()}
    return found


def whole(bucket: BucketArrays) -> dict[str, np.ndarray]:
    """Every array of a bucket."""
    return {name: bucket.column(name) for name in bucket.shards[0]}


def unpadded(cache: Cache, split: Any = "train") -> dict[int, dict[str, np.ndarray]]:
    """The same without padding, so that caches with other buckets can be compared."""
    result = {}
    for row, m in molecules(cache, split).items():
        n, points = int((m["atomic_numbers"] > 0).sum()), int(m["n_grid"])
        cut = {"atomic_numbers": n, "positions": n, "forces": n, "grid": points, "esp": points}
        for network in ("physnet", "dcmnet"):
            cut |= dict.fromkeys((f"{network}_dst", f"{network}_src"), int(m[f"{network}_n_edges"]))
        result[row] = {name: values[: cut[name]] if name in cut else values for name, values in m.items()}
    return result


def build(folder: Path, train: Files | list[Files], valid: Files | None = None, **changes: Any) -> Cache:
    """Preprocess these arrays into a cache of their own, with one bucket unless told otherwise (fewer files)."""
    changes = {"max_buckets": 1, **changes}
    support.run_preprocess(settings_for(folder / "in", train, valid), folder / "cache", **changes)
    return open_cache(folder / "cache", changes.get("physnet_cutoff", 6.0), changes.get("dcmnet_cutoff", 10.0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """The sample above, preprocessed as it is."""
    return unpadded(build(tmp_path_factory.mktemp("plain"), sample(), max_buckets=3))


def assert_same(
    ours: dict[int, dict[str, np.ndarray]],
    theirs: dict[int, dict[str, np.ndarray]],
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Same molecules with the same arrays; exactly, unless a tolerance is given."""
    assert set(ours) == set(theirs)
    for row, molecule in theirs.items():
        assert set(ours[row]) == set(molecule)
        for name, values in molecule.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(ours[row][name], values, rtol=rtol, atol=atol, err_msg=f"{name} {row}")
            else:
                np.testing.assert_array_equal(ours[row][name], values, err_msg=f"{name} {row}")


def test_every_molecule_is_found_once_with_its_arrays(tmp_path: Path) -> None:
    """All splits, several files each: positions and grid minus ASE's centre of mass, energies minus the references."""
    settings = support.write_splits(tmp_path / "in", train=12, valid=6)
    support.run_preprocess(settings, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache", 6.0, 10.0)
    assert len(cache.bucket_shapes) > 1
    reference = cache.reference_energies_ev
    for split in SPLITS:
        found = molecules(cache, split)
        row = 0
        for efd_file, esp_file in zip(settings[f"{split}_efd"], settings[f"{split}_esp"], strict=True):
            efd, esp = np.load(efd_file), np.load(esp_file)
            for i, n in enumerate(efd["N"]):
                molecule = found.pop(row)
                row += 1
                atoms = ase.Atoms(efd["Z"][i, :n], efd["R"][i, :n])
                center = atoms.get_center_of_mass()
                expected = {
                    "atomic_numbers": atoms.numbers,
                    "positions": atoms.positions - center,
                    "forces": efd["F"][i, :n],
                    "grid": esp["vdw_surface"][i, : esp["n_grid"][i]] - center,
                    "esp": esp["esp"][i, : esp["n_grid"][i]],
                }
                for name, values in expected.items():
                    real = molecule[name][: len(values)]
                    np.testing.assert_allclose(real, values, rtol=1e-6, atol=1e-6, err_msg=f"{split} {row} {name}")
                    assert not molecule[name][len(values) :].any()
                assert molecule["n_grid"] == esp["n_grid"][i]
                total = float(molecule["energy"]) + sum(reference[z] for z in atoms.numbers)
                assert total == pytest.approx(efd["E"][i], abs=1e-5)
                np.testing.assert_allclose(molecule["dipole"], efd["Dxyz"][i] * DEBYE, rtol=1e-6, atol=1e-9)
                assert molecule["total_charge"] == 0
                assert molecule[NAME_ARRAY].item().decode() == efd["name"][i]
        assert not found


def test_shards_have_the_documented_shapes_and_dtypes(small_cache: Path) -> None:
    """Each array as the schema says, at the size of its bucket; padded edges point from the last atom to itself."""
    cache = open_cache(small_cache, 6.0, 10.0)
    for split in SPLITS:
        for bucket in cache.load_split(split):
            sizes = bucket.shape.sizes()
            for name, spec in {**FRAME_ARRAYS, **EDGE_ARRAYS}.items():
                array = bucket.column(name)
                assert array.shape == (len(bucket), *(sizes[axis] for axis in spec.axes))
                assert array.dtype == spec.dtype
            for network in ("physnet", "dcmnet"):
                for i, n in enumerate(bucket.column(f"{network}_n_edges")):
                    for end in ("dst", "src"):
                        assert (bucket.column(f"{network}_{end}")[i, n:] == sizes["atoms"] - 1).all()


def test_each_network_has_edges_of_its_own_cutoff(tmp_path: Path) -> None:
    """PhysNet's and DCMNet's lists hold every pair within their cutoffs, and differ."""
    cache = build(tmp_path, sample(), physnet_cutoff=1.3, dcmnet_cutoff=2.5)
    more = 0
    for molecule in unpadded(cache).values():
        r = molecule["positions"].astype(float)
        distance = np.linalg.norm(r[:, None] - r[None], axis=-1) + 1e9 * np.eye(len(r))
        for network, cutoff in (("physnet", 1.3), ("dcmnet", 2.5)):
            dst, src = np.nonzero(distance < cutoff)
            np.testing.assert_array_equal(molecule[f"{network}_dst"], dst)
            np.testing.assert_array_equal(molecule[f"{network}_src"], src)
        more += len(molecule["dcmnet_dst"]) - len(molecule["physnet_dst"])
    assert more > 0


def repad(files: Files, efd_width: int, esp_width: int, grid_width: int, poison: float) -> Files:
    """The same molecules in wider arrays, with ``poison`` in the padding of all floating-point arrays."""
    result = []
    for arrays, width in zip(files, (efd_width, esp_width), strict=True):
        wide = dict(arrays)
        real = np.arange(width) < arrays["N"][:, None]
        for key in ("R", "F", "Z"):
            if key in arrays:
                missing = [(0, 0), (0, width - arrays[key].shape[1])] + [(0, 0)] * (arrays[key].ndim - 2)
                wide[key] = np.pad(arrays[key], missing)
                if key != "Z":
                    wide[key][~real] = poison
        result.append(wide)
    esp = result[1]
    points = np.arange(grid_width) < esp["n_grid"][:, None]
    for key in ("esp", "vdw_surface"):
        missing = [(0, 0), (0, grid_width - esp[key].shape[1])] + [(0, 0)] * (esp[key].ndim - 2)
        esp[key] = np.pad(esp[key], missing)
        esp[key][~points] = poison
    return result[0], esp


@pytest.mark.parametrize(
    ("efd_width", "esp_width", "poison"),
    [(60, 60, 0.0), (60, 60, np.nan), (60, 60, 1e30), (60, 9, np.nan), (9, 60, 0.0)],
)
def test_padding_of_the_input_does_not_matter(
    plain: dict[int, dict[str, np.ndarray]], tmp_path: Path, efd_width: int, esp_width: int, poison: float
) -> None:
    """Sixty atoms for at most nine, in both files or in one, whatever stands there; the buckets are no larger."""
    cache = build(tmp_path, repad(sample(), efd_width, esp_width, 900, poison))
    assert_same(unpadded(cache), plain)
    assert max(shape.frame.atoms for shape in cache.bucket_shapes) == int(sample()[0]["N"].max())
    for bucket in cache.load_split("train"):
        for name in ("positions", "forces", "grid", "esp", "energy", "dipole"):
            assert np.isfinite(bucket.column(name)).all()


def as_type(files: Files, floats: str, integers: str) -> Files:
    """All numbers stored in these types, where they fit (grids of more than 127 points need 16 bits)."""
    return tuple(
        {
            key: values.astype(floats)
            if values.dtype.kind == "f"
            else values.astype("int16" if key == "n_grid" and integers == "int8" else integers)
            if values.dtype.kind == "i"
            else values
            for key, values in arrays.items()
        }
        for arrays in files
    )  # type: ignore[return-value]


@pytest.mark.parametrize("integers", ["int8", "int16", "int64", "uint8"])
def test_stored_types_do_not_matter(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path, integers: str) -> None:
    """Integers of 8 to 64 bits and floats widened to 64 bits give the same shards."""
    if integers == "uint8":
        files = sample()
        for arrays in files:
            arrays["Z"], arrays["N"] = arrays["Z"].astype("uint8"), arrays["N"].astype("uint8")
    else:
        files = as_type(sample(), "float64", integers)
    assert_same(unpadded(build(tmp_path, files)), plain)


def test_float32_energies_are_taken_as_they_are(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """float32 all through: the same but for the rounding of the energies themselves (5e-4 eV at -5,000 eV)."""
    ours = unpadded(build(tmp_path, as_type(sample(), "float32", "int32"), as_type(sample(), "float32", "int32")))
    resolution = float(np.abs(sample()[0]["E"]).max()) * 2.0**-23
    for row, molecule in plain.items():
        np.testing.assert_allclose(ours[row].pop("energy"), molecule["energy"], atol=20 * resolution)
        assert_same({0: ours[row]}, {0: {k: v for k, v in molecule.items() if k != "energy"}})


def test_columns_are_taken_for_vectors(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """(n, 1) for N, E, Q, name and n_grid."""
    files = sample()
    for arrays in files:
        for key in ("N", "E", "Q", "name", "n_grid"):
            if key in arrays:
                arrays[key] = arrays[key][:, None]
    assert_same(unpadded(build(tmp_path, files)), plain)


def test_d_is_taken_for_dxyz_but_yields_to_it(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """D alone is the dipole; where both stand, Dxyz is."""
    efd, esp = sample()
    efd["D"] = efd["Dxyz"]
    both = ({**efd, "D": np.zeros_like(efd["D"])}, esp)
    assert_same(unpadded(build(tmp_path / "both", both)), plain)
    del efd["Dxyz"]
    assert_same(unpadded(build(tmp_path / "alone", (efd, esp))), plain)


def test_what_is_optional_may_be_absent(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Without Q the charges are zero; without name, names are empty; without n_grid the zeros behind are padding."""
    efd, esp = sample()
    del efd["Q"], efd["name"], esp["n_grid"]
    ours = unpadded(build(tmp_path, (efd, esp)))
    assert [plain[row]["total_charge"].item() for row in sorted(plain)] == [i % 3 - 1 for i in range(len(plain))]
    for row, molecule in ours.items():
        assert molecule["total_charge"] == 0
        assert molecule[NAME_ARRAY].item() == b""
        assert molecule["n_grid"] == plain[row]["n_grid"]
        np.testing.assert_array_equal(molecule["esp"], plain[row]["esp"])
        np.testing.assert_array_equal(molecule["positions"], plain[row]["positions"])


UNITS: dict[str, tuple[str, str, float, str]] = {
    "grid in Bohr": ("grid_unit", "bohr", 1 / BOHR, "vdw_surface"),
    "energy in Hartree": ("energy_unit", "hartree", 1 / HARTREE, "E"),
    "energy in kcal/mol": ("energy_unit", "kcal/mol", 1 / 0.0433641043, "E"),
    "forces in Hartree/Bohr": ("force_unit", "hartree/bohr", BOHR / HARTREE, "F"),
    "forces in kcal/mol/Å": ("force_unit", "kcal/mol/angstrom", 1 / 0.0433641043, "F"),
    "dipole in e·Å": ("dipole_unit", "e-angstrom", DEBYE, "Dxyz"),
    "dipole in atomic units": ("dipole_unit", "au", DEBYE / BOHR, "Dxyz"),
    "ESP in volt": ("esp_unit", "ev/e", HARTREE, "esp"),
    "ESP in kcal/mol/e": ("esp_unit", "kcal/mol/e", HARTREE / 0.0433641043, "esp"),
    "positions in Bohr": ("position_unit", "bohr", 1 / BOHR, "R"),
}


@pytest.mark.parametrize("case", UNITS)
def test_other_units_give_the_same_shards(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path, case: str) -> None:
    """The same molecules written in another unit."""
    option, unit, factor, key = UNITS[case]
    files = sample()
    for arrays in files:
        if key in arrays:
            arrays[key] = arrays[key].astype(float) * factor
    ours = unpadded(build(tmp_path, files, files, **{option: unit}))
    # Energies carry the constants' ninth digit times some 10,000 eV.
    assert_same(ours, plain, rtol=1e-6, atol=2e-4 if key == "E" else 3e-6)


def test_wrong_units_do_change_the_shards(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """The options are not ignored: the same numbers declared to be in other units differ by the units' factors."""
    options = {"grid_unit": "bohr", "energy_unit": "hartree", "force_unit": "hartree/bohr", "dipole_unit": "au"}
    ours = unpadded(build(tmp_path, sample(), sample(), **options))
    efd, esp = sample()
    for row, molecule in ours.items():
        n, points = efd["N"][row], esp["n_grid"][row]
        center = ase.Atoms(efd["Z"][row, :n], efd["R"][row, :n]).get_center_of_mass()
        expected = esp["vdw_surface"][row, :points] * BOHR - center
        np.testing.assert_allclose(molecule["grid"], expected, atol=1e-5)
        np.testing.assert_allclose(molecule["energy"], plain[row]["energy"] * HARTREE, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(molecule["forces"], efd["F"][row, :n] * HARTREE / BOHR, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(molecule["dipole"], efd["Dxyz"][row] * BOHR, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(molecule["esp"], plain[row]["esp"])


def test_several_files_are_one_split_in_order(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Rows count through the files; files padded to other widths fit together."""
    whole = sample()
    parts: list[Files] = [
        tuple({k: v[rows] for k, v in arrays.items()} for arrays in whole)  # type: ignore[misc]
        for rows in (slice(0, 2), slice(2, 3), slice(3, None))
    ]
    parts[1] = repad(parts[1], 20, 12, 800, np.nan)
    assert_same(unpadded(build(tmp_path, parts)), plain)


def compositions(energy: np.ndarray, numbers: np.ndarray) -> dict[Composition, Moments]:
    """Energies gathered by composition, in two parts that are merged."""
    found: dict[Composition, Moments] = {}
    for value, row in zip(energy, numbers, strict=True):
        key = tuple(sorted(Counter(int(z) for z in row if z).items()))
        found.setdefault(key, Moments()).merge(Moments.of(np.array([value])))
    return found


def test_reference_energies_are_the_least_squares_solution() -> None:
    """Against scipy on counts made by hand, with padding of every width."""
    rng = np.random.default_rng(0)
    true = {1: -13.6, 6: -1029.1, 8: -2041.3}
    lists = [[6, 8, 8], [8, 6, 8], [8, 1, 1], [6, 1, 1, 1, 1], [6, 8], [8, 8], [6, 8, 1, 1], [1, 1]]
    numbers = np.zeros((len(lists), 60), int)
    for row, z in enumerate(lists):
        numbers[row, : len(z)] = z
    energy = np.array([sum(true[z] for z in zs) for zs in lists]) + rng.normal(size=len(lists))
    counts = np.array([[zs.count(z) for z in true] for zs in lists], float)
    expected = scipy.linalg.lstsq(counts, energy)[0]
    fitted = fit_reference_energies(compositions(energy, numbers))
    assert list(fitted) == [1, 6, 8]
    np.testing.assert_allclose(list(fitted.values()), expected, rtol=1e-10)


def test_reference_energies_of_one_composition_have_least_norm() -> None:
    """CO2 alone: the solution of least norm still adds up to the mean energy."""
    fitted = fit_reference_energies(compositions(np.array([-5000.0, -5002.0]), np.array([[6, 8, 8, 0], [8, 6, 8, 0]])))
    assert fitted[6] + 2 * fitted[8] == pytest.approx(-5001.0)
    assert fitted[8] == pytest.approx(2 * fitted[6])


def test_references_come_from_the_training_split_alone(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Other validation energies leave the training energies as they were."""
    efd, esp = sample()
    ours = build(tmp_path, sample(), ({**efd, "E": efd["E"] + 100.0}, esp))
    assert_same(unpadded(ours), plain)
    for row, molecule in unpadded(ours, "valid").items():
        assert molecule["energy"] == pytest.approx(plain[row]["energy"] + 100.0, abs=1e-4)


def test_centers_of_mass_are_ases() -> None:
    """Molecules of different sizes with nonsense in the padding: padding never moves the centre."""
    efd, _ = sample()
    positions = efd["R"].astype(float)
    positions[np.arange(positions.shape[1]) >= efd["N"][:, None]] = np.nan
    centers = centers_of_mass(positions, efd["Z"])
    for row, n in enumerate(efd["N"]):
        expected = ase.Atoms(efd["Z"][row, :n], positions[row, :n]).get_center_of_mass()
        np.testing.assert_allclose(centers[row], expected, atol=1e-12)


def test_shards_are_centred_and_do_not_see_a_shift(plain: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Atoms and grid moved together, 50 Å away, give the same shards."""
    files = sample()
    for arrays in files:
        for key in ("R", "vdw_surface"):
            if key in arrays:
                arrays[key] = arrays[key].astype(float) + np.array([50.0, -20.0, 3.0])
    assert_same(unpadded(build(tmp_path, files)), plain, atol=2e-6)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file of the stages (surveys are not one)."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for stage in folder.glob("*-*")
        for path in stage.iterdir()
    }


def test_only_what_changed_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Second run, touched input, new cutoff, old cutoff again, other data and the first data again."""
    settings = settings_for(tmp_path / "in", sample())
    folder = tmp_path / "cache"
    support.run_preprocess(settings, folder)
    first = snapshot(folder)
    current = (folder / "current.json").read_bytes()
    assert Counter(name.split("-")[0] for name in first) == {"frames": len(first) // 2, "edges": len(first) // 2}

    capsys.readouterr()
    support.run_preprocess(settings, folder)
    assert "up to date" in capsys.readouterr().out
    assert snapshot(folder) == first

    Path(settings["train_efd"][0]).touch()
    support.run_preprocess(settings, folder)
    assert "up to date" in capsys.readouterr().out
    assert snapshot(folder) == first

    support.run_preprocess(settings, folder, physnet_cutoff=2.0)
    assert "frames unchanged, edges built" in capsys.readouterr().out
    second = snapshot(folder)
    assert {name: second[name] for name in first} == first
    assert {name.split("-")[0] for name in set(second) - set(first)} == {"edges"}

    support.run_preprocess(settings, folder)
    assert "up to date" in capsys.readouterr().out
    assert snapshot(folder) == second

    efd, esp = sample()
    other = settings_for(tmp_path / "other", ({**efd, "E": efd["E"] + np.arange(len(efd["E"]))}, esp))
    support.run_preprocess(other, folder)
    assert "frames built, edges built" in capsys.readouterr().out
    third = snapshot(folder)
    assert {name: third[name] for name in second} == second
    assert (folder / "current.json").read_bytes() != current

    support.run_preprocess(settings, folder)
    assert "up to date" in capsys.readouterr().out
    assert snapshot(folder) == third
    assert (folder / "current.json").read_bytes() == current


def test_force_rebuilds_the_same(tmp_path: Path) -> None:
    """Every file is new, every byte as before."""
    settings = settings_for(tmp_path / "in", sample())
    support.run_preprocess(settings, tmp_path / "cache")
    first = snapshot(tmp_path / "cache")
    support.run_preprocess(settings, tmp_path / "cache", force=True)
    second = snapshot(tmp_path / "cache")
    assert {name: content for name, (_, content) in first.items()} == {n: c for n, (_, c) in second.items()}
    assert all(second[name][0] > first[name][0] for name in first)


def test_a_changed_setting_of_the_frames_makes_new_frames(tmp_path: Path) -> None:
    """Units and bucket limits are part of the frames' identity."""
    settings = settings_for(tmp_path / "in", sample())
    changes: list[dict[str, Any]] = [{}, {"grid_unit": "bohr"}, {"dipole_unit": "au"}, {"max_buckets": 1}]
    for change in changes:
        support.run_preprocess(settings, tmp_path / "cache", **change)
    assert len(list((tmp_path / "cache").glob("frames-*"))) == len(changes)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, from copies of the files in another place, with one thread."""
    settings = settings_for(tmp_path / "in", sample())
    support.run_preprocess(settings, tmp_path / "a")
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    moved = {key: tuple(f.replace("/in/", "/copy/") for f in files) for key, files in settings.items()}
    assert moved != settings
    support.run_preprocess(moved, tmp_path / "b", workers=1)
    ours, theirs = ({name: content for name, (_, content) in snapshot(tmp_path / x).items()} for x in "ab")
    assert ours == theirs


@pytest.mark.parametrize("stored", ["compressed", "Fortran order"])
@pytest.mark.parametrize(("chunk_mib", "rows_of_a_chunk"), [(1e-6, 1), (0.05, 5), (32.0, 100)])
def test_chunks_and_storage_do_not_matter(
    plain: dict[int, dict[str, np.ndarray]], tmp_path: Path, stored: str, chunk_mib: float, rows_of_a_chunk: int
) -> None:
    """One molecule at a time or all at once, inflated or not: the same molecules, in order within each bucket."""
    settings = settings_for(tmp_path / "in", sample())
    for name in (settings["train_efd"][0], settings["train_esp"][0]):
        arrays = dict(np.load(name))
        if stored == "compressed":
            np.savez_compressed(name, **arrays)
        else:
            np.savez(name, **{key: np.asfortranarray(values) for key, values in arrays.items()})
    support.run_preprocess(settings, tmp_path / "cache", max_buckets=2, chunk_mib=chunk_mib)
    cache = open_cache(tmp_path / "cache", 6.0, 10.0)
    ours = unpadded(cache)
    assert_same(ours, plain, atol=1e-12)
    for bucket in cache.load_split("train"):
        chunks = {row // rows_of_a_chunk for row in bucket.column("row").tolist()}
        assert len(bucket.shards) == len(chunks)
        assert (np.diff(bucket.column("row")) > 0).all()
        rows = np.random.default_rng(0).permutation(len(bucket))
        for name in bucket.shards[0]:
            np.testing.assert_array_equal(bucket.take(name, rows), bucket.column(name)[rows])


def test_input_edited_in_place_is_found(tmp_path: Path) -> None:
    """A byte of the data changed behind the archive's back: its directory is as before, and yet it is noticed."""
    settings = settings_for(tmp_path / "in", sample())
    support.run_preprocess(settings, tmp_path / "cache")
    path = Path(settings["train_esp"][0])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"CRC-32 does not match.*copy or write it again"):
        support.run_preprocess(settings, tmp_path / "cache")


def test_report_counts_the_padding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shares of padding counted from the masks of the shards themselves."""
    support.run_preprocess(settings_for(tmp_path / "in", sample()), tmp_path / "cache", max_buckets=2)
    said = capsys.readouterr().out
    cache = open_cache(tmp_path / "cache", 6.0, 10.0)
    buckets = [bucket for split in ("train", "valid") for bucket in cache.load_split(split)]
    for label, array, real in (
        ("atoms", "atomic_numbers", lambda b: (b.column("atomic_numbers") > 0).sum()),
        ("grid points", "esp", lambda b: b.column("n_grid").sum()),
        ("PhysNet edges", "physnet_dst", lambda b: b.column("physnet_n_edges").sum()),
    ):
        padded = sum(bucket.column(array).size for bucket in buckets)
        waste = 1 - sum(real(bucket) for bucket in buckets) / padded
        assert f"{waste:.1%} of {label}" in said


def test_data_that_contradict_themselves_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A grid in Bohr taken for Å is told with the flag that mends it; --checks stop writes nothing."""
    efd, esp = support.read_sample("co2", "train", np.arange(60))
    bohr = {**esp, "vdw_surface": (esp["vdw_surface"] / BOHR).astype(np.float32)}
    valid, esp = support.read_sample("co2", "valid", np.arange(20))
    valid_bohr = {**esp, "vdw_surface": (esp["vdw_surface"] / BOHR).astype(np.float32)}
    settings = settings_for(tmp_path / "in", (efd, bohr), (valid, valid_bohr))
    compressed = Path(settings["train_esp"][0])
    np.savez_compressed(compressed, **dict(np.load(compressed)))
    with pytest.raises(UserError, match=r"contradict themselves.*grid-unit: --grid-unit bohr"):
        support.run_preprocess(settings, tmp_path / "cache", checks="stop")
    assert "--grid-unit bohr" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("frames-*"))
    support.run_preprocess(settings, tmp_path / "cache", checks="warn")
    said = capsys.readouterr().out
    assert "--grid-unit bohr" in said
    assert "1 errors, 0 warnings" in said.splitlines()[-1]
    support.run_preprocess(settings, tmp_path / "mended", checks="stop", grid_unit="bohr")
    assert "error" not in capsys.readouterr().out


def test_check_data_looks_at_every_molecule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bad molecule among many, that a sample would miss, with its row; the report is written."""
    efd, esp = support.read_sample("co2", "train", np.arange(60))
    efd["R"][41, 1] = efd["R"][41, 0] + 0.1
    esp["R"][41, 1] = efd["R"][41, 1]
    settings = settings_for(tmp_path / "in", (efd, esp), support.read_sample("co2", "valid", np.arange(20)))
    flags = [word for name, files in settings.items() for word in ("--" + name.replace("_", "-"), *files)]
    with pytest.raises(UserError, match="close-atoms"):
        check_data.main([*flags, "--cache-dir", str(tmp_path / "cache"), "--chunk-mib", "0.1"])
    said = capsys.readouterr().out
    assert "80 molecules" in said
    assert "row 41" in said
    assert (tmp_path / "cache" / "check-data.txt").read_text() in said
    check_data.main([*flags, "--cache-dir", str(tmp_path / "cache"), "--checks", "warn"])
    assert "error [close-atoms]" in capsys.readouterr().out


def test_rows_in_another_order_are_explained(tmp_path: Path) -> None:
    """The ESP file's rows are a permutation of the EFD file's."""
    efd, esp = support.read_sample("co2", "train", np.arange(30))
    order = np.random.default_rng(0).permutation(30)
    shuffled = {key: values[order] for key, values in esp.items()}
    with pytest.raises(UserError, match="same molecules in another order") as caught:
        build(tmp_path, (efd, shuffled))
    first = int(np.flatnonzero(order != np.arange(30))[0])
    assert f"row {first} of t0-efd.npz is row {np.flatnonzero(order == first)[0]} of" in str(caught.value)

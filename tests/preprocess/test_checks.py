"""Checks of the data: real data are found right, and each way of spoiling them is found and named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from preprocess.checks import measure_esp
from preprocess.checks.evidence import Evidence, Finding, merge
from preprocess.checks.measure import measure
from preprocess.checks.report import describe_findings
from preprocess.checks.rules import judge
from preprocess.input.pairs import GridFrame
from tests.preprocess.spoilt import (
    BOHR,
    DEBYE,
    FLAGS,
    GEOMETRIES,
    GRIDS,
    HARTREE,
    KCAL,
    POTENTIALS,
    RIGHT,
    TARGETS,
    Spoil,
    both,
    change,
    copies,
    findings,
    sample,
    take,
    turn,
)


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize("case", RIGHT)
def test_nothing_is_found_in_right_data(kind: str, case: str) -> None:
    """Nor in what cannot be decided."""
    assert findings(RIGHT[case](sample(kind))) == []


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize("case", [*GRIDS, *POTENTIALS, *GEOMETRIES])
def test_spoilt_grids_potentials_geometries(kind: str, case: str) -> None:
    """Each is found, and nothing else, in one frame of half of the mixed molecules and in 22 of CO2."""
    spoil, check, remedy = {**GRIDS, **POTENTIALS, **GEOMETRIES}[case]
    given = take(sample(kind), slice(None, None, {"co2": 3, "mixed": 6}[kind]))
    expect(findings(spoil(given)), check, remedy)


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize("case", TARGETS)
def test_spoilt_targets(kind: str, case: str) -> None:
    """Each is found, and nothing else; the ESP is left out, which has no part in it."""
    spoil, check, remedy = TARGETS[case]
    given = sample(kind)
    expect(findings(spoil(replace(given, n_grid=np.zeros_like(given.n_grid)))), check, remedy)


def test_energies_of_other_molecules() -> None:
    """Rows in another order: a sum over the atoms explains nothing, whatever the zero and the unit."""
    given = sample("mixed")
    shuffled = replace(given, energy=np.random.default_rng(0).permutation(given.energy))
    expect(findings(shuffled), "energy-rows", "in the rows of R")
    # 40 molecules are enough.
    expect(findings(take(shuffled, slice(40))), "energy-rows", "in the rows of R")


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize("count", [3, 7])
def test_few_molecules_tell_what_all_of_them_say(kind: str, count: int) -> None:
    """Units that differ by large factors show in three molecules; what needs statistics is not said of so few."""
    spoil = both(change("energy", lambda e: e / HARTREE), change("grid", lambda g: g / BOHR))
    found = findings(spoil(take(sample(kind), slice(count))))
    errors = {one.remedy for one in found if one.severity == "error"}
    assert errors == {"--energy-unit hartree", "--grid-unit bohr"}


def test_few_molecules_tell_the_unit_of_their_positions() -> None:
    """Although one of them is compressed, so that its bonds are usual ones in the wrong unit."""
    given = take(sample("co2"), slice(7))
    short = change("positions", lambda r: r * 0.75, [3])(given)
    without = replace(short, n_grid=np.where(np.arange(7) == 3, 0, short.n_grid))
    spoilt = change("positions", lambda r: r / BOHR)(without)
    assert [one.remedy for one in findings(spoilt)] == ["--position-unit bohr"]


def test_normalised_energies_of_single_frames() -> None:
    """No slope contradicts them: a warning. Energies less their mean are not taken for normalised where F fits."""
    single = take(sample("mixed"), np.unique(sample("mixed").atomic_numbers, axis=0, return_index=True)[1])
    (found,) = findings(change("energy", lambda e: (e - e.mean()) / e.std())(single))
    assert (found.check, found.severity) == ("energy-normalised", "warning")
    whole = sample("co2")
    spread = whole.energy.std()
    stretched = replace(whole, energy=(whole.energy - whole.energy.mean()) / spread, forces=whole.forces / spread)
    assert findings(stretched) == []


def test_forces_of_single_frames() -> None:
    """Their unit is said to be unchecked; forces that no bond withstands are a warning."""
    backwards = take(sample("mixed"), np.arange(114)[::-1])
    single = take(backwards, np.unique(backwards.atomic_numbers, axis=0, return_index=True)[1])
    assert findings(single) == []
    assert "the unit of F is not checked" in describe_findings([], measure(single))
    assert "not checked" not in describe_findings([], measure(sample("mixed")))
    (found,) = findings(change("forces", lambda f: f / KCAL)(single))
    assert (found.check, found.severity) == ("force-unit", "warning")
    assert "which no bond withstands" in found.what


@pytest.mark.parametrize("frame", ["cube", "centroid", "fit"])
def test_grids_that_were_moved_out_of_the_frame_of_r(frame: GridFrame) -> None:
    """They lay in it as they are in the file."""
    shift = np.random.default_rng(0).normal(size=(22, 3))
    given = take(sample("co2"), slice(None, None, 3))
    moved = replace(given, grid=given.grid + shift[:, None], grid_shift=shift)
    (found,) = findings(replace(moved, file=moved.file._replace(grid_frame=frame, has_origin=True)))
    assert (found.check, found.severity, found.remedy) == ("grid-frame", "error", "--grid-frame given")


def expect(found: list[Finding], check: str, remedy: str) -> None:
    """One finding with this remedy."""
    assert [one.check for one in found] == [check], found
    assert any(word in found[0].remedy for word in remedy.replace("\\", "").split("|")), found[0].remedy
    assert 0 < found[0].confidence <= 1
    assert found[0].rows


def test_energies_and_forces_in_atomic_units() -> None:
    """Both are named, although one hides the other in the slope."""
    spoil = both(change("energy", lambda e: e / HARTREE), change("forces", lambda f: f / HARTREE * BOHR))
    remedies = {one.remedy for one in findings(spoil(sample("mixed")))}
    assert remedies == {"--energy-unit hartree", "--force-unit hartree/bohr"}


@pytest.mark.parametrize(
    ("flags", "spoil", "remedy"),
    [
        ({"grid_unit": "bohr"}, change("grid", lambda g: g * BOHR), "--grid-unit angstrom"),
        ({"energy_unit": "hartree"}, change("energy", lambda e: e * HARTREE), "--energy-unit ev"),
        ({"energy_unit": "kcal/mol"}, change("energy", lambda e: e * KCAL / HARTREE), "--energy-unit hartree"),
        ({"force_unit": "hartree/bohr"}, change("forces", lambda f: f * HARTREE / BOHR), "--force-unit ev/angstrom"),
        ({"dipole_unit": "e-angstrom"}, change("dipole", lambda d: d / DEBYE), "--dipole-unit debye"),
        ({"dipole_unit": "au"}, change("dipole", lambda d: d * BOHR), "--dipole-unit e-angstrom"),
    ],
)
def test_flags_that_should_not_be_given(flags: dict[str, str], spoil: Spoil, remedy: str) -> None:
    """Data that a flag has converted wrongly: the message names what the flag should be."""
    given = replace(FLAGS, **flags)
    whole = sample("mixed")
    # Slopes need several frames and no ESP, the others the reverse.
    right = replace(whole, n_grid=0 * whole.n_grid) if "force_unit" in flags else take(whole, slice(None, None, 3))
    assert findings(right, flags=given) == []
    assert [one.remedy for one in findings(spoil(right), flags=given)] == [remedy]


def test_one_file_of_several_is_wrong() -> None:
    """It is named; the others are not."""
    parts = [sample(kind, split) for kind in ("co2", "mixed") for split in ("train", "valid", "test")]
    assert findings(*parts) == []
    parts[4] = change("grid", lambda g: g / BOHR)(parts[4])
    (found,) = findings(*parts)
    assert found.check == "grid-unit"
    assert "mixed-esp-valid.npz" in found.what
    assert {file for _, file, _ in found.rows} == {"mixed-esp-valid.npz"}
    parts[3] = change("grid", lambda g: g / BOHR)(parts[3])
    (found,) = findings(*parts)
    assert "mixed-esp-train.npz" in found.what
    assert "mixed-esp-valid.npz" in found.what


def test_small_files_are_judged_together() -> None:
    """Ten files of eleven molecules each, whose grids are all in Bohr."""
    whole = change("grid", lambda g: g / BOHR)(sample("mixed"))
    parts = [
        replace(take(whole, slice(i, i + 11)), file=whole.file._replace(efd=f"e{i}", esp=f"s{i}"))
        for i in range(0, 110, 11)
    ]
    (found,) = findings(*parts)
    assert found.remedy == "--grid-unit bohr"


@pytest.mark.parametrize("count", [2, 4])
def test_leaks_between_splits(count: int) -> None:
    """Training frames in the validation split, turned and shifted: a warning, for the data do not contradict it."""
    train, valid = sample("co2"), sample("co2", "valid")
    leaked = turn("positions")(take(train, slice(count)))
    positions = np.concatenate([leaked.positions + 1.0, valid.positions[count:]])
    assert findings(train, valid) == []
    found = findings(train, replace(valid, positions=positions, n_grid=0 * valid.n_grid))
    (leak,) = [one for one in found if one.check == "leak"]
    assert leak.severity == "warning"
    assert leak.rows == tuple(("valid", "co2-efd-valid.npz", row) for row in range(count))


def test_ions_of_one_geometry_are_no_copies() -> None:
    """The same positions with another total charge are another system."""
    given = take(sample("co2"), slice(20))
    given = replace(given, n_grid=0 * given.n_grid)
    ions = replace(given, total_charge=given.total_charge + 1, rows=given.rows + 100)
    assert findings(given, ions) == []


def test_energies_of_another_method() -> None:
    """The validation split has another reference."""
    valid = change("energy", lambda e: e + 30)(sample("co2", "valid"))
    (found,) = findings(sample("co2"), valid)
    assert (found.check, found.severity) == ("energy-shift", "warning")
    assert "co2-efd-valid.npz" in found.what
    assert "+30" in found.what


@pytest.mark.parametrize(
    "spoil", [lambda m: m, GRIDS["in Bohr"][0], TARGETS["F twice"][0], TARGETS["E outliers"][0], copies]
)
def test_chunks_give_what_the_whole_gives(spoil: Spoil) -> None:
    """In another order too: same findings, same molecules; only the pairs of frames are those within chunks."""
    whole = spoil(sample("co2"))
    parts = [measure(take(whole, slice(start, start + 24))) for start in range(0, len(whole.rows), 24)]
    merged, reversed_ = merge(parts), merge(parts[::-1])
    expected = [(one.check, one.remedy) for one in judge(measure(whole))]
    for evidence in (merged, reversed_, merge([merged])):
        assert [(one.check, one.remedy) for one in judge(evidence)] == expected
        assert len(evidence.molecules) == len(whole.rows)
        assert len(evidence.files) == 1


def test_merge_keeps_files_and_compositions_apart() -> None:
    """Indices are those of the merged tables."""
    parts = [measure(take(sample(kind), slice(5, 25))) for kind in ("mixed", "co2", "mixed")]
    merged = merge(parts)
    assert len(merged.files) == 2
    for part, molecules in zip(parts, np.split(merged.molecules, [20, 40]), strict=True):
        for old, new in zip(part.molecules, molecules, strict=True):
            assert merged.files[new["file"]] == part.files[old["file"]]
            assert merged.compositions[new["composition"]] == part.compositions[old["composition"]]


def test_padding_may_hold_anything() -> None:
    """Sixty atoms wide, longer grids, NaN and infinity: the same numbers."""
    given = sample("mixed")
    n, atoms = given.atomic_numbers.shape
    real = np.arange(60) < given.n_atoms[:, None]
    points = given.grid.shape[1] + 50
    real_points = np.arange(points) < given.n_grid[:, None]

    def wide(values: np.ndarray, mask: np.ndarray, padding: float) -> np.ndarray:
        shape = (n, mask.shape[1], *values.shape[2:])
        result = np.full(shape, padding)
        result[:, : values.shape[1]] = values
        return np.where(mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), result, padding)

    padded = replace(
        given,
        atomic_numbers=np.pad(given.atomic_numbers, ((0, 0), (0, 60 - atoms))),
        positions=wide(given.positions, real, np.nan),
        forces=wide(given.forces, real, np.inf),
        grid=wide(given.grid, real_points, np.nan),
        esp_values=wide(given.esp_values, real_points, -np.inf),
    )
    assert_same(measure(padded), measure(given))


def assert_same(a: Evidence, b: Evidence) -> None:
    """Every number; NaN equals NaN."""
    assert a.compositions == b.compositions
    for name in a.molecules.dtype.names or ():
        np.testing.assert_array_equal(a.molecules[name], b.molecules[name], err_msg=name)
    np.testing.assert_array_equal(a.pairs, b.pairs)


ODD: dict[str, Spoil] = {
    "none": lambda m: take(m, slice(0)),
    "one": lambda m: take(m, slice(1)),
    "single atoms": lambda m: replace(m, n_atoms=np.ones_like(m.n_atoms), atomic_numbers=m.atomic_numbers[:, :1]),
    "no room for points": lambda m: replace(m, n_grid=0 * m.n_grid, grid=m.grid[:, :0], esp_values=m.esp_values[:, :0]),
    "grids of 0 to 40 points": lambda m: replace(m, n_grid=np.arange(len(m.rows)) % 40),
    "one geometry": lambda m: take(m, np.zeros(30, dtype=np.int64)),
    "all zero": lambda m: functools.reduce(
        lambda now, name: change(name, np.zeros_like)(now),
        ("positions", "energy", "forces", "dipole", "grid", "esp_values"),
        m,
    ),
    "as large as float32 allows": lambda m: functools.reduce(
        lambda now, name: change(name, lambda v: np.full_like(v, 3.4e38))(now),
        ("positions", "energy", "forces", "dipole", "grid", "esp_values"),
        m,
    ),
    "elements beyond the tables": change("atomic_numbers", lambda z: np.where(z > 0, 118, 0)),
    "points on nuclei": lambda m: replace(m, grid=np.concatenate([m.positions[:, :1], m.grid[:, 1:]], axis=1)),
}


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize("case", ODD)
def test_nothing_raises(kind: str, case: str) -> None:
    """Valid, if odd, input is judged and reported."""
    evidence = measure(ODD[case](take(sample(kind), slice(0, 40))))
    assert describe_findings(judge(evidence), evidence).count("\ndata: ") <= 1


def test_report() -> None:
    """A block per finding with file, rows, remedy; the last line says what was measured."""
    spoilt = both(change("grid", lambda g: g / BOHR), change("energy", lambda e: e + 100, [4]))(sample("mixed"))
    evidence = measure(spoilt)
    lines = describe_findings(judge(evidence), evidence).splitlines()
    assert lines[0].startswith("error [grid-unit] train (mixed-esp-train.npz): vdw_surface is given as angstrom")
    assert lines[1] == "  remedy: --grid-unit bohr"
    assert "mixed-esp-train.npz rows 0, " in lines[2]
    assert lines[3].startswith("warning [outlier-energy]")
    assert lines[5].endswith("mixed-efd-train.npz row 9")  # the fifth of the rows 0, 1, 2, 8, 9, …
    assert lines[-1].startswith("data: 114 molecules of 1 files checked, 1 errors, 1 warnings; multipoles fit the ESP")
    clean = measure(sample("co2"))
    text = describe_findings(judge(clean), clean)
    assert "nothing wrong found" in text
    assert "dipole is 1.000 times D" in text
    assert "the work of F is 1.00" in text
    assert describe_findings([], merge([])) == "data: 0 molecules of 0 files checked, nothing wrong found"


def test_a_divided_file_is_one_file() -> None:
    """Whatever the number of splits that its rows are in."""
    given = take(sample("co2"), slice(30))
    given = replace(given, file=given.file._replace(divided=True), split=np.arange(30) % 3)
    assert describe_findings([], measure(given)).startswith("data: 30 molecules of 1 files checked")


@pytest.mark.parametrize("size", [10, 90, 150, 260])
def test_work_of_checks_is_bounded(size: int) -> None:
    """The fits of large molecules take no longer than those of as many usual ones, or of 16."""
    rows = measure_esp._rows_to_fit(np.full(800, size), np.ones(800, bool))
    assert len(rows) * size**3 <= max(800 * 90**3 * 1.25, 16 * size**3)
    assert len(rows) >= 16


def as_stored(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Round one target, or store it in another type."""
    return lambda molecules: replace(molecules, **{name: how(getattr(molecules, name)).astype(np.float64)})


def step_of(values: np.ndarray, step: float) -> np.ndarray:
    return np.rint(values / step) * step


@pytest.mark.parametrize("kind", ["co2", "mixed"])
@pytest.mark.parametrize(
    ("check", "name", "how"),
    [
        ("energy-resolution", "energy", lambda e: step_of(e, 1e-3)),
        ("energy-resolution", "energy", lambda e: step_of(e / HARTREE, 1e-4) * HARTREE),
        ("energy-resolution", "energy", lambda e: (4 * e / 27.2114).astype(np.float32).astype(np.float64) * 27.2114),
        ("energy-resolution", "energy", lambda e: (4 * e).astype(np.float32)),
        ("f-resolution", "forces", lambda f: step_of(f, 0.01)),
        ("f-resolution", "forces", lambda f: step_of(f / (HARTREE / BOHR), 1e-3) * HARTREE / BOHR),
        ("d-resolution", "dipole", lambda d: step_of(d / DEBYE, 0.01) * DEBYE),
        ("esp-resolution", "esp_values", lambda v: step_of(v, 1e-4).astype(np.float32)),
    ],
)
def test_rounded_targets_are_found_whatever_unit_they_were_rounded_in(
    kind: str, check: str, name: str, how: Callable[[np.ndarray], np.ndarray]
) -> None:
    found = [one for one in findings(as_stored(name, how)(sample(kind))) if one.check.endswith("-resolution")]
    assert [one.check for one in found] == [check]
    assert found[0].severity == "warning"
    assert "apart, and no model can know more" in found[0].what


@pytest.mark.parametrize("field", ["force_dtype", "dipole_dtype", "esp_dtype"])
def test_targets_in_half_precision_are_found_by_their_type(field: str) -> None:
    made = replace(sample("mixed"), file=sample("mixed").file._replace(**{field: "float16"}))
    (found,) = [one for one in findings(made) if one.check.endswith("-resolution")]
    assert "is stored as float16" in found.what


def test_molecules_along_one_axis_are_not_rounded() -> None:
    """Every component of the forces of one linear molecule is a multiple of one number, of many molecules none is."""
    numbers = np.tile([8, 6, 8], (20, 1))
    rng = np.random.default_rng(0)
    co2 = take(sample("co2"), np.arange(20))
    pull = rng.normal(size=20)
    forces = np.zeros((20, 3, 3))
    forces[:, 0, 2], forces[:, 2, 2] = pull, -pull
    dipole = np.zeros((20, 3))
    dipole[:, 2] = rng.normal(size=20)
    made = replace(co2, atomic_numbers=numbers, forces=forces, dipole=dipole)
    assert not [one for one in findings(made) if one.check.endswith("-resolution")]

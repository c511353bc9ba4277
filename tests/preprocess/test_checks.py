"""Checks of the data: real data are found right, and each way of spoiling them is found and named."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocess.checks import measure_esp
from preprocess.checks.evidence import CheckedFile, CheckInput, Evidence, Finding, merge
from preprocess.checks.measure import measure
from preprocess.checks.physical_constants import ATOMIC_ENERGIES
from preprocess.checks.report import describe_findings
from preprocess.checks.rules import judge
from preprocess.input.pairs import GridFrame
from preprocess.input.row_order import find_rows
from shared import units
from shared.elements import centers_of_mass
from shared.input.unit_choice import InputUnits
from shared.schema import Split
from tests import support

BOHR, HARTREE, DEBYE = units.BOHR_IN_ANGSTROM, units.HARTREE_IN_EV, units.DEBYE_IN_E_ANGSTROM
KCAL = units.KCAL_PER_MOL_IN_EV
FLAGS = InputUnits(grid_unit="angstrom", energy_unit="ev", force_unit="ev/angstrom", dipole_unit="debye")
PER_MOLECULE = tuple(f.name for f in fields(CheckInput) if f.name not in ("file", "split", "grid_shift", "nowhere"))

Spoil = Callable[[CheckInput], CheckInput]


@functools.cache
def sample(kind: str, split: Split = "train") -> CheckInput:
    """64 CO2 molecules, or three frames of each of the 38 mixed ones. Not to be changed in place."""
    rows = np.arange(64) if kind == "co2" else np.flatnonzero(np.arange(304) % 8 < 3)
    if split != "train":
        rows = np.arange(38)
    efd, esp = support.read_sample(kind, split, rows)
    return CheckInput(
        file=CheckedFile(split, f"{kind}-efd-{split}.npz", f"{kind}-esp-{split}.npz"),
        rows=rows,
        atomic_numbers=efd["Z"].astype(np.int64),
        n_atoms=efd["N"].astype(np.int64),
        positions=efd["R"].astype(np.float64),
        energy=efd["E"],
        forces=efd["F"].astype(np.float64),
        dipole=efd["Dxyz"] * DEBYE,
        total_charge=np.zeros(len(rows)),
        n_grid=esp["n_grid"].astype(np.int64),
        grid=esp["vdw_surface"].astype(np.float64),
        esp_values=esp["esp"].astype(np.float64),
    )


def take(molecules: CheckInput, rows: slice | np.ndarray) -> CheckInput:
    """Some of the molecules."""
    return replace(molecules, **{name: getattr(molecules, name)[rows] for name in PER_MOLECULE})


def findings(*parts: CheckInput, flags: InputUnits = FLAGS) -> list[Finding]:
    """What is found in these files together."""
    given = [replace(part, file=part.file._replace(units=flags)) for part in parts]
    return judge(merge([measure(part) for part in given]))


def change(name: str, how: Callable[[np.ndarray], Any], rows: list[int] | None = None) -> Spoil:
    """Replace one array, or some rows of it."""

    def spoil(molecules: CheckInput) -> CheckInput:
        values = getattr(molecules, name).copy()
        chosen = slice(None) if rows is None else rows
        values[chosen] = how(values[chosen])
        return replace(molecules, **{name: values})

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda molecules: functools.reduce(lambda now, spoil: spoil(now), spoils, molecules)


def center(molecules: CheckInput) -> np.ndarray:
    """(n, 1, 3) centres of mass."""
    return centers_of_mass(molecules.positions, molecules.atomic_numbers)[:, None]


def centroid(molecules: CheckInput) -> np.ndarray:
    """(n, 1, 3) centroids of the atoms."""
    real = (molecules.atomic_numbers > 0)[..., None]
    return (molecules.positions * real).sum(axis=1, keepdims=True) / real.sum(axis=1, keepdims=True)


def rotations(count: int) -> np.ndarray:
    """(n, 3, 3), each another."""
    return np.asarray(Rotation.random(count, random_state=3).as_matrix())


def turn(name: str) -> Spoil:
    """Rotate one array of every molecule about the origin."""

    def spoil(molecules: CheckInput) -> CheckInput:
        values = getattr(molecules, name)
        turned = np.einsum("nij,n...j->n...i", rotations(len(values)), values)
        return replace(molecules, **{name: turned})

    return spoil


def grid_turned_in_place(molecules: CheckInput) -> CheckInput:
    """Another rotation of each grid, about the molecule."""
    middle = center(molecules)
    return replace(molecules, grid=turn("grid")(replace(molecules, grid=molecules.grid - middle)).grid + middle)


def mispair(*names: str) -> Spoil:
    """Give each molecule these arrays of another frame of the same molecule, or of another one if there is no other."""

    def spoil(molecules: CheckInput) -> CheckInput:
        order = np.roll(np.arange(len(molecules.rows)), 1)
        kinds = np.unique(molecules.atomic_numbers, axis=0, return_inverse=True)[1].reshape(-1)
        if len(set(kinds)) < len(kinds) / 2:
            for member in set(kinds):
                rows = np.flatnonzero(kinds == member)
                order[rows] = np.roll(rows, 1)
        return replace(molecules, **{name: getattr(molecules, name)[order] for name in names})

    return spoil


def grid_indices(molecules: CheckInput) -> CheckInput:
    """Indices into a box of 0.2 Å instead of coordinates."""
    return replace(molecules, grid=np.rint((molecules.grid - molecules.grid.min(axis=1, keepdims=True)) / 0.2))


def ionized(molecules: CheckInput, charge: float = 1.0, about_origin: bool = False) -> CheckInput:
    """The same molecules with a point charge on their first atom: an ion whose ESP and dipole are known."""
    place = molecules.positions[:, :1]
    esp = molecules.esp_values + charge * BOHR / np.linalg.norm(molecules.grid - place, axis=2)
    arm = place if about_origin else place - center(molecules)
    return replace(
        molecules,
        esp_values=esp,
        dipole=molecules.dipole + charge * arm[:, 0],
        total_charge=np.full(len(esp), charge),
    )


def points_in_atoms(molecules: CheckInput) -> CheckInput:
    """Four points of every fifth grid near the first nucleus, with its potential."""
    grid, esp = molecules.grid.copy(), molecules.esp_values.copy()
    offset = np.array([[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.3], [0.2, 0.2, 0]])
    grid[::5, :4] = molecules.positions[::5, :1] + offset
    esp[::5, :4] = molecules.atomic_numbers[::5, :1] / (np.linalg.norm(offset, axis=1) / BOHR)
    return replace(molecules, grid=grid, esp_values=esp)


def charges_in_angstrom(molecules: CheckInput) -> CheckInput:
    """The ESP of charges on the atoms, their positions in Å taken for Bohr."""
    esp = np.zeros_like(molecules.esp_values)
    for i, (atoms, points) in enumerate(zip(molecules.n_atoms, molecules.n_grid, strict=True)):
        grid, nuclei = molecules.grid[i, :points, None] / BOHR, molecules.positions[i, :atoms]
        right, wrong = (1 / np.linalg.norm(grid - place, axis=2) for place in (nuclei / BOHR, nuclei))
        charges = np.linalg.lstsq(right, molecules.esp_values[i, :points], rcond=None)[0]
        esp[i, :points] = wrong @ charges
    return replace(molecules, esp_values=esp)


def nuclei_in_angstrom(molecules: CheckInput) -> CheckInput:
    """The ESP of the right electrons, and of nuclei whose positions in Å were taken for Bohr."""
    grid, nuclei = molecules.grid[:, :, None] / BOHR, molecules.positions[:, None]
    right, wrong = (1 / np.linalg.norm(grid - place, axis=3).clip(1e-9) for place in (nuclei / BOHR, nuclei))
    charges = molecules.atomic_numbers[:, None]
    return replace(molecules, esp_values=molecules.esp_values + (charges * (wrong - right)).sum(axis=2))


def large_values_dropped(molecules: CheckInput) -> CheckInput:
    """Only the points with less than 10 kcal/mol/e."""
    real = np.arange(molecules.grid.shape[1]) < molecules.n_grid[:, None]
    kept = real & (np.abs(molecules.esp_values) < 10 / units.HARTREE_IN_KCAL_PER_MOL)
    order = np.argsort(~kept, axis=1, kind="stable")
    return replace(
        molecules,
        n_grid=kept.sum(axis=1),
        esp_values=np.take_along_axis(molecules.esp_values, order, axis=1),
        grid=np.take_along_axis(molecules.grid, order[..., None], axis=1),
    )


def less_atoms(molecules: CheckInput) -> CheckInput:
    """Energies less those of the free atoms."""
    atoms = np.where(molecules.atomic_numbers > 0, ATOMIC_ENERGIES[molecules.atomic_numbers], 0.0).sum(axis=1)
    return replace(molecules, energy=molecules.energy - atoms)


def copies(molecules: CheckInput) -> CheckInput:
    """The first five of three and more atoms again, elsewhere, turned, as rounded by float32."""
    again = take(molecules, np.flatnonzero(molecules.n_atoms > 2)[:5])
    for name in ("positions", "grid", "forces", "dipole"):
        again = turn(name)(again)
    again = replace(again, positions=(again.positions + 3.0).astype(np.float32), grid=again.grid + 3.0)
    joined = {name: np.concatenate([getattr(molecules, name), getattr(again, name)]) for name in PER_MOLECULE}
    return replace(molecules, **{**joined, "rows": np.arange(len(joined["rows"]))})


GRIDS: dict[str, tuple[Spoil, str, str]] = {
    "in Bohr": (change("grid", lambda g: g / BOHR), "grid-unit", "--grid-unit bohr"),
    "converted once too often": (change("grid", lambda g: g * BOHR), "grid-unit", "multiply vdw_surface by 1.889726"),
    "a third in Bohr": (
        lambda m: replace(m, grid=np.where((np.arange(len(m.rows)) % 3 > 0)[:, None, None], m.grid, m.grid / BOHR)),
        "grid-unit",
        "only of the molecules that need it",
    ),
    "indices": (grid_indices, "grid-unit", "indices"),
    "about the centre of mass": (
        lambda m: replace(m, grid=m.grid - center(m)),
        "grid-frame",
        "--grid-frame fit",
    ),
    "about the centroid": (lambda m: replace(m, grid=m.grid - centroid(m)), "grid-frame", "--grid-frame fit"),
    # Of CO2 the first atom, carbon, the centroid and the centre of mass are nearly one.
    "about the first atom": (lambda m: replace(m, grid=m.grid - m.positions[:, :1]), "grid-frame", "--grid-frame fit"),
    "R alone centred": (
        lambda m: replace(m, positions=m.positions - center(m)),
        "grid-frame",
        "--grid-frame fit",
    ),
    "shifted by 2 Å": (change("grid", lambda g: g + np.array([0, 2, 0])), "grid-frame", "--grid-frame fit"),
    "shifted by 20 Å": (change("grid", lambda g: g + np.array([20, 5, 0])), "grid-frame", "--grid-frame fit"),
    "turned": (grid_turned_in_place, "grid-frame", "in one frame, rows in one order"),
    "z, y, x": (change("grid", lambda g: g[..., ::-1]), "grid-frame", r"\(z, y, x\)"),
    "reversed": (change("grid", np.negative), "grid-frame", r"\(-x, -y, -z\)"),
    "of other rows": (mispair("grid", "esp_values", "n_grid"), "grid-frame", "rows in one order"),
    "inside atoms": (points_in_atoms, "grid-inside-atom", "--esp-radius-factor"),
}
POTENTIALS: dict[str, tuple[Spoil, str, str]] = {
    "esp in kcal/mol/e": (change("esp_values", lambda v: v * HARTREE / KCAL), "esp-unit", "--esp-unit kcal/mol/e"),
    "esp in volt": (change("esp_values", lambda v: v * HARTREE), "esp-unit", "--esp-unit ev/e"),
    "esp too small": (change("esp_values", lambda v: v / HARTREE), "dipole-unit", "--esp-unit"),
    "esp of nothing": (
        lambda m: replace(m, esp_values=np.random.default_rng(0).normal(size=m.esp_values.shape) * 0.02),
        "esp-fit",
        "order of its points",
    ),
    "large esp dropped": (large_values_dropped, "esp-cut", "give all points"),
    "esp in e/Å": (change("esp_values", lambda v: v / BOHR), "esp-unit", "multiply esp by 0.529177"),
    "esp of charges in Å": (charges_in_angstrom, "esp-nuclei", "in one unit"),
    "esp of charges in Å, grid in Bohr": (both(charges_in_angstrom, GRIDS["in Bohr"][0]), "esp-nuclei", "in one unit"),
    "esp of nuclei in Å": (nuclei_in_angstrom, "esp-nuclei", "in one unit"),
    "esp of nuclei in Å, grid in Bohr": (both(nuclei_in_angstrom, GRIDS["in Bohr"][0]), "esp-nuclei", "in one unit"),
    "esp negative": (change("esp_values", np.negative), "esp-sign", "negate esp"),
    "esp zero": (change("esp_values", np.zeros_like), "zero-target", "fill in esp"),
    "esp zero in two rows": (change("esp_values", np.zeros_like, [4, 9]), "zero-target", "remove these"),
    "D in e·Å": (change("dipole", lambda d: d * DEBYE), "dipole-unit", "--dipole-unit e-angstrom"),
    "D in atomic units": (change("dipole", lambda d: d / BOHR * DEBYE), "dipole-unit", "--dipole-unit au"),
    "D negative": (change("dipole", np.negative), "dipole-sign", "negate Dxyz"),
    "D turned": (turn("dipole"), "dipole-frame", "frame of R"),
    "D zero": (change("dipole", np.zeros_like), "zero-target", "fill in Dxyz"),
    "Q of an ion": (change("total_charge", lambda q: q + 1), "total-charge", "Q in the EFD file"),
    "Q of one ion": (change("total_charge", lambda q: q - 1, [7]), "total-charge", "Q in the EFD file"),
    "Q of ions left out": (both(ionized, change("total_charge", np.zeros_like)), "total-charge", "Q in the EFD"),
    "esp of ions negative": (both(ionized, change("esp_values", np.negative)), "esp-sign", "negate esp"),
    "esp of ions in volt": (both(ionized, change("esp_values", lambda v: v * HARTREE)), "esp-unit", "--esp-unit ev/e"),
    "D of ions about the origin": (lambda m: ionized(m, 1.0, True), "dipole-origin", "centre of mass"),
}
GEOMETRIES: dict[str, tuple[Spoil, str, str]] = {
    "R in Bohr": (change("positions", lambda r: r / BOHR), "positions-unit", "--position-unit bohr"),
    "R and grid in Bohr": (
        both(change("positions", lambda r: r / BOHR), change("grid", lambda g: g / BOHR)),
        "positions-unit",
        "--position-unit bohr",
    ),
    "R converted once too often": (change("positions", lambda r: r * BOHR), "positions-unit", "once too often"),
    "copies": (copies, "duplicate", "remove the copies"),
    "atoms on each other": (
        lambda m: change("positions", lambda r: r[:, [0, 0, *range(2, r.shape[1])]] + 0.0, [3])(m),
        "close-atoms",
        "remove these molecules",
    ),
}
TARGETS: dict[str, tuple[Spoil, str, str]] = {
    "E in Hartree": (change("energy", lambda e: e / HARTREE), "energy-unit", "--energy-unit hartree"),
    "E in kcal/mol": (change("energy", lambda e: e / KCAL), "energy-unit", "--energy-unit kcal/mol"),
    "E in kJ/mol": (change("energy", lambda e: e / KCAL * 4.184), "energy-unit", "--energy-unit kj/mol"),
    "atomisation energies in Hartree": (
        both(less_atoms, change("energy", lambda e: e / HARTREE)),
        "energy-unit",
        "--energy-unit hartree",
    ),
    "positive atomisation energies": (both(less_atoms, change("energy", np.negative)), "force-sign", "or E, if"),
    "E normalised": (
        change("energy", lambda e: (e - e.mean()) / e.std()),
        "energy-normalised",
        "as they were computed",
    ),
    "E zero": (change("energy", np.zeros_like), "zero-target", "--energy-weight 0"),
    "E constant": (change("energy", lambda e: 0 * e - 100), "constant-target", "fill in E"),
    "E outliers": (change("energy", lambda e: e + 100, [4, 9]), "outlier-energy", "look at these rows"),
    "E of other rows": (mispair("energy"), "energy-force", "of the same rows"),
    "F in Hartree/Bohr": (
        change("forces", lambda f: f / HARTREE * BOHR),
        "force-unit",
        "--force-unit hartree/bohr",
    ),
    "F in kcal/mol/Å": (change("forces", lambda f: f / KCAL), "force-unit", "--force-unit kcal/mol/angstrom"),
    "F in Hartree/Å": (change("forces", lambda f: f / HARTREE), "force-unit", "--force-unit hartree/angstrom"),
    "F is the gradient": (change("forces", np.negative), "force-sign", "negate F"),
    "F is the gradient in Hartree/Bohr": (
        change("forces", lambda f: -f / HARTREE * BOHR),
        "force-unit",
        "--force-unit hartree/bohr, and negate F",
    ),
    "F twice": (change("forces", lambda f: 2 * f), "force-unit", "divide F by 2"),
    "F half": (change("forces", lambda f: f / 2), "force-unit", r"divide F by 0\.5"),
    "F of atomisation energies in Hartree/Bohr": (
        both(less_atoms, change("forces", lambda f: f / HARTREE * BOHR)),
        "force-unit",
        "--force-unit hartree/bohr",
    ),
    "F zero": (change("forces", np.zeros_like), "zero-target", "--forces-weight 0"),
    "F zero in two rows": (change("forces", np.zeros_like, [30, 31]), "zero-target", "remove these"),
    "F outliers": (change("forces", lambda f: 100 * f, [4, 9]), "outlier-force", "look at these rows"),
    "F turned": (turn("forces"), "force-frame", "frame of R"),
    "F of other rows": (mispair("forces"), "force-frame", "order of atoms and rows"),
}
RIGHT: dict[str, Spoil] = {
    "as they are": lambda m: m,
    "cations": ionized,
    "anions": lambda m: ionized(m, -1.0),
    "atomisation energies": less_atoms,
    "energies with another zero": change("energy", lambda e: e + 1e5),
    "optimised geometry alone": lambda m: take(m, np.unique(m.atomic_numbers, axis=0, return_index=True)[1]),
    "few points": lambda m: replace(m, n_grid=np.minimum(m.n_grid, 30)),
    "no grid": lambda m: replace(m, n_grid=np.zeros_like(m.n_grid)),
    "seven molecules": lambda m: take(m, slice(7)),
    "two molecules": lambda m: take(m, slice(2)),
}


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


def rows_to_pair(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and positions of n molecules of one to five atoms, padding NaN; the last three repeat the first."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(1, 9, (n, 5))
    numbers[np.arange(5) >= generator.integers(1, 6, n)[:, None]] = 0
    positions = np.where((numbers > 0)[..., None], generator.normal(size=(n, 5, 3)), np.nan)
    numbers[-3:], positions[-3:] = numbers[:3], positions[:3]
    return numbers, positions


def agrees(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], i: int, j: int) -> bool:
    """Row i of a is row j of b, atom by atom."""
    one, other = ([(z, r) for z, r in zip(*(x[row] for x in rows), strict=True) if z] for rows, row in ((a, i), (b, j)))
    pairs = list(itertools.zip_longest(one, other, fillvalue=(0, np.zeros(3))))
    return all(y == z and np.linalg.norm(q - r) <= 1e-3 for (y, q), (z, r) in pairs)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 5e-4])
@pytest.mark.parametrize("padding", [(0, 0), (0, 4), (7, 2)])
def test_rows_are_found(noise: float, padding: tuple[int, int]) -> None:
    """Against every pair of rows compared in turn; padding widths differ, rows are repeated and rounded."""
    numbers, positions = rows_to_pair(60)
    generator = np.random.default_rng(1)
    order = generator.permutation(60)
    moved = positions[order] + noise * generator.uniform(-1, 1, positions.shape)
    a = np.pad(numbers, ((0, 0), (0, padding[0]))), np.pad(positions, ((0, 0), (0, padding[0]), (0, 0)))
    b = np.pad(numbers[order], ((0, 0), (0, padding[1]))), np.pad(moved, ((0, 0), (0, padding[1]), (0, 0)))
    found = find_rows(*a, *b)
    for i in range(60):
        partners = [j for j in range(60) if agrees(a, b, i, j)]
        assert found[i] in partners
        assert noise or found[i] == min(partners)  # the first of several that are equal
        assert len(partners) == 1 + (i < 3 or i >= 57)


def test_rows_without_a_partner() -> None:
    """Another molecule, another element, another count, an atom moved, numbers that are none."""
    numbers, positions = rows_to_pair(40)
    other_numbers, other_positions = numbers.copy(), positions.copy()
    other_positions[8, 0, 0] += 0.01
    other_numbers[9, 0] += 1
    other_numbers[10, -1], other_positions[10, -1] = (0, np.nan) if numbers[10, -1] else (1, 5.0)
    other_positions[11, 0, 0] = np.nan
    found = find_rows(numbers, positions, other_numbers, other_positions)
    assert set(np.flatnonzero(found < 0)) == {8, 9, 10, 11}
    assert (find_rows(numbers, positions, *rows_to_pair(40, seed=5)) < 0).all()
    assert (find_rows(numbers[:5], positions[:5], numbers[5:6], positions[5:6]) < 0).all()


def test_rows_of_many() -> None:
    """A hundred thousand rows, rounded, half of them copies of one: no comparison of all with all."""
    generator = np.random.default_rng(0)
    positions = generator.normal(size=(100_000, 3, 3))
    positions[50_000:] = positions[0]
    numbers = np.full((100_000, 3), 8)
    order = generator.permutation(100_000)
    found = find_rows(numbers, positions, numbers, positions[order].astype(np.float32))
    np.testing.assert_array_equal(order[found[1:50_000]], np.arange(1, 50_000))
    assert set(order[found[50_000:]]) <= {0, *range(50_000, 100_000)}


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

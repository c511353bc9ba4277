"""Ways to spoil data that are right, each with what the checks find, and which remedy they name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from preprocess.checks.evidence import CheckedFile, CheckInput, Finding, merge
from preprocess.checks.measure import measure
from preprocess.checks.physical_constants import ATOMIC_ENERGIES
from preprocess.checks.rules import judge
from shared import units
from shared.elements import centers_of_mass
from shared.input.unit_choice import InputUnits
from shared.schema import Split
from tests import support

BOHR, HARTREE, DEBYE = units.BOHR_IN_ANGSTROM, units.HARTREE_IN_EV, units.DEBYE_IN_E_ANGSTROM
KCAL = units.KCAL_PER_MOL_IN_EV
FLAGS = InputUnits(grid_unit="angstrom", energy_unit="ev", force_unit="ev/angstrom", dipole_unit="debye")
_OPTIONAL = ("quadrupole", "split", "grid_shift", "nowhere")
PER_MOLECULE = tuple(f.name for f in fields(CheckInput) if f.name not in ("file", *_OPTIONAL))

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


def energies_per_atom(molecules: CheckInput) -> CheckInput:
    return replace(molecules, energy=molecules.energy / molecules.n_atoms)


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
    "E per atom": (energies_per_atom, "energy-per-atom", "multiply E by the number of atoms N"),
    "E per atom in Hartree": (
        both(energies_per_atom, change("energy", lambda e: e / HARTREE)),
        "energy-per-atom",
        "then: --energy-unit hartree",
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

"""Reference data against the carried sample, finite differences and multipoles; splits; runs that are disturbed."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import psutil
import pytest
from ase import Atoms

from preprocess import reference_data
from preprocess.reference.config import ReferenceConfig, parse
from preprocess.reference.method import Level, require_computable
from preprocess.reference.molecules import Molecule, collect
from preprocess.reference.output import Output, Row, draw_split
from preprocess.reference.single_point import compute, converge
from preprocess.reference.tasks import ReferenceTask
from preprocess.reference_data import divide_molecules
from shared import units
from shared.elements import centers_of_mass
from shared.errors import EXIT_INTERRUPTED, EXIT_STOPPED, UserError
from shared.multipoles import moved_quadrupoles
from shared.schema import SPLITS
from shared.shells import RADII, Shells, sphere
from tests import support
from tests.preprocess.small_molecules import FITTED, SMALL, hehplus, named

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


# The carried sample


@pytest.mark.parametrize(
    ("kind", "row"), [("co2", 0), ("co2", 1), *(("mixed", row) for row in (1, 12, 15, 28, 33, 37))]
)
def test_agrees_with_the_carried_sample(kind: str, row: int) -> None:
    """To 1e-6 eV, eV/Å, Debye and Hartree/e; the sample's own digits (float32, but for the energy) end near 1e-7."""
    efd, esp = support.read_sample(kind, "valid", slice(row, row + 1))
    n, points = int(efd["N"][0]), int(esp["n_grid"][0])
    molecule = Molecule("", efd["Z"][0, :n].astype(int), efd["R"][0, :n].astype(float), 0, 1)
    found = compute(molecule, ReferenceConfig().level, esp["vdw_surface"][0, :points].astype(float))
    assert found.energy == pytest.approx(efd["E"][0], rel=0, abs=1e-6)
    np.testing.assert_allclose(found.forces, efd["F"][0, :n], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.dipole, efd["Dxyz"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.esp, esp["esp"][0, :points], rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["co2", "mixed"])
def test_points_are_those_of_the_carried_sample(kind: str) -> None:
    """All of them, in the same order, to the float32 that they are stored in."""
    _, esp = support.read_sample(kind, "valid", slice(None))
    for n, numbers, positions, points, real in zip(
        esp["N"], esp["Z"], esp["R"], esp["vdw_surface"], esp["n_grid"], strict=True
    ):
        found = ReferenceConfig().grid.points(numbers[:n], positions[:n].astype(float))
        np.testing.assert_allclose(found, points[:real], rtol=0, atol=5e-7)


# What is computed, against itself


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("H2O", Level("hf", "sto-3g", 1e-12)),
        ("NH2", Level("hf", "sto-3g", 1e-12)),
        ("H2O", Level("pbe0", "sto-3g", 1e-12, xc_grid_level=1)),
        ("NH2", Level("pbe", "sto-3g", 1e-12, xc_grid_level=1)),
        ("H2O", FITTED),
        ("NH2", replace(FITTED, method="pbe0", xc_grid_level=0)),
    ],
)
def test_forces_are_the_gradient_of_the_energy(name: str, level: Level) -> None:
    """Closed and open shells, fitted or not; of functionals on a coarse grid too: its points move with the atoms."""
    molecule = named(name)
    rng = np.random.default_rng(0)
    positions = molecule.positions + rng.normal(0.0, 0.05, molecule.positions.shape)
    forces = compute(molecule.at(positions), level, np.zeros((0, 3))).forces
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-6)
    direction, step = rng.normal(size=positions.shape), 3e-4
    energies = [
        compute(molecule.at(positions + sign * step * direction), level, np.zeros((0, 3))).energy for sign in (1, -1)
    ]
    slope = (energies[0] - energies[1]) / (2 * step)
    assert slope == pytest.approx(-(forces * direction).sum(), abs=5e-5)


def test_fitted_energy_is_near_the_exact_one() -> None:
    """Within 10 meV and 5 meV/Å in this molecule and basis, but not the same."""
    molecule = named("H2O")
    exact, fitted = (
        compute(molecule, Level("hf", "6-31g*", density_fit=density_fit), np.zeros((0, 3)))
        for density_fit in (False, True)
    )
    assert 1e-4 < abs(exact.energy - fitted.energy) < 0.01
    np.testing.assert_allclose(fitted.forces, exact.forces, rtol=0, atol=5e-3)


def test_fitting_without_a_predefined_basis_is_silent() -> None:
    """PySCF makes one of lithium's orbitals, and would advise to install other sets in every process."""
    molecule, level = named("LiH"), Level("hf", "6-31g*")
    fitted = replace(level, density_fit=True)
    require_computable(fitted, [molecule])
    assert converge(molecule, fitted).e_tot == pytest.approx(converge(molecule, level).e_tot, abs=1e-4)


def test_exact_level_has_the_digest_of_before() -> None:
    """Folders of versions without density fitting are gone on with."""
    assert "density_fit" not in SMALL.identity
    assert FITTED.identity == {**SMALL.identity, "density_fit": True}


@pytest.mark.parametrize("molecule", [hehplus(), named("HF")], ids=["ion", "neutral"])
def test_potential_far_away_is_that_of_the_multipoles(molecule: Molecule) -> None:
    """About the centre of mass: its even part that of charge and quadrupole, its odd part the dipole's."""
    center = centers_of_mass(molecule.positions[None], molecule.atomic_numbers[None])[0]
    directions = sphere(7)
    distance = 60.0
    grid = np.concatenate([center + distance * directions, center - distance * directions])
    found = compute(molecule, SMALL, grid)
    there, opposite = np.split(found.esp, 2)
    bohr = distance / units.BOHR_IN_ANGSTROM
    quadrupole = found.quadrupole / units.BOHR_IN_ANGSTROM**2
    assert np.trace(quadrupole) == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.norm(quadrupole) > 0.3
    along = np.einsum("na,ab,nb->n", directions, quadrupole, directions)
    np.testing.assert_allclose((there + opposite) / 2 - molecule.charge / bohr, along / bohr**3, atol=1e-9)
    dipole = found.dipole * units.DEBYE_IN_E_ANGSTROM / units.BOHR_IN_ANGSTROM
    assert np.linalg.norm(dipole) > 0.3
    np.testing.assert_allclose((there - opposite) / 2, directions @ dipole / bohr**2, atol=3e-8)


def test_quadrupole_of_pyscf_is_in_debye_angstrom_about_zero() -> None:
    """By default: what files that keep it as Q are taken to hold, and --quadrupole-origin zero moves."""
    molecule = hehplus()
    center = centers_of_mass(molecule.positions[None], molecule.atomic_numbers[None])
    given = converge(molecule, SMALL).quad_moment(verbose=0)[None] * units.DEBYE_IN_E_ANGSTROM
    found = compute(molecule, SMALL, np.zeros((0, 3)))
    dipole = found.dipole * units.DEBYE_IN_E_ANGSTROM + molecule.charge * center
    charge = np.array([molecule.charge])
    np.testing.assert_allclose(moved_quadrupoles(given, dipole, charge, center)[0], found.quadrupole, atol=1e-6)
    assert np.abs(given[0] - found.quadrupole).max() > 1.0


def test_core_potentials_belong_to_their_basis() -> None:
    """Of iodine in def2: without it the 28 core electrons would be put into valence functions."""
    field = converge(
        Molecule("HI", np.array([1, 53]), np.array([[0, 0, 0], [0, 0, 1.61]]), 0, 1), Level(basis="def2-svp")
    )
    assert field.mol.atom_charges().tolist() == [1, 25]
    assert field.e_tot == pytest.approx(-298.0, abs=1.0)


def test_points_lie_on_their_shells_as_densely_as_asked() -> None:
    """None nearer to any atom than its innermost sphere; a lone atom has area times density."""
    molecule = named("CH3OH")
    shells = Shells((1.4, 2.0), density=3.0)
    points = shells.points(molecule.atomic_numbers, molecule.positions)
    multiples = np.linalg.norm(points[:, None] - molecule.positions, axis=-1) / RADII[molecule.atomic_numbers]
    nearest = multiples.min(axis=1)
    assert np.all((np.abs(nearest - 1.4) < 1e-6) | (np.abs(nearest - 2.0) < 1e-6))
    assert len(shells.points(np.array([17]), np.zeros((1, 3)))) == sum(
        round(4 * np.pi * (factor * 1.7) ** 2 * 3.0) for factor in (1.4, 2.0)
    )
    directions = sphere(400)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    np.testing.assert_allclose(directions.T @ directions / 400, np.eye(3) / 3, atol=3e-3)
    apart = np.linalg.norm(directions[:, None] - directions, axis=-1) + 9 * np.eye(400)
    assert apart.min() > 0.7 * np.sqrt(4 * np.pi / 400)


# Division among the splits


def test_split_is_a_seeded_permutation() -> None:
    """Every geometry once; parts of the asked sizes."""
    parts = draw_split(100, (0.8, 0.1, 0.1), 0)
    assert [len(parts[split]) for split in SPLITS] == [80, 10, 10]
    assert sorted(np.concatenate([parts[split] for split in SPLITS])) == list(range(100))
    assert parts["valid"].tolist() != draw_split(100, (0.8, 0.1, 0.1), 1)["valid"].tolist()
    assert [len(part) for part in draw_split(7, (1.0, 0.0, 0.0), 0).values()] == [7, 0, 0]


def test_molecules_are_divided_whole() -> None:
    """Parts of the asked sizes; one bond graph, in any order of its atoms, or one name is one molecule."""
    config = ReferenceConfig(split=(0.6, 0.2, 0.2))
    names = ["CH4", "NH3", "H2O", "HF", "CO2", "HCN", "C2H2", "C2H4", "C2H6", "CH3OH"]
    molecules = [named(name) for name in names]
    found = divide_molecules(molecules, config)
    assert [(found == number).sum() for number in range(3)] == [6, 2, 2]
    assert found.tolist() == divide_molecules(molecules, config).tolist()
    assert found.tolist() != divide_molecules(molecules, replace(config, seed=1)).tolist()
    methanol, ammonia = molecules[9], molecules[1]
    turned = replace(
        methanol,
        name="CO",
        atomic_numbers=methanol.atomic_numbers[::-1],
        positions=1.02 * methanol.positions[::-1],
    )
    ion = Molecule("NH3", np.array([7]), np.zeros((1, 3)), 0, 4)
    for seed in range(8):
        *_, of_methanol, of_turned, of_ion = divide_molecules([*molecules, turned, ion], replace(config, seed=seed))
        assert of_methanol == of_turned
        assert of_ion == divide_molecules([*molecules, turned, ion], replace(config, seed=seed))[1]
    with pytest.raises(UserError, match=r"the valid split would be empty \(1 different molecules\)"):
        divide_molecules([methanol, turned], config)
    assert divide_molecules([methanol, ammonia], replace(config, split=(1.0, 0.0, 0.0))).tolist() == [0, 0]


# Whole runs


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a small calculation with an ion and a radical."""
    path = tmp_path_factory.mktemp("geometries") / "ions.xyz"
    ion = hehplus()
    ase.io.write(path, Atoms(ion.atomic_numbers, ion.positions, info={"charge": 1, "name": "HeH+"}), format="extxyz")
    return [
        *("--molecules", "H2O", "OH", "--geometries", str(path), "--basis", "sto-3g", "--seed", "1"),
        *("--samples", "20", "--sampling", "displacement", "--displacement", "0.03", "--workers", "2"),
    ]


@pytest.fixture(scope="module")
def quiet(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("quiet") / "out"
    reference_data.main([*words, "--output", str(folder)])
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_files_are_in_the_input_format(quiet: Path, tmp_path: Path) -> None:
    """Keys, shapes and the record; preprocess takes them with checks that stop at contradictions."""
    assert set(files(quiet)) == {"reference-data.json", *(f"{kind}-{s}.npz" for kind in ("efd", "esp") for s in SPLITS)}
    record = json.loads((quiet / "reference-data.json").read_text())
    assert record["complete"]
    assert record["splits"] == {"train": 48, "valid": 6, "test": 6}
    assert record["left_out"] == []
    assert [m["multiplicity"] for m in record["molecules"]] == [1, 2, 1]
    with np.load(quiet / "efd-train.npz", allow_pickle=False) as efd, np.load(quiet / "esp-train.npz") as esp:
        assert set(efd) == {"R", "Z", "N", "E", "F", "Dxyz", "quadrupole", "Q", "name"}
        assert set(esp) == {"R", "Z", "N", "esp", "vdw_surface", "n_grid", "name"}
        assert set(record["units"]) == {*efd, *esp} - {"Z", "N", "n_grid", "name"}
        assert efd["R"].shape == efd["F"].shape == efd["quadrupole"].shape == (48, 3, 3)
        assert set(zip(efd["name"].tolist(), efd["Q"].tolist(), strict=True)) == {("H2O", 0), ("OH", 0), ("HeH+", 1)}
        assert esp["vdw_surface"].shape == (48, esp["n_grid"].max(), 3)
        for key in ("R", "Z", "N"):
            np.testing.assert_array_equal(efd[key], esp[key])
    named_files = {f"{s}_{kind}": (str(quiet / f"{kind}-{s}.npz"),) for s in SPLITS for kind in ("efd", "esp")}
    support.run_preprocess(named_files, tmp_path, checks="stop")


def test_finished_run_is_not_repeated(
    words: list[str], quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command computes nothing; other settings are refused, and the difference is named."""
    before = files(quiet)
    monkeypatch.setattr("preprocess.reference_data.run_tasks", lambda *_: pytest.fail("computed again"))
    reference_data.main([*words, "--output", str(quiet), "--workers", "1"])
    assert "train 48, valid 6, test 6" in capsys.readouterr().out
    for flags, difference in (
        (["--basis", "3-21g"], "basis = sto-3g, not 3-21g"),
        (["--density-fit"], "density_fit = none, not True"),
    ):
        with pytest.raises(UserError, match=rf"another calculation \({difference}\)"):
            reference_data.main([*words, "--output", str(quiet), *flags])
    assert files(quiet) == before


def test_finished_run_of_an_older_version_is_accepted(
    words: list[str], quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without quadrupoles, which is said; where a file is missing, all are made anew, and none counts meanwhile."""
    monkeypatch.setattr("preprocess.reference_data.run_tasks", lambda *_: pytest.fail("computed again"))
    shutil.copytree(quiet, tmp_path / "out")
    older = Output(tmp_path / "out")
    record = older.record()
    assert record
    del record["units"]["quadrupole"]
    older.write_record(record)
    reference_data.main([*words, "--output", str(tmp_path / "out")])
    assert "of an older version, without quadrupoles" in capsys.readouterr().out
    older.path("efd", "test").unlink()
    assert older.begin(record["settings"]) is None
    begun = older.record()
    assert begun == {"complete": False, "settings": record["settings"]}


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Run in a process of its own."""
    command = [sys.executable, "-m", "preprocess.reference_data", *words, "--output", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it is true, at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGKILL, signal.SIGTERM),
        pytest.param((signal.SIGINT, signal.SIGKILL, signal.SIGUSR1, signal.SIGINT), marks=pytest.mark.slow),
    ],
)
def test_disturbed_runs_end_as_if_undisturbed(
    words: list[str], quiet: Path, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    """Killed, by a queue, by Ctrl-C: no worker stays, finished geometries do, the last run's bytes agree."""
    folder = tmp_path / "out"
    codes = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: EXIT_INTERRUPTED}
    kept = [0]
    for number in signals:
        process = start(words, folder)
        wait_for(lambda: len(list(folder.glob("parts/*.npz"))) >= kept[-1] + 4 or process.poll() is not None)  # noqa: B023
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == codes.get(number, EXIT_STOPPED), errors
        assert "Traceback" not in errors
        assert errors.count("the same command") == (number != signal.SIGKILL)
        assert len(children) >= 2
        assert psutil.wait_procs(children, timeout=20)[1] == []
        kept.append(len(list(folder.glob("parts/*.npz"))))
        assert not list(folder.glob("*.npz"))
    assert all(before < after for before, after in pairwise(kept))
    reference_data.main([*words, "--output", str(folder)])
    assert files(folder) == files(quiet)


def test_geometries_that_do_not_converge_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each, and an entry in the record; the others are written."""
    words = ["--molecules", "H2", "H2O", "--basis", "sto-3g", "--split", "1", "0", "0", "--max-cycles"]
    out = ["--output", str(tmp_path / "out"), "--workers", "1"]
    reference_data.main([*words, "3", *out, "--keep-parts"])
    printed = capsys.readouterr().out
    assert printed.count("left out: H2O (molecule 1), sample 0: the SCF does not converge to 1e-09 Hartree in 3") == 1
    record = json.loads((tmp_path / "out" / "reference-data.json").read_text())
    assert [(entry["name"], entry["sample"]) for entry in record["left_out"]] == [("H2O", 0)]
    assert record["splits"] == {"train": 1, "valid": 0, "test": 0}
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2


def test_nothing_is_left_if_all_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, and the folder can be used again."""
    monkeypatch.setattr("preprocess.reference_data.run_tasks", lambda tasks, *_: [task() for task in tasks])
    with pytest.raises(UserError, match="none of 1 geometries"):
        reference_data.main(["--molecules", "H2O", "--basis", "sto-3g", "--max-cycles", "1", "--output", str(tmp_path)])
    assert files(tmp_path) == {}


def test_damaged_part_is_computed_again(tmp_path: Path) -> None:
    """Half of a file is as none; the same bytes come again."""
    task = ReferenceTask(tmp_path, named("H2"), SMALL, "2", Shells())
    assert task.result() is None
    task()
    content = task.path.read_bytes()
    task.path.write_bytes(content[: len(content) // 2])
    assert task.result() is None
    task()
    part = task.result()
    assert part is not None
    assert part.left_out is None
    assert task.path.read_bytes() == content
    assert Row(task.molecule, part.arrays).arrays["grid"].dtype == np.float32


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compute"),
        (["--molecules", "co2"], r"co2: not in ASE's collection \(did you mean 'CO2'"),
        (["--molecules", "CO2", "--method", "b2plyp"], "--method b2plyp: neither hf nor"),
        (["--molecules", "CO2", "--method", "pbe0-d3bj"], "dispersion"),
        (["--molecules", "CO2", "--basis", "6-32g"], "--basis 6-32g: PySCF has none of this name for C"),
        (["--molecules", "CO2", "--basis", "gth-dzvp"], "pseudopotentials"),
        (["--molecules", "LiH", "--basis", "cc-pvdz", "--density-fit"], "cc-pvdz-jkfit, which has no functions for Li"),
        (["--molecules", "H", "--samples", "3"], "H: a single atom has no conformers"),
        (["--molecules", "CO2", "CO2"], "the same geometry is given twice"),
        (["--molecules", "CO2", "--split", "0.8", "0.1", "0.2"], "adds up to 1.1"),
        (["--molecules", "CO2", "--samples", "2", "--temperature", "0", "--statistics", "classical"], "moves nothing"),
        (["--molecules", "CO2", "--density", "0"], "--density"),
    ],
)
def test_mistakes_in_settings_are_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(UserError, match=message):
        reference_data.main([*words, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


HEADER = "2\nProperties=species:S:1:pos:R:3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no frame"),
        ("hello\n", "not a readable extended XYZ"),
        (f"{HEADER}\nH 0 0 0\n", "not a readable extended XYZ"),
        (f"{HEADER}\nH 0 0 0\nQq 0 0 1\n", "'Qq' is no element"),
        (f"{HEADER}\nH 0 0 0\nX 0 0 1\n", "frame 0: an atom of no element"),
        (f"{HEADER}\nH 0 0 0\nH 0 0 nan\n", "not finite"),
        (f"{HEADER}\nH 0 0 0\nH 0 0 0.1\n", "are 0.1 Å apart"),
        (f"{HEADER} charge=1\nH 0 0 0\nH 0 0 1\n", r"1 electron\(s\) cannot have multiplicity 1"),
        (f"{HEADER} charge=0.5\nH 0 0 0\nH 0 0 1\n", "charge=0.5: not a whole number"),
        (f"{HEADER} charge=one\nH 0 0 0\nH 0 0 1\n", "charge = 'one' is not a total charge"),
        (f'{HEADER} Lattice="9 0 0 0 9 0 0 0 9"\nH 0 0 0\nH 0 0 1\n', "periodic"),
    ],
)
def test_mistakes_in_geometries_are_one_line(content: str, message: str, tmp_path: Path) -> None:
    """With the file and the frame."""
    path = tmp_path / "a.xyz"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        collect([], [str(path)])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_absent_pyscf_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help needs none."""
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[reference\]\""):
        reference_data.main(["--molecules", "CO2"])
    with pytest.raises(SystemExit):
        parse(["--help"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("efd-train.npz", "mine", "no reference-data.json"), ("reference-data.json", "{", "json: damaged")],
)
def test_folder_in_other_use_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    """What lies there stays."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        reference_data.main(["--molecules", "H2", "--output", str(tmp_path)])
    assert (tmp_path / name).read_text() == content


def test_dead_worker_is_told(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed for its memory, say: one line, what is finished is kept, and PySCF's temporary files are not."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PYSCF_TMPDIR", str(scratch))
    process = start(words, tmp_path / "out")
    wait_for(lambda: len(list((tmp_path / "out").glob("parts/*.npz"))) >= 2 or process.poll() is not None)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: a worker process died" in errors
    assert "Traceback" not in errors
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not list(scratch.iterdir())


def test_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where, and that nothing is lost."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preprocess.reference_data.run_tasks", fail)
    with pytest.raises(OSError, match="No space left on device; finished geometries are kept") as caught:
        reference_data.main(["--molecules", "H2", "--output", str(tmp_path)])
    assert caught.value.filename == str(tmp_path / "parts")

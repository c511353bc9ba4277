"""``python -m train.export_charges``: what other programs read back, against Coulomb's law and the predictor."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import ase
import ase.io
import ase.io.cube
import numpy as np
import pytest
from ase.build import molecule

from shared.errors import UserError
from tests.fixed_charges.readers import charges_of_dcm
from train import export_charges
from train.inference.charge_files import cube_grid, potential_cube
from train.inference.charmm_frames import choose_frames, local_frames_text
from train.inference.molecule_input import read_molecules
from train.inference.predictor import MoleculePrediction, Predictor

BOHR = 0.529177210903  # CODATA 2018, whose ninth digit differs from ASE's


def trajectory() -> list[ase.Atoms]:
    """Two geometries of water, the second one an ion, and methane."""
    frames = [molecule(name) for name in ("H2O", "H2O", "CH4")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    frames[1].info["charge"] = 1
    return frames


@pytest.fixture(scope="module")
def predictions(predictor: Predictor) -> list[MoleculePrediction]:
    """Of the trajectory."""
    return predictor.predict(trajectory())


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trajectory's files."""
    folder = tmp_path_factory.mktemp("charges")
    ase.io.write(folder / "trajectory.xyz", trajectory(), format="extxyz")
    flags = ["--cube", "--cube-spacing", "0.5", "--cube-margin", "2"]
    files = ["--geometry", str(folder / "trajectory.xyz"), "--output", str(folder / "out")]
    export_charges.main(["--run", str(run_folder), *files, *flags])
    return folder / "out"


def test_all_files_are_there_and_nothing_else(folder: Path) -> None:
    names = {"charges.xyz", "charges.csv", "esp-0.cube", "esp-1.cube", "esp-2.cube"}
    assert {path.name for path in folder.iterdir()} == names


def test_ase_reads_atoms_and_charges_back(folder: Path, predictions: list[MoleculePrediction]) -> None:
    read = ase.io.read(folder / "charges.xyz", index=":")
    for particles, atoms, expected in zip(read, trajectory(), predictions, strict=True):
        n = len(atoms)
        assert particles.get_potential_energy() == pytest.approx(expected.energy, abs=1e-6)
        np.testing.assert_array_equal(particles.numbers[:n], atoms.numbers)
        assert set(particles.symbols[n:]) == {"X"}
        np.testing.assert_allclose(particles.positions[:n], atoms.positions, atol=1e-7)
        np.testing.assert_allclose(particles.get_forces()[:n], expected.forces, atol=1e-7)
        charges, sites, parents = (
            part[n:] for part in (particles.arrays["dcm_charge"], particles.positions, particles.arrays["atom"])
        )
        np.testing.assert_allclose(particles.arrays["physnet_charge"][:n], expected.charges, atol=1e-7)
        # The sum of either column is the total charge.
        assert not particles.arrays["physnet_charge"][n:].any()
        assert not particles.arrays["dcm_charge"][:n].any()
        for atom in range(n):
            np.testing.assert_allclose(charges[parents == atom], expected.dcm_charges[atom], atol=1e-7)
            np.testing.assert_allclose(sites[parents == atom], expected.dcm_sites[atom], atol=1e-7)
        assert charges.sum() == pytest.approx(atoms.info.get("charge", 0.0), abs=1e-6)
        assert particles.info["charge"] == atoms.info.get("charge", 0.0)
        about = sites - atoms.get_center_of_mass()
        np.testing.assert_allclose(charges @ about, particles.info["dipole_dcm"], atol=1e-5)
        np.testing.assert_allclose(particles.info["quadrupole_dcm"], expected.quadrupole_dcm, atol=1e-7)


def test_the_table_has_the_dipole_and_the_charge_of_the_molecules(
    folder: Path, predictions: list[MoleculePrediction]
) -> None:
    with (folder / "charges.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for frame, (atoms, expected) in enumerate(zip(trajectory(), predictions, strict=True)):
        own = [row for row in rows if row["frame"] == str(frame)]
        assert [row["element"] for row in own] == [atoms.symbols[int(row["atom"])] for row in own]
        assert [(row["atom"], row["charge_index"]) for row in own] == [
            (str(atom), str(index)) for atom in range(len(atoms)) for index in range(2)
        ]
        charges = np.array([float(row["charge_e"]) for row in own])
        sites = np.array([[float(row[f"{axis}_angstrom"]) for axis in "xyz"] for row in own])
        assert charges.sum() == pytest.approx(atoms.info.get("charge", 0.0), abs=1e-8)
        np.testing.assert_allclose(charges @ (sites - atoms.get_center_of_mass()), expected.dipole_dcm, atol=1e-7)


def test_the_cube_is_coulombs_law_at_its_points(folder: Path, predictions: list[MoleculePrediction]) -> None:
    for frame, (atoms, expected) in enumerate(zip(trajectory(), predictions, strict=True)):
        with (folder / f"esp-{frame}.cube").open() as stream:
            cube = ase.io.cube.read_cube(stream)
        np.testing.assert_array_equal(cube["atoms"].numbers, atoms.numbers)
        np.testing.assert_allclose(cube["atoms"].positions, atoms.positions, atol=1e-5)
        values, origin, steps = cube["data"], cube["origin"], cube["spacing"]
        low, high = origin, origin + (np.array(values.shape) - 1) @ steps
        assert (low <= atoms.positions.min(axis=0) - 2.0 + 1e-4).all()
        assert (high >= atoms.positions.max(axis=0) + 2.0 - 1e-4).all()
        indices = np.argwhere(np.ones(values.shape, bool))
        points = origin + indices @ steps
        distances = np.linalg.norm(points[:, None] - expected.dcm_sites.reshape(1, -1, 3), axis=-1) / BOHR
        potential = (expected.dcm_charges.ravel() / distances).sum(axis=1).reshape(values.shape)
        outside = distances.min(axis=1).reshape(values.shape) > 0.5
        np.testing.assert_allclose(values[outside], potential[outside], rtol=2e-5, atol=1e-5)
        assert np.isfinite(values).all()


def test_a_cube_far_from_the_origin_can_be_read(predictor: Predictor) -> None:
    """Where the numbers fill their columns."""
    atoms = molecule("CO2")
    atoms.positions -= 600.0
    (prediction,) = predictor.predict([atoms])
    text = potential_cube(predictor, atoms, prediction, cube_grid(atoms, 1.0, 2.0))
    cube = ase.io.cube.read_cube(io.StringIO(text))
    np.testing.assert_allclose(cube["atoms"].positions, atoms.positions, atol=1e-5)


def test_the_cube_has_the_lines_that_strict_readers_want(folder: Path) -> None:
    lines = (folder / "esp-0.cube").read_text().splitlines()
    assert int(lines[2].split()[0]) == 3
    x, y, z = (int(lines[3 + i].split()[0]) for i in range(3))
    values = lines[9:]
    per_run = -(-z // 6)
    assert len(values) == x * y * per_run
    assert all(len(line) == 78 for line in values[: per_run - 1])
    assert [len(line.split()) for line in values[:per_run]] == [6] * (per_run - 1) + [z - 6 * (per_run - 1)]


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "HCN", "C2H2", "CO2", "N2", "H", "C6H6", "CH3CN", "two"])
def test_positions_come_back_from_local_frames(name: str) -> None:
    atoms = molecule("H2O") + molecule("CO2") if name == "two" else molecule(name)
    atoms.positions[3:] += [2.5, 1.0, 0.5] if name == "two" else 0.0
    rng = np.random.default_rng(0)
    n = len(atoms)
    displacements = 0.2 * rng.normal(size=(n, 3, 3))
    line = atoms.positions - atoms.positions.mean(axis=0)
    if np.linalg.matrix_rank(line, tol=1e-6) < 2:
        # By symmetry a model's charges are on the line of a linear molecule, and on the nucleus of an atom.
        axis = np.linalg.svd(line)[2][0] if n > 1 else np.zeros(3)
        displacements = displacements[..., :1] * axis
    charges, sites = rng.normal(size=(n, 3)), atoms.positions[:, None] + displacements
    text = local_frames_text(atoms, charges, sites, "MOL")
    for atom, own in enumerate(charges_of_dcm(text, atoms.positions)):
        np.testing.assert_allclose(own[:, :3], sites[atom], atol=1e-8)
        np.testing.assert_allclose(own[:, 3], charges[atom], atol=1e-9)
    # A turned molecule has the same local charges.
    turned = atoms.copy()
    turned.rotate(50.0, [1.0, 2.0, 3.0])
    turned_sites = ase.Atoms(f"X{3 * n}", sites.reshape(-1, 3))
    turned_sites.rotate(50.0, [1.0, 2.0, 3.0])
    again = local_frames_text(turned, charges, turned_sites.positions.reshape(n, 3, 3), "MOL")
    for lines in zip(text.splitlines()[4:], again.splitlines()[4:], strict=True):
        first, second = ([float(word) for word in line.split("!")[0].replace("BO", "").split()] for line in lines)
        np.testing.assert_allclose(first, second, atol=1e-7)


def test_the_axes_are_those_of_the_format() -> None:
    """By hand: atom 2 in the origin, 1 above it on z, 3 beside it on x. A charge of atom 1 that is displaced
    away from atom 3 has a positive x there, one along +y a positive y, one away from atom 2 a positive z."""
    atoms = ase.Atoms("HOH", [[0, 0, 0.95], [0, 0, 0], [0.9, 0, 0.3]])
    sites = atoms.positions[:, None] + np.zeros((3, 1, 3))
    sites[0, 0] += [-0.1, 0.2, 0.3]
    sites[2, 0] += [0.09, 0.0, 0.03]
    text = local_frames_text(atoms, np.array([[0.5], [-1.0], [0.5]]), sites, "WAT")
    assert text.splitlines()[2].split()[0] == "WAT"
    assert text.splitlines()[4].split()[:4] == ["1", "2", "3", "BO"]
    values = [[float(word) for word in line.split()] for line in text.splitlines()[6::2] if line]
    np.testing.assert_allclose(values[0], [0.1, 0.2, 0.3, 0.5], atol=1e-9)
    np.testing.assert_allclose(values[2], [0.0, 0.0, np.sqrt(0.009), 0.5], atol=1e-9)


def test_frames_are_bonded_and_few() -> None:
    ethanol = molecule("CH3CH2OH")
    frames = choose_frames(ethanol)
    assert {atom for frame in frames for atom in frame} == set(range(9))
    assert len(frames) <= 5
    for first, middle, last in frames:
        assert ethanol.get_distance(first, middle) < 1.6
        assert ethanol.get_distance(middle, last) < 1.6


def test_a_models_charges_come_back_from_local_frames(predictor: Predictor) -> None:
    """Of a linear molecule too, on whose line they are by symmetry."""
    chosen = [molecule("CO2"), trajectory()[0]]
    for atoms, expected in zip(chosen, predictor.predict(chosen), strict=True):
        text = local_frames_text(atoms, expected.dcm_charges, expected.dcm_sites, "MOL")
        for atom, own in enumerate(charges_of_dcm(text, atoms.positions)):
            np.testing.assert_allclose(own[:, :3], expected.dcm_sites[atom], atol=1e-6)
            np.testing.assert_allclose(own[:, 3], expected.dcm_charges[atom], atol=1e-8)


def test_charges_beside_a_linear_molecule_have_no_frame() -> None:
    atoms = molecule("CO2")
    sites = atoms.positions[:, None] + np.array([0.1, 0.0, 0.0])
    with pytest.raises(UserError, match=r"atom . lies 0.1 Å beside the line"):
        local_frames_text(atoms, np.ones((3, 1)), sites, "CO2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of the two"),
        (["--molecule", "unobtainium"], "ASE does not know it"),
        (["--molecule", "HCl"], "not trained on Cl"),
        (["--geometry", "nothing.xyz"], "nothing.xyz: no such file"),
        (["--molecule", "H2O", "--cube", "--cube-spacing", "0"], "cube-spacing"),
        (["--molecule", "H2O", "--cube", "--cube-spacing", "1e-3"], "grid points, more than 20,000,000"),
        (["--molecule", "H2O", "--charge", "nan"], "charge"),
        (["--molecule", "H2O", "--residue", "a b"], "at most eight letters"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    run_folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_charges.main(["--run", str(run_folder), "--output", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


def test_one_conformer_has_local_frames(run_folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "trajectory.xyz"
    ase.io.write(path, trajectory(), format="extxyz")
    arguments = ["--run", str(run_folder), "--output", str(tmp_path / "out"), "--local-frames", "--geometry"]
    with pytest.raises(UserError, match=r"holds 3 frames.*trajectory\.xyz@0"):
        export_charges.main([*arguments, str(path)])
    export_charges.main([*arguments, f"{path}@0", "--residue", "WAT", "--charge", "-1"])
    text = (tmp_path / "out" / "local-frames.dcm").read_text()
    assert text.splitlines()[2].split()[0] == "WAT"
    anion = trajectory()[0]
    anion.info["charge"] = -1
    (expected,) = predictor.predict([anion])
    for atom, own in enumerate(charges_of_dcm(text, anion.positions)):
        np.testing.assert_allclose(own[:, :3], expected.dcm_sites[atom], atol=1e-6)
        np.testing.assert_allclose(own[:, 3], expected.dcm_charges[atom], atol=1e-8)


def test_what_an_earlier_export_left_is_not_taken_for_this_one(run_folder: Path, tmp_path: Path) -> None:
    for name in ("esp-0.cube", "esp-7.cube", "local-frames.dcm", "esp-mine.cube"):
        (tmp_path / name).write_text("older")
    export_charges.main(["--run", str(run_folder), "--molecule", "H2O", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"charges.xyz", "charges.csv", "esp-mine.cube"}


@pytest.mark.parametrize("charge", ["plenty", "nan"])
def test_a_charge_that_is_no_number(tmp_path: Path, charge: str) -> None:
    (tmp_path / "ion.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3 charge={charge}\nO 0 0 0\n")
    with pytest.raises(UserError, match=r"ion\.xyz, frame 0: charge = .* is not"):
        read_molecules("", str(tmp_path / "ion.xyz"))


def test_a_periodic_file_is_taken_for_molecules_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = trajectory()
    frames[2].set_cell([9.0, 9.0, 9.0])
    frames[2].pbc = True
    ase.io.write(tmp_path / "box.xyz", frames, format="extxyz")
    assert not read_molecules("", str(tmp_path / "box.xyz"))[2].pbc.any()
    assert "1 of 3 frames are periodic" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content"), [("a.xyz", "2\n\nO 0\n"), ("a.cif", "data"), ("a.json", "{"), ("b", "")])
def test_files_without_molecules(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"cannot read it|no molecules"):
        read_molecules("", str(tmp_path / name))


def test_a_full_disk_leaves_nothing_half_written(
    run_folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.inference.predictor.Predictor", lambda run, precision, strict: predictor)
    monkeypatch.setattr("shared.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_charges.main(["--run", str(run_folder), "--output", str(tmp_path), "--molecule", "H2O"])
    assert not list(tmp_path.iterdir())

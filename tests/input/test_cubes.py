"""ESP of cube files, against the analytic potential of point charges and against PySCF's own cubes."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.data.vdw_alvarez import vdw_radii
from ase.io.cube import read_cube, write_cube

from shared.digests import file_digest
from shared.errors import UserError
from shared.input.cubes import CubeGrid, GridShell, find_cubes, read_grid

BOHR = 0.529177210903  # Å, CODATA 2018


def water(seed: int = 0) -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return atoms


def potential(atoms: ase.Atoms, points: np.ndarray) -> np.ndarray:
    """Hartree/e on points (…, 3) in Å, of charges on the atoms and of a cloud of screening charge around each."""
    charges = {1: 0.4, 8: -0.8}
    values = np.zeros(points.shape[:-1])
    for number, position in zip(atoms.numbers, atoms.positions, strict=True):
        distance = np.linalg.norm(points - position, axis=-1) / BOHR
        values += (charges[int(number)] + number * np.exp(-3.0 * distance)) / np.maximum(distance, 1e-3)
    return values


def write_potential(path: Path, atoms: ase.Atoms, step: float = 0.25, margin: float = 4.5) -> Path:
    """A cube of the potential, whose axes are not equal and whose origin is not zero."""
    low = atoms.positions.min(axis=0) - margin
    steps = step * np.array([1.0, 1.1, 0.9])
    counts = np.ceil((np.ptp(atoms.positions, axis=0) + 2 * margin) / steps).astype(int) + 1
    points = low + np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1) * steps
    boxed = atoms.copy()
    boxed.set_cell(counts * steps)
    with path.open("w", encoding="utf-8") as stream:
        write_cube(stream, boxed, potential(atoms, points), origin=low)
    return path


def read(path: Path, shell: GridShell | None = None) -> CubeGrid:
    return read_grid(path, shell or GridShell(points=10**6), file_digest(path))


def refused(path: Path, shell: GridShell | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read(path, shell)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_potential(tmp_path_factory.mktemp("cube") / "water.cube", water())


def test_points_values_and_atoms_are_those_of_the_potential(cube: Path) -> None:
    grid = read(cube)
    np.testing.assert_array_equal(grid.numbers, water().numbers)
    np.testing.assert_allclose(grid.positions, water().positions, atol=1e-6)
    np.testing.assert_allclose(grid.esp, potential(water(), grid.points), rtol=1e-4, atol=2e-6)
    assert np.abs(grid.esp).max() > 1e-2


def test_the_points_are_all_those_of_the_shell(cube: Path) -> None:
    """Every point of the box is between the two multiples of the radii, or is left out; by brute force."""
    with cube.open(encoding="utf-8") as stream:
        content = read_cube(stream)
    indices = np.argwhere(np.ones(content["data"].shape, bool))
    points = content["origin"] + indices @ content["spacing"]
    radii = np.array(vdw_radii)[water().numbers]
    multiples = np.linalg.norm(points[:, None] - content["atoms"].positions, axis=-1) / radii
    for inner, outer in ((1.4, 2.0), (1.0, 1.2)):
        expected = points[(multiples.min(axis=1) > inner) & (multiples.min(axis=1) <= outer)]
        found = read(cube, GridShell(inner, outer, 10**6)).points
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert 500 < len(found) < 0.5 * len(points)


def test_the_draw_is_of_the_content_alone(cube: Path, tmp_path: Path) -> None:
    every = read(cube)
    first = read(cube, GridShell(points=300))
    (tmp_path / "copy.cube").write_bytes(cube.read_bytes())
    again = read(tmp_path / "copy.cube", GridShell(points=300))
    np.testing.assert_array_equal(first.points, again.points)
    assert len(np.unique(first.points, axis=0)) == 300
    assert {tuple(point) for point in first.points} < {tuple(point) for point in every.points}
    other = read_grid(cube, GridShell(points=300), "7")
    assert not {tuple(point) for point in first.points} <= {tuple(point) for point in other.points}
    # All of the shell takes part in the draw: its mean is that of the shell to sampling noise.
    noise = every.points.std(axis=0) / np.sqrt(300)
    assert (np.abs(first.points.mean(axis=0) - every.points.mean(axis=0)) < 4 * noise).all()


def test_a_box_that_ends_inside_of_the_shell_is_measured(cube: Path, tmp_path: Path) -> None:
    assert read(cube).cut_off < 0.0
    small = read(write_potential(tmp_path / "small.cube", water(), margin=2.5))
    # The outermost atom along some axis needs twice its radius, and has 2.5 Å.
    radii = np.array(vdw_radii)[water().numbers][:, None]
    low, high = water().positions - 2.0 * radii, water().positions + 2.0 * radii
    lacking = (water().positions.min(axis=0) - 2.5 - low).max()
    assert small.cut_off == pytest.approx(lacking, abs=1e-4)
    assert small.cut_off >= (high - water().positions.max(axis=0) - 2.5 - 0.3).max()
    assert "no point is between" in refused(write_potential(tmp_path / "tiny.cube", water(), margin=0.5))


@pytest.fixture(scope="module")
def pyscf_cubes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """Water's ESP and density by PySCF, and its dipole in e·Å."""
    gto, scf = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.scf")
    from pyscf.tools import cubegen

    atoms = list(zip(water().symbols, water().positions.tolist(), strict=True))
    mol = gto.M(atom=atoms, basis="sto-3g", unit="Angstrom", verbose=0)
    field = scf.RHF(mol).run()
    folder = tmp_path_factory.mktemp("pyscf")
    size = {"nx": 28, "ny": 28, "nz": 28, "margin": 8.0}
    cubegen.mep(mol, str(folder / "esp.cube"), field.make_rdm1(), **size)
    cubegen.density(mol, str(folder / "density.cube"), field.make_rdm1(), **size)
    return folder / "esp.cube", folder / "density.cube", field.dip_moment(unit="AU", verbose=0) * BOHR


def test_pyscfs_cube_has_the_molecules_dipole(pyscf_cubes: tuple[Path, Path, np.ndarray]) -> None:
    """Charges on the atoms fitted to its points: unit, sign and frame are right, or the dipole is not."""
    esp, _, dipole = pyscf_cubes
    grid = read(esp)
    np.testing.assert_allclose(grid.positions, water().positions, atol=1e-5)
    inverse = BOHR / np.linalg.norm(grid.points[:, None] - grid.positions, axis=-1)
    neutral = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    charges = neutral @ np.linalg.lstsq(inverse @ neutral, grid.esp, rcond=None)[0]
    np.testing.assert_allclose(charges @ grid.positions, dipole, atol=0.02)


def test_a_density_is_not_taken_for_an_esp(pyscf_cubes: tuple[Path, Path, np.ndarray]) -> None:
    message = refused(pyscf_cubes[1])
    assert "electron density" in message
    assert "the nuclei have 10" in message


def test_the_esp_of_a_cation_and_of_a_noble_gas_is_no_density(tmp_path: Path) -> None:
    """Nowhere negative, as a density is. Neon's as that of shells 1s² 2s² 2p⁶ of Slater's, by quadrature."""
    edge = np.linspace(-4.5, 4.5, 37)
    points = np.stack(np.meshgrid(edge, edge, edge, indexing="ij"), axis=-1)
    distance = np.maximum(np.linalg.norm(points, axis=-1) / BOHR, 0.05)
    radii = np.linspace(1e-4, 30.0, 60_000)
    step = radii[1] - radii[0]
    density = 2 * 9.7**3 * np.exp(-2 * 9.7 * radii) / np.pi
    density += 8 * 2.879**5 * radii**2 * np.exp(-2 * 2.879 * radii) / (3 * np.pi)
    shells = 4 * np.pi * radii**2 * density * step
    assert shells.sum() == pytest.approx(10.0, abs=1e-3)
    inside = np.interp(distance, radii, np.cumsum(shells))
    outside = np.interp(distance, radii, np.cumsum((shells / radii)[::-1])[::-1])
    neon = 10.0 / distance - inside / distance - outside
    for name, number, values in (("neon", 10, np.maximum(neon, 0.0)), ("lithium", 3, 1.0 / distance)):
        atoms = ase.Atoms(numbers=[number], positions=[[0.0, 0.0, 0.0]], cell=37 * np.full(3, edge[1] - edge[0]))
        with (tmp_path / name).open("w") as stream:
            write_cube(stream, atoms, values, origin=np.full(3, edge[0]))
        assert len(read(tmp_path / name).esp)


def test_files_that_are_not_a_whole_esp_are_one_line(cube: Path, tmp_path: Path) -> None:
    lines = cube.read_text(encoding="utf-8").splitlines(keepends=True)

    def changed(name: str, **changes: str) -> Path:
        """The cube with other lines: ``l2="..."`` is the third one."""
        own = list(lines)
        for key, text in changes.items():
            own[int(key[1:])] = text + "\n"
        (tmp_path / name).write_text("".join(own))
        return tmp_path / name

    half = tmp_path / "half.cube"
    half.write_text("".join(lines[: len(lines) // 2]))
    assert "not a complete Gaussian cube file" in refused(half)
    half.write_text("".join(lines[:4]))
    assert "not a complete Gaussian cube file" in refused(half)
    half.write_text("")
    assert "not a complete Gaussian cube file" in refused(half)
    assert "negative (-3)" in refused(changed("orbitals.cube", l2=lines[2].rstrip().replace("    3", "   -3", 1)))
    assert "2 values at each point" in refused(changed("two.cube", l2=lines[2].rstrip() + "    2"))
    assert "lengths in Å" in refused(changed("angstrom.cube", l3="-" + lines[3].strip()))
    assert "atom 0 has atomic number 0" in refused(changed("ghost.cube", l6=" 0 0.0 0.0 0.0 0.0"))
    assert "not finite" in refused(changed("nan.cube", l9="nan"))
    one = changed("one.cube", l2=lines[2].rstrip() + "    1")
    np.testing.assert_array_equal(read(one).esp, read(cube).esp)


def test_folders_globs_and_lists_in_natural_order(tmp_path: Path) -> None:
    for name in ("esp-10.cube", "esp-2.cube", "esp-1.cub", "notes.txt"):
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("esp-1.cub", "esp-2.cube", "esp-10.cube")]
    assert find_cubes([str(tmp_path)]) == expected
    assert find_cubes([str(tmp_path / "*.cub*")]) == expected
    assert find_cubes([str(path) for path in expected[::-1]]) == expected
    (tmp_path / "none").mkdir()
    for names, message in (
        ([str(tmp_path / "none")], "no .cube or .cub files"),
        (["other.cube"], "no such file"),
        (["*.nothing"], "matches no file"),
        ([], "no file is named"),
    ):
        with pytest.raises(UserError, match=message):
            find_cubes(names)

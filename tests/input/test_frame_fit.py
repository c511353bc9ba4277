"""Shifts of grids whose true frame is known: the carried sample's shells, cubes by PySCF, and made-up spheres."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import gammaincc

from shared.input import frame_multipoles
from shared.input.frame_fit import FrameFit, centroid_shift, fit_shift, origin_shift
from shared.input.frame_lattice import is_lattice
from shared.units import BOHR_IN_ANGSTROM

SAMPLE = Path(__file__).parents[2] / "shared" / "sample"
CUBES = Path(__file__).parent / "data" / "cubes.npz"


class Molecule(NamedTuple):
    """A molecule with its grid in the atoms' frame."""

    numbers: np.ndarray
    positions: np.ndarray
    points: np.ndarray
    esp: np.ndarray

    def fit(self, shift: np.ndarray | float) -> tuple[FrameFit, float]:
        """The fit once the points were moved by -shift, and its error in Å."""
        found = fit_shift(self.numbers, self.positions, self.points - shift, self.esp)
        return found, float(np.linalg.norm(found.shift - shift))

    def only(self, some: np.ndarray) -> Molecule:
        """With some of the points."""
        return self._replace(points=self.points[some], esp=self.esp[some])


def shells(name: str) -> list[Molecule]:
    """The test split of the carried sample, on Merz-Kollman shells."""
    with np.load(SAMPLE / f"{name}-esp-test.npz") as file:
        arrays = [file[key] for key in ("Z", "R", "N", "n_grid", "vdw_surface", "esp")]
    return [
        Molecule(z[:n].astype(int), r[:n].astype(float), points[:g].astype(float), esp[:g].astype(float))
        for z, r, n, g, points, esp in zip(*arrays, strict=True)
    ]


def cubes() -> tuple[list[Molecule], np.ndarray]:
    """Cubes counted from their first points, and their origins in Bohr."""
    with np.load(CUBES) as file:
        arrays = {key: file[key] for key in file.files}
    points = arrays["spacing"] * arrays["index"] * BOHR_IN_ANGSTROM
    found = []
    for number, positions, grid, esp in zip(arrays["numbers"], arrays["positions"], points, arrays["esp"], strict=True):
        real = number > 0
        found.append(Molecule(number[real], positions[real], grid, esp))
    return found, arrays["grid_origin"]


def spheres(
    numbers: list[int], positions: np.ndarray, radii: dict[int, list[float]], rng: np.random.Generator, density: float
) -> Molecule:
    """Points at random on spheres of any radii, in random order, with the ESP of charges at the atoms."""
    z, found = np.array(numbers), []
    for k in range(len(radii[numbers[0]])):
        radius = np.array([radii[number][k] for number in numbers])
        for atom in range(len(z)):
            directions = rng.normal(size=(round(4 * np.pi * radius[atom] ** 2 * density), 3))
            points = positions[atom] + radius[atom] * directions / np.linalg.norm(directions, axis=1, keepdims=True)
            found.append(points[(np.linalg.norm(points[:, None] - positions, axis=2) >= radius - 1e-9).all(axis=1)])
    points = rng.permutation(np.concatenate(found))
    charges = rng.normal(0.0, 0.3, len(z))
    return Molecule(z, positions, points, potential(charges, positions, points))


def potential(charges: np.ndarray, positions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """ESP in Hartree/e."""
    return (charges * BOHR_IN_ANGSTROM / np.linalg.norm(points[:, None] - positions, axis=2)).sum(axis=1)


WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])


@pytest.mark.parametrize("name", ["co2", "mixed"])
def test_shells_are_found_to_rounding_wherever_the_grid_lies(name: str) -> None:
    """All molecules of the sample, with a random shift and with the least coordinates at zero."""
    rng = np.random.default_rng(1)
    for molecule in shells(name):
        for shift in (rng.uniform(-6.0, 6.0, 3), molecule.points.min(axis=0), np.zeros(3)):
            fit, error = molecule.fit(shift)
            assert (fit.method, fit.sharp) == ("shells", True)
            assert error < 1e-6
            assert error <= 4 * fit.uncertainty
            assert fit.in_frame == (not shift.any())
            assert fit.residual < 0.1


@pytest.mark.parametrize(
    ("change", "largest"),
    [
        (lambda molecule, rng: molecule._replace(points=molecule.points.astype(np.float32)), 1e-5),
        (lambda molecule, rng: molecule.only(rng.permutation(len(molecule.esp))), 1e-6),
        (lambda molecule, rng: molecule.only(rng.random(len(molecule.esp)) < 0.5), 1e-6),
        (lambda molecule, rng: molecule.only(np.abs(molecule.esp) < 0.016), 1e-6),
        (lambda molecule, rng: molecule._replace(esp=rng.permutation(molecule.esp)), 1e-6),
    ],
    ids=["float32", "another order", "half the points", "large ESP dropped", "ESP in another order"],
)
def test_shells_are_found_in_damaged_grids(change, largest: float) -> None:
    rng = np.random.default_rng(2)
    for molecule in shells("mixed")[::3]:
        fit, error = change(molecule, rng).fit(rng.uniform(-4.0, 4.0, 3))
        assert fit.method == "shells"
        assert fit.sharp
        assert error < largest


def test_float16_grids_cost_a_ten_thousandth_angstrom() -> None:
    rng = np.random.default_rng(3)
    for molecule in shells("mixed")[::3]:
        shift = rng.uniform(-4.0, 4.0, 3)
        rounded = (molecule.points - shift).astype(np.float16)
        fit = fit_shift(molecule.numbers, molecule.positions, rounded, molecule.esp)
        error = np.linalg.norm(fit.shift - shift)
        assert fit.sharp
        assert error < 1e-3
        assert error < 4 * fit.uncertainty


@pytest.mark.parametrize(
    ("numbers", "positions", "radii"),
    [
        ([8, 1, 1], WATER, {8: [2.13], 1: [1.71]}),
        ([8, 1, 1], WATER, {8: [1.9, 2.4, 2.8, 3.7, 4.4], 1: [1.5, 2.0, 2.5, 3.1, 4.0]}),
        ([17, 1], np.array([[0.0, 0.1, 0.0], [0.0, 0.1, 1.29]]), {17: [2.4, 3.1], 1: [1.7, 2.2]}),
        ([7, 7], np.array([[0.0, 0.0, 0.55], [0.0, 0.0, -0.55]]), {7: [2.0, 2.6]}),
        ([18], np.zeros((1, 3)), {18: [2.6]}),
    ],
    ids=["one shell", "five shells", "hydrogen almost buried", "equal atoms", "one atom"],
)
def test_any_radii_are_found(numbers: list[int], positions: np.ndarray, radii: dict[int, list[float]]) -> None:
    rng = np.random.default_rng(4)
    for _ in range(3):
        fit, error = spheres(numbers, positions, radii, rng, density=1.2).fit(rng.uniform(-3.0, 3.0, 3))
        assert fit.method == "shells"
        assert fit.sharp
        assert error < 1e-6


def test_cubes_are_found_by_their_holes_and_the_esp() -> None:
    molecules, origins = cubes()
    errors, scaled, centroids = [], [], []
    for molecule, origin in zip(molecules, origin_shift(origins), strict=True):
        fit = fit_shift(*molecule)
        assert fit.method == "cube"
        assert fit.sharp
        assert not fit.in_frame
        errors.append(np.linalg.norm(fit.shift - origin))
        scaled.append(errors[-1] / fit.uncertainty)
        centroids.append(np.linalg.norm(centroid_shift(molecule.positions, molecule.points) - origin))
        assert molecule._replace(points=molecule.points + origin).fit(0.0)[0].in_frame
    assert np.median(errors) < 0.015
    assert max(errors) < 0.04
    assert 0.3 < np.median(scaled) < 1.5
    assert max(scaled) < 3.5
    assert np.median(centroids) > 0.1


def test_a_whole_cube_is_found_without_its_esp() -> None:
    """More points, sharper holes; an ESP that does not belong to the points is left aside."""
    rng = np.random.default_rng(5)
    axis = np.arange(-4.0, 4.0, 0.16)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = WATER + rng.uniform(-0.2, 0.2, 3)
    points = points[(np.linalg.norm(points[:, None] - positions, axis=2) >= 0.9).all(axis=1)]
    esp = rng.permutation(potential(np.array([-0.8, 0.4, 0.4]), positions, points))
    fit, error = Molecule(np.array([8, 1, 1]), positions, points, esp).fit(np.array([0.3, -1.0, 2.0]))
    assert (fit.method, fit.sharp) == ("cube", True)
    assert error < 0.005
    assert error < 4 * fit.uncertainty
    assert fit.residual > 0.5


def turned(molecule: Molecule) -> Molecule:
    """The molecule and its points rotated: no lattice along the axes any more."""
    rotation = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0]
    return molecule._replace(positions=molecule.positions @ rotation, points=molecule.points @ rotation)


def test_the_esp_alone_tells_within_its_uncertainty() -> None:
    molecules, origins = cubes()
    errors = []
    for molecule, origin in zip(molecules, origin_shift(origins), strict=True):
        fit, error = turned(molecule._replace(points=molecule.points + origin)).fit(np.array([0.1, -0.2, 0.1]))
        assert fit.method == "multipoles"
        assert error < 4 * fit.uncertainty
        errors.append(error)
    assert np.median(errors[:4]) < 0.02, "CO2"
    assert max(errors) < 0.2


def test_an_esp_of_other_points_is_not_sharp() -> None:
    molecule = turned(cubes()[0][0])
    fit = fit_shift(*molecule._replace(esp=molecule.esp[::-1]))
    assert (fit.method, fit.sharp) == ("multipoles", False)
    assert fit.uncertainty > 0.5


def test_heavy_noise_widens_the_uncertainty() -> None:
    molecules, origins = cubes()
    rng = np.random.default_rng(7)
    for molecule, origin in list(zip(molecules, origin_shift(origins), strict=True))[:5]:
        exact = turned(molecule._replace(points=molecule.points + origin))
        noisy, error = exact._replace(esp=exact.esp + rng.normal(0.0, 1e-3, len(exact.esp))).fit(0.0)
        assert noisy.uncertainty > 1.5 * exact.fit(0.0)[0].uncertainty
        assert error < 3 * noisy.uncertainty


def test_missing_and_meaningless_points_give_numbers_that_are_not_sharp() -> None:
    molecule, rng = shells("mixed")[5], np.random.default_rng(8)
    spoilt = molecule._replace(points=molecule.points.copy(), esp=molecule.esp.copy())
    spoilt.points[3], spoilt.esp[7] = np.nan, np.inf
    assert spoilt.fit(1.0)[1] < 1e-6
    for points, esp in (
        (np.zeros((0, 3)), np.zeros(0)),
        (molecule.points[:5], molecule.esp[:5]),
        (np.zeros((100, 3)), np.zeros(100)),
        (np.full((100, 3), np.nan), np.zeros(100)),
        (np.full((100, 3), 1e6), np.zeros(100)),
        (rng.normal(0.0, 3.0, (100, 3)), rng.normal(size=100)),
        (rng.normal(0.0, 3.0, (100, 3)), np.zeros(100)),
    ):
        fit = fit_shift(molecule.numbers, molecule.positions, points, esp)
        assert not fit.sharp
        assert np.isfinite([*fit.shift, fit.uncertainty, fit.residual]).all()


@pytest.mark.parametrize(
    ("numbers", "positions", "points", "esp"),
    [
        (np.array([6, 0]), np.zeros((2, 3)), np.zeros((20, 3)), np.zeros(20)),
        (np.array([6]), np.full((1, 3), np.nan), np.zeros((20, 3)), np.zeros(20)),
        (np.array([6]), np.zeros((2, 3)), np.zeros((20, 3)), np.zeros(20)),
        (np.array([6]), np.zeros((1, 3)), np.zeros((20, 3)), np.zeros(19)),
        (np.array([], dtype=int), np.zeros((0, 3)), np.zeros((20, 3)), np.zeros(20)),
    ],
)
def test_wrong_arguments_are_refused(
    numbers: np.ndarray, positions: np.ndarray, points: np.ndarray, esp: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="received"):
        fit_shift(numbers, positions, points, esp)


def test_lattices_are_told_from_other_points() -> None:
    molecules, _ = cubes()
    rng = np.random.default_rng(9)
    for molecule in molecules:
        some = rng.choice(3000, 150, replace=False)
        for points in (molecule.points, molecule.points[some] + 1.7, molecule.points.astype(np.float16)):
            assert is_lattice(np.asarray(points, dtype=np.float64))
        assert not is_lattice(turned(molecule).points)
    assert not any(is_lattice(molecule.points) for molecule in shells("mixed"))
    assert not any(is_lattice(molecule.points[::10]) for molecule in shells("mixed"))


def test_penetration_is_that_of_a_slater_density() -> None:
    """(1 - enclosed charge) / r less the outer shells' potential, with scipy's incomplete gamma functions."""
    for n in (1, 2, 3):
        for r in (0.6, 1.3, 3.0, 8.0):
            decay = 2.0 * 1.3
            value, slope = frame_multipoles._radial(frame_multipoles._SLATER, 0, 0.0, r, decay, n)
            enclosed = 1.0 - gammaincc(2 * n + 1, decay * r)
            outer = decay / (2 * n) * gammaincc(2 * n, decay * r)
            assert value == pytest.approx(1.0 / r - enclosed / r - outer, abs=1e-13)
            assert slope == pytest.approx(-(1.0 - enclosed) / r**2, abs=1e-13)


@pytest.mark.parametrize("n_points", [400, 30], ids=["more points than moments", "fewer"])
def test_a_step_is_that_of_the_dense_formulas(n_points: int) -> None:
    """Against NumPy's inverse of the whole covariance, and slopes by finite differences."""
    molecule = shells("mixed")[5].only(np.arange(n_points) % len(shells("mixed")[5].esp))
    atoms = frame_multipoles.atoms_of(molecule.numbers, molecule.positions)
    shift, guess = np.array([0.05, -0.02, 0.01]), np.array([0.02, 0.0, 0.0])
    step, covariance, residual = frame_multipoles._iterate(*atoms, molecule.points, molecule.esp, shift, guess)

    def design(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return frame_multipoles._design(*atoms, molecule.points, molecule.esp, at)

    columns, target, noise = design(shift)
    inverse = np.linalg.inv(np.eye(n_points) + columns @ columns.T)
    moments = columns.T @ inverse @ target

    def model(at: np.ndarray) -> np.ndarray:
        far_columns, far_target, far_noise = design(at)
        return far_noise * (far_columns @ moments - far_target) + molecule.esp

    slopes = np.stack([(model(shift + h) - model(shift - h)) / 2e-4 for h in 1e-4 * np.eye(3)], axis=1) / noise[:, None]
    scale = frame_multipoles._REDUNDANCY * target @ inverse @ target / n_points
    prior = np.eye(3) / frame_multipoles.PRIOR_SPREAD**2
    expected = np.linalg.inv(slopes.T @ inverse @ slopes / scale + prior)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-9)
    gradient = slopes.T @ inverse @ target / scale - prior @ (shift - guess)
    np.testing.assert_allclose(step, expected @ gradient, rtol=1e-4, atol=1e-7)
    misfit = noise * (inverse @ target)
    assert residual == pytest.approx(np.linalg.norm(misfit) / np.linalg.norm(molecule.esp), rel=1e-6)


def test_the_predecessors_and_the_cubes_shift() -> None:
    positions, points = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), np.array([[5.0, 1.0, 0.0], [7.0, 3.0, 0.0]])
    np.testing.assert_allclose(centroid_shift(positions, points), [-5.0, -2.0, 0.0])
    np.testing.assert_allclose(origin_shift(np.array([[-1.0, 0.0, 2.0]])), [[-0.529177, 0.0, 1.058354]], atol=1e-6)

"""Shifts of grids: found where they are known, and not trusted where nothing tells them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from shared.input.frame_fit import FrameFit, centroid_shift, fit_shift, origin_shift
from shared.units import BOHR_IN_ANGSTROM
from tests import support

FORMATS = Path(__file__).parent / "formats"
Molecule = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def molecules(kind: str, rows: np.ndarray) -> list[Molecule]:
    """Numbers, positions, points and ESP of some of the sample's molecules, on Merz-Kollman shells."""
    efd, esp = support.read_sample(kind, "train", rows)
    return [
        (
            efd["Z"][i, :n],
            efd["R"][i, :n].astype(np.float64),
            esp["vdw_surface"][i, :k].astype(np.float64),
            esp["esp"][i, :k].astype(np.float64),
        )
        for i, (n, k) in enumerate(zip(efd["N"], esp["n_grid"], strict=True))
    ]


def shifted(molecule: Molecule, seed: int) -> tuple[FrameFit, np.ndarray]:
    """The fit of a molecule whose grid was moved, in float32 as files have it, and the true shift."""
    numbers, positions, points, esp = molecule
    true = np.random.default_rng(seed).normal(scale=3.0, size=3)
    moved = (points - true).astype(np.float32).astype(np.float64)
    return fit_shift(numbers, positions, moved, esp), true


@pytest.mark.parametrize(("kind", "rows"), [("co2", np.arange(0, 240, 12)), ("mixed", np.arange(0, 304, 8))])
def test_shells_tell_the_shift_to_the_digits_of_the_file(kind: str, rows: np.ndarray) -> None:
    """Every molecule, whatever its symmetry."""
    for seed, molecule in enumerate(molecules(kind, rows)):
        fit, true = shifted(molecule, seed)
        assert fit.sharp, seed
        assert fit.method == "shells"
        assert np.linalg.norm(fit.shift - true) < 1e-4
        assert fit.uncertainty < 0.01


def test_points_in_the_frame_stay_there() -> None:
    """A shift of nothing, also after the corner of the grid was moved to the origin and back."""
    for molecule in molecules("mixed", np.arange(0, 64, 8)):
        fit = fit_shift(*molecule)
        assert fit.in_frame
        assert np.linalg.norm(fit.shift) < 1e-4


def test_the_fit_turns_and_moves_with_the_molecule() -> None:
    """Turned with its grid, a molecule has the turned shift."""
    numbers, positions, points, esp = molecules("mixed", np.array([40]))[0]
    turn = Rotation.random(random_state=1).as_matrix()
    true = np.array([0.4, -1.0, 2.0])
    fit = fit_shift(numbers, positions @ turn.T + 7.0, (points - true) @ turn.T + 7.0, esp)
    np.testing.assert_allclose(fit.shift, turn @ true, atol=1e-4)


@pytest.mark.parametrize("points", [100, 200])
def test_a_part_of_the_points(points: int) -> None:
    """Thinned, the shells still tell; where they do not, the fit is not trusted or its error is as large as it says."""
    for seed, (numbers, positions, grid, esp) in enumerate(molecules("mixed", np.arange(0, 304, 16))):
        kept = np.sort(np.random.default_rng(seed).choice(len(esp), min(points, len(esp)), replace=False))
        fit, true = shifted((numbers, positions, grid[kept], esp[kept]), seed)
        assert not fit.sharp or np.linalg.norm(fit.shift - true) < max(5 * fit.uncertainty, 1e-3)


def cubes() -> list[tuple[Molecule, np.ndarray]]:
    """Cube points with values near the nuclei, counted from the cube's first point, and the true shifts."""
    found = []
    for split in ("train", "valid"):
        efd, esp = (
            dict(np.load(FORMATS / "seed-cube-origin" / f"{stem}_{split}.npz"))
            for stem in ("energies_forces_dipoles", "grids_esp")
        )
        for i, n in enumerate(efd["N"]):
            molecule = (
                efd["Z"][i, :n],
                efd["R"][i, :n],
                esp["vdw_surface"][i].astype(float),
                esp["esp"][i].astype(float),
            )
            found.append((molecule, origin_shift(esp["grid_origin"][i])))
    return found


def test_cube_points_tell_the_shift_to_hundredths() -> None:
    """Within what the fit says of itself; the centroid is ten times as far off."""
    errors, centroids = [], []
    for molecule, true in cubes():
        fit = fit_shift(*molecule)
        assert fit.sharp
        assert fit.method == "cube"
        error = np.linalg.norm(fit.shift - true)
        assert error < 4 * fit.uncertainty
        errors.append(error)
        centroids.append(np.linalg.norm(centroid_shift(molecule[1], molecule[2]) - true))
    assert np.median(errors) < 0.02
    assert max(errors) < 0.08
    assert np.median(centroids) > 5 * np.median(errors)


def test_what_does_not_belong_together_is_not_trusted() -> None:
    """Scattered points with the potential of nothing; another molecule's points and potential at random places."""
    rng = np.random.default_rng(0)
    for numbers, positions, points, esp in molecules("mixed", np.arange(0, 120, 24)):
        noise = rng.normal(size=len(esp)) * esp.std()
        scattered = positions.mean(axis=0) + rng.normal(size=points.shape) * 3.0
        assert not fit_shift(numbers, positions, scattered, noise).sharp


@pytest.mark.parametrize("count", [0, 1, 5, 11])
def test_too_few_points_are_not_trusted(count: int) -> None:
    """And give numbers all the same."""
    numbers, positions, points, esp = molecules("co2", np.array([0]))[0]
    fit = fit_shift(numbers, positions, points[:count], esp[:count])
    assert not fit.sharp
    assert np.isfinite(fit.shift).all()
    assert np.isfinite(fit.uncertainty)


def test_odd_input_gives_numbers() -> None:
    """Single atoms, a potential of zero, points that are not finite, coinciding points: never NaN."""
    numbers, positions, points, esp = molecules("mixed", np.array([80]))[0]
    broken = points.copy()
    broken[3] = np.nan
    for case in (
        (numbers[:1], positions[:1], points, esp),
        (numbers, positions, points, np.zeros_like(esp)),
        (numbers, positions, broken, esp),
        (numbers, positions, np.repeat(points[:1], 40, axis=0), esp[:40]),
    ):
        fit = fit_shift(*case)
        assert np.isfinite(fit.shift).all()
        assert np.isfinite(fit.uncertainty)
        assert fit.residual >= 0


def test_the_origin_of_a_cube_is_in_bohr() -> None:
    """One Bohr."""
    np.testing.assert_allclose(origin_shift(np.array([1.0, 0.0, -2.0])), [BOHR_IN_ANGSTROM, 0, -2 * BOHR_IN_ANGSTROM])


@pytest.mark.parametrize(
    "case",
    [
        (np.array([6, 8]), np.zeros((3, 3)), np.zeros((20, 3)), np.zeros(20)),
        (np.array([6]), np.zeros((1, 3)), np.zeros((20, 3)), np.zeros(19)),
        (np.array([0]), np.zeros((1, 3)), np.zeros((20, 3)), np.zeros(20)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(case: Molecule) -> None:
    """With what was received."""
    with pytest.raises(ValueError, match="received"):
        fit_shift(*case)

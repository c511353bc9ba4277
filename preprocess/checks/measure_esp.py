"""The ESP of each molecule: multipoles fitted on the grid as given and on the grids that a mistake would have made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from preprocess.checks.evidence import CANDIDATES, TOO_FEW_POINTS, CheckInput
from preprocess.checks.multipoles import USUAL, Fit, Sites, charges_only, choose_sites, fit, number_of_unknowns
from preprocess.checks.physical_constants import ELECTRONEGATIVITY, INSIDE_RADII
from shared.multipoles import moved_quadrupoles
from shared.units import BOHR_IN_ANGSTROM

_POINTS = 512
"""Most grid points taken of a molecule; fits take fewer."""
_CANDIDATES_TRIED = 24
_AXES_TRIED = 8
POLAR = 0.1
"""e·Å (0.5 Debye): larger dipoles of a fit are exact to 2 %."""
POLAR_AS_GIVEN = 0.02
"""e·Å: POLAR, for a dipole given in the smallest unit that occurs."""
_LARGEST_ERROR = 0.1
"""Largest relative error of a fitted moment: few points, or points on one side, do not determine one."""
_NUMBERS_AT_ONCE = 1_000_000
_WHOLE = 1e-4
_UNIT_CANDIDATES = 2
_DEEPER = 0.01

_generator = np.random.default_rng(0)
_ORDER = _generator.permutation(_POINTS)
_JITTER = _generator.random(_POINTS)

AXES = np.array(
    [
        np.eye(3)[list(order)] * np.array([[x], [y], [z]])
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        for x in (1, -1)
        for y in (1, -1)
        for z in (1, -1)
    ]
)[1:]
"""Exchanges and reversals of the axes (47, 3, 3); the true grid is AXES @ the given one, about the molecule."""


@dataclass(frozen=True)
class _Batch:
    """Molecules of equal numbers of atoms and heavy atoms, and some of their grid points in random order."""

    rows: np.ndarray  # in the CheckInput
    numbers: np.ndarray  # (n, atoms), heavy atoms first
    first_atom: np.ndarray  # (n, 3) Å, in the order given
    sites: Sites
    grid: np.ndarray  # (n, points, 3) Å
    esp: np.ndarray  # (n, points) Hartree/e
    real: np.ndarray  # (n, points)

    def fit(self, grid: np.ndarray | None = None, sites: Sites | None = None, also: np.ndarray | bool = True) -> Fit:
        """Fit on ``grid`` (default: the given one) at points outside the atoms and in the mask ``also`` (n, points)."""
        grid = self.grid if grid is None else grid
        return fit(sites or self.sites, grid, self.esp, self.real, also)

    def fits(self, grids: np.ndarray, also: np.ndarray | bool = True) -> list[Fit]:
        """Fit on each of ``grids`` (k, n, points, 3), all at once; single fits of few molecules cost their calls."""
        k, n = grids.shape[:2]
        esp, real = np.tile(self.esp, (k, 1)), np.tile(self.real, (k, 1))
        also = also if isinstance(also, bool) else np.tile(also, (k, 1))
        every = fit(self.sites.times(k), grids.reshape(k * n, *grids.shape[2:]), esp, real, also)
        return [every.rows(slice(start, start + n)) for start in range(0, k * n, n)]

    def inside_share(self, grid: np.ndarray) -> np.ndarray:
        """Return the share (n,) of the points of ``grid`` that are inside the cores of atoms."""
        offset = grid[:, :, None] - self.sites.positions[:, None]
        near = (np.einsum("npak,npak->npa", offset, offset) < INSIDE_RADII[self.numbers][:, None] ** 2).any(axis=2)
        return np.asarray((near & self.real).sum(axis=1) / np.maximum(self.real.sum(axis=1), 1))

    def thinned(self) -> _Batch:
        """Return the batch with as many points as the multipoles need."""
        points = 3 * self.sites.size + 120
        return replace(self, grid=self.grid[:, :points], esp=self.esp[:, :points], real=self.real[:, :points])


def examine_esp(
    given: CheckInput, numbers: np.ndarray, positions: np.ndarray, center: np.ndarray, found: np.ndarray
) -> None:
    """Fill the ESP's fields of ``found``.

    Args:
        given: n molecules.
        numbers: (n, atoms), 0 = padding.
        positions: (n, atoms, 3) in Å, 0 = padding.
        center: (n, 3) centre of mass, Å.
        found: (n,) array of MOLECULE.
    """
    for name in ("origin_gain", "fitted_dipole", "dipole_product", "fitted_charge", "charge_error", "largest_charge"):
        found[name] = np.nan
    for name in ("polarity", "residual", "tried", "gain", "cosine", "cosine_tried", "inside", "esp"):
        found[name] = np.nan
    for name in ("fitted_quadrupole", "quadrupole_product", "quadrupole_cosines"):
        found[name] = np.nan
    for name in ("axes_residual", "axes_better", "dipole_over_bohr", "nuclei"):
        found[name] = np.nan
    found["axes"] = -1

    def batches(rows: np.ndarray) -> Iterator[_Batch]:
        return _batches(given, numbers, positions, center, rows, sizes)

    real = np.arange(given.esp_values.shape[1]) < given.n_grid[:, None]
    found["largest_esp"] = np.where(real, np.abs(given.esp_values), 0.0).max(axis=1, initial=0.0)
    sizes = number_of_unknowns(numbers, given.n_grid)
    for batch in batches(np.flatnonzero(given.n_grid > 0)):
        _describe(batch, found)
    for batch in batches(_rows_to_fit(sizes, found["esp"] > 0)):
        _fit_as_given(batch.thinned(), given, found)
    fitted = np.flatnonzero(np.isfinite(found["residual"]))
    tried = max(8, int(_CANDIDATES_TRIED * min(1.0, USUAL / sizes[fitted].mean()))) if len(fitted) else 0
    for batch in batches(_spread(fitted, tried)):
        # Without quadrupoles lone pairs let some wrong grids fit better than the correct one.
        if batch.sites.n_quadrupoles:
            _try_candidates(batch.thinned(), given, found)
    for batch in batches(_rows_to_turn(found, sizes)):
        _try_axes(batch.thinned(), found)


def _batches(
    given: CheckInput,
    numbers: np.ndarray,
    positions: np.ndarray,
    center: np.ndarray,
    rows: np.ndarray,
    sizes: np.ndarray,
) -> Iterator[_Batch]:
    """Yield the molecules of ``rows`` in batches of bounded size, each with fits of one kind."""
    counts = np.stack([(numbers[rows] > 0).sum(axis=1), (numbers[rows] > 1).sum(axis=1), sizes[rows]], axis=1)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    for index, (atoms, heavy, size) in enumerate(kinds.tolist()):
        alike = rows[kind.reshape(-1) == index]
        step = max(1, _NUMBERS_AT_ONCE // (_POINTS * max(3 * atoms, size)))
        for start in range(0, len(alike), step):
            block = alike[start : start + step]
            order = np.argsort(-numbers[block], axis=1, kind="stable")[:, :atoms]
            sorted_numbers = np.take_along_axis(numbers[block], order, axis=1)
            sorted_positions = np.take_along_axis(positions[block], order[..., None], axis=1)
            point, real = _choose_points(given.n_grid[block], given.grid.shape[1])
            yield _Batch(
                rows=block,
                numbers=sorted_numbers,
                first_atom=positions[block, 0],
                sites=choose_sites(
                    sorted_numbers, sorted_positions, center[block], heavy, int(given.n_grid[block].min())
                ),
                grid=np.where(real[..., None], given.grid[block[:, None], point], 0.0).astype(np.float64),
                esp=np.where(real, given.esp_values[block[:, None], point], 0.0).astype(np.float64),
                real=real,
            )


def _choose_points(n_grid: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (n, points) in random order, one from each of 512 stretches of the grid, and which are real.

    Real ones come first, so that any number of the first ones is a sample of the grid.
    """
    spread = ((_ORDER + _JITTER) / _POINTS * n_grid[:, None]).astype(np.int64)
    point = np.where(n_grid[:, None] > _POINTS, np.minimum(spread, n_grid[:, None] - 1), _ORDER)
    real = point < n_grid[:, None]
    first = np.argsort(~real, axis=1, kind="stable")
    point, real = np.take_along_axis(point, first, axis=1), np.take_along_axis(real, first, axis=1)
    return np.minimum(point, width - 1), real


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))] if count else rows[:0]


def _rows_to_fit(sizes: np.ndarray, has_esp: np.ndarray) -> np.ndarray:
    """Return the rows to fit: all, but only some of the large molecules, whose fits cost the cube of their size."""
    every = np.clip((sizes / USUAL) ** 3, 1, max(1, has_esp.sum() // 16)).astype(np.int64)
    return np.flatnonzero(has_esp & (np.cumsum(has_esp) % every == 0))


def _describe(batch: _Batch, found: np.ndarray) -> None:
    rows, real = batch.rows, batch.real
    count = np.maximum(real.sum(axis=1), 1)
    found["inside"][rows] = batch.inside_share(batch.grid)
    found["esp"][rows] = np.sqrt((batch.esp**2).sum(axis=1) / count)
    whole = [
        np.abs(grid - np.rint(grid)).max(axis=(1, 2)) < _WHOLE for grid in (batch.grid, batch.grid / BOHR_IN_ANGSTROM)
    ]
    found["integer_grid"][rows] = (whole[0] | whole[1]) & (count > 8)


def _fit_as_given(batch: _Batch, given: CheckInput, found: np.ndarray) -> None:
    rows, center = batch.rows, batch.sites.center
    multipoles, point_charges = batch.fit(), batch.fit(sites=charges_only(batch.sites))
    dipole = given.dipole[rows]
    found["residual"][rows] = multipoles.residual
    found["fitted_charge"][rows] = multipoles.total_charge
    found["charge_error"][rows] = multipoles.charge_error
    size = np.linalg.norm(multipoles.dipole, axis=1)
    found["fitted_dipole"][rows] = np.where(multipoles.dipole_error < _LARGEST_ERROR * size, size, np.nan)
    found["dipole_product"][rows] = (dipole * multipoles.dipole).sum(axis=1)
    found["cosine"][rows] = _cosine(batch, given, multipoles)
    found["largest_charge"][rows] = np.abs(point_charges.charges).max(axis=1)
    found["polarity"][rows] = _correlation(point_charges.charges, ELECTRONEGATIVITY[batch.numbers])
    from_center = np.linalg.norm(dipole - multipoles.dipole, axis=1)
    moved = given.total_charge[rows, None] * center
    lever = np.linalg.norm(moved, axis=1)
    gain = from_center - np.linalg.norm(dipole - multipoles.dipole - moved, axis=1)
    found["origin_gain"][rows] = np.where(lever > 0.1, gain / np.maximum(lever, 1e-12), np.nan)
    if given.quadrupole is not None:
        _compare_quadrupoles(batch, given, given.quadrupole[rows], multipoles, found)


def _compare_quadrupoles(
    batch: _Batch, given: CheckInput, quadrupole: np.ndarray, multipoles: Fit, found: np.ndarray
) -> None:
    rows, fitted = batch.rows, multipoles.quadrupole
    size = np.linalg.norm(fitted, axis=(1, 2))
    found["fitted_quadrupole"][rows] = np.where(multipoles.quadrupole_error < _LARGEST_ERROR * size, size, np.nan)
    found["quadrupole_product"][rows] = (quadrupole * fitted).sum(axis=(1, 2))
    # What those given would be, had they the other origin: about the zero of R; or moved from there in vain.
    charge, center, dipole = multipoles.total_charge, batch.sites.center, multipoles.dipole
    if given.file.quadrupole_origin == "zero":
        dipole, center = dipole + charge[:, None] * center, -center
    moved = moved_quadrupoles(fitted, dipole, charge, -center)
    for column, one in enumerate((fitted, moved)):
        found["quadrupole_cosines"][rows, column] = _cosine_between(quadrupole.reshape(-1, 9), one.reshape(-1, 9))


def _cosine(batch: _Batch, given: CheckInput, multipoles: Fit) -> np.ndarray:
    """Return the cosine (n,) between the given and the fitted dipole; for ions the greater one about two origins."""
    dipole, moved = given.dipole[batch.rows], given.total_charge[batch.rows, None] * batch.sites.center
    about_center, about_origin = (
        _cosine_between(dipole, fitted) for fitted in (multipoles.dipole, multipoles.dipole + moved)
    )
    return np.where(np.abs(about_origin) > np.abs(about_center), about_origin, about_center)


def _cosine_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(size > 1e-12, size, np.nan)


def _correlation(charges: np.ndarray, electronegativity: np.ndarray) -> np.ndarray:
    """Return the correlation (n,) of the atoms' charges and electronegativities.

    It is NaN where all electronegativities are equal or one is unknown.
    """
    a = charges - charges.mean(axis=1, keepdims=True)
    b = electronegativity - electronegativity.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(size > 1e-9, size, np.nan)


def _try_candidates(batch: _Batch, given: CheckInput, found: np.ndarray) -> None:
    """Fit on the grids of CANDIDATES, each at the points outside the atoms both in it and in the grid as given.

    Other points cannot be compared: a grid shrunk into the atoms keeps its farthest points, which are easily fitted.
    """
    rows, outside = batch.rows, batch.sites.outside(batch.grid)
    moved = np.zeros((len(rows), 3)) if given.grid_shift is None else given.grid_shift[rows]
    grids = np.stack(list(_candidate_grids(batch, moved)))
    # A given grid inside the atoms is no standard of comparison; the candidate is then judged by itself.
    also = outside | (found["residual"][rows] == TOO_FEW_POINTS)[:, None]
    for column, (grid, candidate) in enumerate(zip(grids, batch.fits(grids, also), strict=True)):
        outside_too = batch.sites.outside(grid)
        fewer = bool((outside & ~outside_too & batch.real).any())
        standard = batch.fit(also=outside_too).residual if fewer else found["residual"][rows]
        residual = candidate.residual
        if column < _UNIT_CANDIDATES:
            # A candidate that puts points into the atoms' cores is wrong: what is left of its grid fits by chance.
            deeper = batch.inside_share(grid) > batch.inside_share(batch.grid) + _DEEPER
            residual = np.where(deeper, TOO_FEW_POINTS, residual)
        found["tried"][rows, column] = residual
        found["gain"][rows, column] = residual / np.maximum(standard, 1e-4)
        found["cosine_tried"][rows, column] = _cosine(batch, given, candidate)
        if CANDIDATES[column] == "over bohr":
            squares = (given.dipole[rows] ** 2).sum(axis=1)
            product = (given.dipole[rows] * candidate.dipole).sum(axis=1)
            found["dipole_over_bohr"][rows] = product / np.where(squares > POLAR_AS_GIVEN**2, squares, np.nan)
    for column, points in enumerate((batch.grid / BOHR_IN_ANGSTROM, batch.grid)):
        found["nuclei"][rows, column] = _with_nuclei_moved(batch, points)


def _with_nuclei_moved(batch: _Batch, points: np.ndarray) -> np.ndarray:
    """Return the size (n,) of the ESP over its present size after its nuclei are moved from Å to Bohr.

    The ``points`` are in Bohr. The ESP of a neutral molecule is small because nuclei and electrons cancel: with the
    nuclei elsewhere it is tens of times as large, and no other mistake is undone by moving them.
    """
    moved = np.zeros(points.shape[:2])
    for scale, sign in ((1.0, -1.0), (1 / BOHR_IN_ANGSTROM, 1.0)):
        offset = points[:, :, None] - batch.sites.positions[:, None] * scale
        distance = np.sqrt(np.einsum("npak,npak->npa", offset, offset))
        moved += sign * (batch.numbers[:, None] / np.maximum(distance, 1e-3)).sum(axis=2)
    squares = [np.where(batch.real, values**2, 0.0).sum(axis=1) for values in (batch.esp + moved, batch.esp)]
    return np.sqrt(squares[0] / np.where(squares[1] > 0, squares[1], np.nan))


def _candidate_grids(batch: _Batch, moved: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the grids of CANDIDATES; ``moved``: (n, 3) Å, the shift of the given ones."""
    grid, centroid = batch.grid, batch.sites.positions.mean(axis=1)
    yield grid * BOHR_IN_ANGSTROM
    yield grid / BOHR_IN_ANGSTROM
    yield grid - moved[:, None]
    for shift in (batch.sites.center, centroid, batch.first_atom, centroid - _middle(batch)[:, 0]):
        yield grid + shift[:, None]


def _rows_to_turn(found: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return molecules whose fitted dipole points elsewhere than D if they are many; any if few have a dipole."""
    polar = (found["fitted_dipole"] > POLAR) & (found["dipole"] > POLAR_AS_GIVEN)
    turned = polar & (found["cosine"] < 0.9)
    if turned.sum() >= max(4, 0.1 * polar.sum()):
        return _spread(np.flatnonzero(turned), _AXES_TRIED)
    fitted = (found["residual"] < TOO_FEW_POINTS) & (found["n_atoms"] > 1) & (sizes <= USUAL)
    return _spread(np.flatnonzero(fitted), _AXES_TRIED) if polar.sum() < 8 else np.empty(0, np.int64)


def _try_axes(batch: _Batch, found: np.ndarray) -> None:
    """Fit on the grid with its axes exchanged and reversed about the origin of the frame and about its own middle.

    In a correct frame nearly all of them fit worse, unless the molecule has that symmetry; in a wrong one about half.
    """
    rows, middle = batch.rows, _middle(batch)
    about_origin, about_middle = (
        np.array([one.residual for turns in _blocks_of_axes(batch) for one in batch.fits(around(turns))])
        for around in (lambda turns: batch.grid @ turns, lambda turns: (batch.grid - middle) @ turns + middle)
    )
    tried = np.fmin(about_origin, about_middle)
    found["axes"][rows] = np.argmin(tried, axis=0)
    found["axes_residual"][rows] = np.min(tried, axis=0)
    found["axes_better"][rows] = (about_middle < 0.95 * found["residual"][rows]).mean(axis=0)


def _blocks_of_axes(batch: _Batch) -> Iterator[np.ndarray]:
    """Yield AXES as (turns, 1, 3, 3), to be multiplied from the right, in blocks that are fitted at once."""
    step = max(1, _NUMBERS_AT_ONCE // (batch.esp.size * max(3 * batch.numbers.shape[1], batch.sites.size)))
    for start in range(0, len(AXES), step):
        yield AXES[start : start + step, None].swapaxes(2, 3)


def _middle(batch: _Batch) -> np.ndarray:
    """Return the mean (n, 1, 3) of the grid's points, Å."""
    total = np.where(batch.real[..., None], batch.grid, 0.0).sum(axis=1, keepdims=True)
    return np.asarray(total / batch.real.sum(axis=1)[:, None, None])

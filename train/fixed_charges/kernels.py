"""Positions of constant charges as functions of the geometry: Gaussian kernels of the interatomic distances.

E. Boittier, K. Töpfer, M. Devereux, M. Meuwly, arXiv 2406.00513 (kernel-based minimal distributed charges).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from shared.log import log
from train.fixed_charges.charge_model import ChargeModel, Frame, Kernel, gaussians, pair_distances
from train.fixed_charges.orbit_fit import COULOMB, potential
from train.fixed_charges.site_orbits import DECIMALS, SiteOrbit, site_orbit
from train.fixed_charges.symmetry import Operation, Symmetry, choose_frame, group_of

_WIDTHS = (1.0, 2.0, 4.0, 8.0)
"""Widths of the kernels, of the median distance of two geometries."""

_RIDGES = (1.0, 0.1, 0.01)
"""(kcal/mol/e)²: penalty on a function's squared norm in Å², beside each geometry's mean square error."""

_STEPS, _MOST_STEPS = 3, 8
"""Gauss-Newton steps while width and ridge are chosen, and of the last fit."""

_CONVERGED = 1e-3
_SAME = 1e-4
"""Å: median distance of geometries that do not differ but for rounding."""

_MOST_COEFFICIENTS = 4_500
"""Coefficients that are solved for at once: of large molecules fewer geometries are fitted to."""

_MOST_PERMUTATIONS = 48


class Surroundings(NamedTuple):
    """The ESP around one geometry."""

    geometry: np.ndarray  # (N, 3) Å
    points: np.ndarray  # (G, 3) Å
    esp: np.ndarray  # (G,) kcal/mol/e


def with_whole_frames(orbits: Sequence[SiteOrbit], symmetry: Symmetry, geometries: np.ndarray) -> list[SiteOrbit]:
    """Return orbits in frames of as many atoms as there are, in which charges can shift in all directions.

    A charge at a nucleus or on an axis that several such frames share is divided among them, so that no frame is
    preferred.
    """
    found = []
    for orbit in orbits:
        frame = choose_frame(symmetry, orbit.atom, geometries)
        freedom = len(frame) - 1
        if orbit.freedom >= freedom:
            found.append(orbit)
            continue
        if len(orbit.images[0][0]) == 2:
            frame = next(image for image in symmetry.frames(frame) if image[:2] == orbit.images[0][0])
        whole = site_orbit(symmetry, frame, 2 if freedom == 2 else 1, orbit.charge, orbit.local)
        found.append(replace(whole, charge=orbit.charge * len(orbit.images) / len(whole.images)))
    return found


def fit_kernel(model: ChargeModel, symmetry: Symmetry, fitted: Sequence[Surroundings]) -> ChargeModel | None:
    """Fit kernels, and what is constant of the shifts, to the ESP around the geometries.

    None if no charge can shift, or there are no two geometries that differ.

    Kernel ridge regression whose target is the ESP: shifts of charges that nearly coincide are not defined by the ESP
    of one geometry, and would be no smooth functions. Width and ridge are those of the least ESP error on the last
    quarter of the geometries, which then join.

    Args:
        model: in frames of :func:`with_whole_frames`.
        symmetry: of the molecule.
        fitted: the ESP around each geometry.
    """
    thirds = _thirds(model, symmetry)
    free = np.array([_free(frame, third) for frame, third in zip(model.frames, thirds, strict=True)]).ravel()
    if not free.any():
        return None
    most = max(2, _MOST_COEFFICIENTS // int(free.sum()))
    if len(fitted) > most:
        log.info(
            f"note: kernels are fitted to {most} of {len(fitted)} geometries: charges have {free.sum()} coordinates"
        )
        fitted = fitted[:most]
    distances = pair_distances(np.stack([one.geometry for one in fitted]))
    apart = np.linalg.norm(distances[:, None] - distances, axis=-1)
    typical = np.median(apart[np.triu_indices(len(fitted), 1)]) if len(fitted) > 1 else 0.0
    if typical < _SAME:
        return None
    nothing = Kernel(np.zeros((0, distances.shape[1])), 1.0, np.zeros((0, *model.local.shape)), thirds)
    model = replace(model, kernel=nothing)
    permutations = _permutations(model, symmetry)
    linear = [_Linearised(model, one, free) for one in fitted]
    kept = max(1, len(fitted) * 3 // 4)

    def error(width: float, ridge: float) -> float:
        coefficients = _solve(linear[:kept], distances[:kept], permutations, width, ridge, _STEPS)
        tried = _with_kernel(model, distances[:kept], coefficients, permutations, width)
        return sum(_square(tried, one) for one in fitted[kept:] or fitted)

    widths = (typical * np.array(_WIDTHS)).tolist()
    width, ridge = min(itertools.product(widths, _RIDGES), key=lambda choice: error(*choice))
    coefficients = _solve(linear, distances, permutations, width, ridge, _MOST_STEPS)
    return _with_kernel(model, distances, coefficients, permutations, width)


def _free(frame: Frame, third: int | None) -> tuple[bool, bool, bool]:
    return len(frame) > 1, len(frame) > 2 or third is not None, len(frame) > 2


class _Linearised:
    """The ESP around one geometry as a function of the free shifts (F,) of a model's charges, in Å."""

    def __init__(self, model: ChargeModel, around: Surroundings, free: np.ndarray) -> None:
        self.free = free
        self._model, self._around = model, around
        self._axes, self._unmoved = model.axes(around.geometry), model.sites(around.geometry)

    def square(self, shifts: np.ndarray) -> float:
        """Return the mean square error in (kcal/mol/e)²."""
        return float(np.mean(self._errors(self._offsets(shifts)) ** 2))

    def normal(self, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix (F, F) and gradient (F,) of half the mean square error."""
        offsets = self._offsets(shifts)
        weights = COULOMB * self._model.charges / np.linalg.norm(offsets, axis=-1) ** 3
        slopes = np.einsum("gkx,kix,gk->gki", offsets, self._axes, weights, optimize=True)
        slopes = slopes.reshape(len(offsets), -1)[:, self.free]
        return slopes.T @ slopes / len(offsets), slopes.T @ self._errors(offsets) / len(offsets)

    def _offsets(self, shifts: np.ndarray) -> np.ndarray:
        local = np.zeros(self.free.shape)
        local[self.free] = shifts
        sites = self._unmoved + np.einsum("ki,kix->kx", local.reshape(-1, 3), self._axes)
        return np.asarray(self._around.points[:, None] - sites)

    def _errors(self, offsets: np.ndarray) -> np.ndarray:
        return np.asarray(COULOMB / np.linalg.norm(offsets, axis=-1) @ self._model.charges - self._around.esp)


def _solve(
    linear: Sequence[_Linearised],
    distances: np.ndarray,
    permutations: _Permutations,
    width: float,
    ridge: float,
    steps: int,
) -> np.ndarray:
    """Return coefficients (M, 3 K), of which the symmetric images are taken, by Gauss-Newton steps.

    They are at the least of Σ_m (mean square error at m) + ridge · c · G c. The shifts are G c: G has the kernel, and 1
    for a constant.
    """
    m, free = len(linear), linear[0].free
    gram = _gram(distances, permutations, width, free)
    coefficients = np.zeros(len(gram))
    shifts = gram @ coefficients

    def value(coefficients: np.ndarray, shifts: np.ndarray) -> float:
        squares = [one.square(own) for one, own in zip(linear, shifts.reshape(m, -1), strict=True)]
        return sum(squares) + ridge * float(coefficients @ shifts)

    objective = value(coefficients, shifts)
    for _ in range(steps):
        parts = [one.normal(own) for one, own in zip(linear, shifts.reshape(m, -1), strict=True)]
        matrices, gradients = (np.stack(part) for part in zip(*parts, strict=True))
        system = (matrices @ gram.reshape(m, -1, len(gram))).reshape(gram.shape)
        system[np.diag_indices(len(gram))] += ridge
        right = np.einsum("mij,mj->mi", matrices, shifts.reshape(m, -1)) - gradients
        step, before = np.linalg.solve(system, right.ravel()) - coefficients, objective
        moved = gram @ step
        # The ESP is not linear in the shifts: too long a step is shortened.
        for part in (1.0, 0.5, 0.25, 0.125):
            reached = value(coefficients + part * step, shifts + part * moved)
            if reached < objective:
                coefficients, shifts, objective = coefficients + part * step, shifts + part * moved, reached
                break
        if objective > (1.0 - _CONVERGED) * before:
            break
    found = np.zeros((m, len(free)))
    found[:, free] = coefficients.reshape(m, -1)
    return found


def _gram(distances: np.ndarray, permutations: _Permutations, width: float, free: np.ndarray) -> np.ndarray:
    """Return the shifts (M F, M F) of each geometry by the coefficients of each, with their images."""
    m, f = len(distances), int(free.sum())
    numbered = np.cumsum(free).reshape(1, -1, 3) - 1
    gram = np.zeros((m, f, m, f))
    for same in permutations.values():
        values = 1.0 + gaussians(distances, distances[:, same[0].pairs], width)
        for one in same:
            # A free coordinate's image is free.
            image = _moved(numbered, one.sites, 1).ravel()[free]
            sign = _moved(np.ones(numbered.shape), one.sites, one.sign).ravel()[free]
            gram[:, np.arange(f), :, image] += values * (sign / (len(same) * len(permutations)))[:, None, None]
    return gram.reshape(m * f, m * f)


def _with_kernel(
    model: ChargeModel, distances: np.ndarray, coefficients: np.ndarray, permutations: _Permutations, width: float
) -> ChargeModel:
    images = _with_images(distances, coefficients.reshape(len(distances), -1, 3) / len(permutations), permutations)
    constant = images[1].sum(axis=0).round(DECIMALS)
    return replace(model, local=model.local + constant, kernel=Kernel(images[0], width, images[1], model.thirds))


def _moved(shifts: np.ndarray, sites: np.ndarray, sign: int) -> np.ndarray:
    """Return local vectors (M, K, 3) as those of a symmetric image."""
    return np.asarray(shifts[:, sites] * [1, 1, sign])


def _thirds(model: ChargeModel, symmetry: Symmetry) -> tuple[int | None, ...]:
    """Return the third atom of each site in a frame of two: the first's only other neighbour, else the second's."""
    found = []
    for frame in model.frames:
        choices = [
            [other for other in symmetry.neighbours[atom] if other not in frame]
            for atom in (frame if len(frame) == 2 else ())
        ]
        found.append(next((others[0] for others in choices if len(others) == 1), None))
    return tuple(found)


class _Permutation(NamedTuple):
    """A symmetric image of geometries: pairs of atoms and sites as they are numbered there."""

    pairs: np.ndarray  # (P,) the pair whose distance each pair has
    sites: np.ndarray  # (K,) the site whose shift each site has
    sign: int  # of z


_Permutations = dict[tuple[int, ...], list[_Permutation]]
"""By the images of the atoms."""


def _permutations(model: ChargeModel, symmetry: Symmetry) -> _Permutations:
    """Return the images of a geometry under the automorphisms, by the images of the atoms.

    Where there are more than 48, those of the rigid molecule alone.
    """
    n = len(model.atomic_numbers)
    numbered = np.zeros((n, n), np.int64)
    first, second = np.triu_indices(n, 1)
    numbered[first, second] = numbered[second, first] = np.arange(len(first))
    places: dict[tuple[object, ...], list[int]] = {}
    for site, frame in enumerate(model.frames):
        places.setdefault((frame, model.thirds[site], *_rounded(model, site, 1)), []).append(site)
    found: dict[tuple[int, ...], list[_Permutation]] = {}
    rigid = [operation for operation in symmetry.operations if operation.sign]
    group = (
        group_of(symmetry.operations, _MOST_PERMUTATIONS)
        or group_of(rigid, len(rigid))
        or [Operation(tuple(range(n)), 1)]
    )
    for image in sorted({operation.image for operation in group}):
        moved = np.array(image)
        pairs = np.empty(len(first), np.int64)
        pairs[numbered[moved[first], moved[second]]] = np.arange(len(first))
        for sign in _signs(symmetry, image):
            sites = _image_sites(model, Operation(image, sign), places)
            if sites is not None:
                found.setdefault(image, []).append(_Permutation(pairs, sites, sign))
    return found


def _signs(symmetry: Symmetry, image: tuple[int, ...]) -> list[int]:
    """Return the signs of a permutation: of a rigid motion its own; else that by which it turns all handed atoms.

    Without handed atoms both, and none if some are inverted and others not, which no motion does.
    """
    rigid = sorted({operation.sign for operation in symmetry.operations if operation.image == image} - {0})
    turned = {symmetry.parity(atom, Operation(image, 0)) for atom in range(len(image))} - {0}
    return rigid or sorted(turned if len(turned) == 1 else {1, -1} - turned)


def _image_sites(
    model: ChargeModel, operation: Operation, places: dict[tuple[object, ...], list[int]]
) -> np.ndarray | None:
    """Return the site (K,) that comes to each site's place; None if there is no site where one would come."""
    sites, used = np.zeros(len(model.frames), np.int64), dict.fromkeys(places, 0)
    for site, frame in enumerate(model.frames):
        third = model.thirds[site]
        moved = tuple(operation.image[atom] for atom in frame), third if third is None else operation.image[third]
        place = (*moved, *_rounded(model, site, operation.sign))
        # Several sites at one place of one frame are images of each other in their order.
        if place not in places or used[place] == len(places[place]):
            return None
        sites[places[place][used[place]]] = site
        used[place] += 1
    return sites


def _rounded(model: ChargeModel, site: int, sign: int) -> tuple[float, ...]:
    x, y, z = (model.local[site] * [1, 1, sign] + 0.0).tolist()
    return x, y, z, float(round(model.charges[site], 5))


def _with_images(
    distances: np.ndarray, shifts: np.ndarray, permutations: _Permutations
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (M, P) and shifts (M, K, 3) of geometries and of their symmetric images."""
    images = []
    for same in permutations.values():
        # A planar molecule has one image of two signs: the shift of z is zero.
        moved = [_moved(shifts, one.sites, one.sign) for one in same]
        images.append((distances[:, same[0].pairs], np.mean(moved, axis=0)))
    return np.concatenate([one for one, _ in images]), np.concatenate([one for _, one in images])


def _square(model: ChargeModel, around: Surroundings) -> float:
    sites = model.sites(around.geometry)
    return float(np.mean((potential(model.charges, sites, around.points) - around.esp) ** 2))

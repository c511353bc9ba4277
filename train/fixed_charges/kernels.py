"""Positions of constant charges as functions of the geometry: Gaussian kernels of the interatomic distances.

E. Boittier, K. Töpfer, M. Devereux, M. Meuwly, arXiv 2406.00513 (kernel-based minimal distributed charges).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from train.fixed_charges.charge_model import ChargeModel, Kernel, frame_axes, pair_distances
from train.fixed_charges.orbit_fit import COULOMB, least_squares, potential
from train.fixed_charges.site_orbits import SiteOrbit, site_orbit
from train.fixed_charges.symmetry import Operation, Symmetry, choose_frame, group_of

_PENALTIES = (3.0, 1.0, 0.3, 0.1)
"""kcal/mol/e for each Å by which a charge of a single geometry is shifted; each begins where the one before ended."""

_WIDTHS = (1.0, 2.0, 4.0, 8.0)
"""Widths of the kernels, of the median distance of two geometries."""

_RIDGES = (1e-4, 1e-2, 1e-1)
_FARTHEST = 0.2
"""Largest shift along an axis of a frame, Å."""

_STEPS = 10
"""Evaluations of the fit to a single geometry."""

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


def fit_kernel(model: ChargeModel, symmetry: Symmetry, fitted: Sequence[Surroundings]) -> Kernel | None:
    """Fit shifts of the charges to the ESP of each geometry, and kernels to the shifts; None if nothing can shift.

    Penalty, width and ridge are those of the least ESP error on the last quarter of the geometries, which then join.

    Args:
        model: in frames of :func:`with_whole_frames`.
        symmetry: of the molecule.
        fitted: the ESP around each geometry.
    """
    geometries = np.stack([one.geometry for one in fitted])
    distances = pair_distances(geometries)
    apart = np.linalg.norm(distances[:, None] - distances, axis=-1)[np.triu_indices(len(fitted), 1)]
    kept = max(1, len(fitted) * 3 // 4)
    if max(map(len, model.frames)) < 2 or not len(apart) or np.median(apart) == 0.0:
        return None
    permutations = _permutations(model, symmetry)
    best: tuple[float, float, np.ndarray] | None = None
    least = np.inf
    shifts = np.zeros((len(fitted), len(model.charges), 3))
    for penalty in _PENALTIES:
        shifts = np.stack([_shifts(model, one, penalty, start) for one, start in zip(fitted, shifts, strict=True)])
        known = _with_images(distances[:kept], shifts[:kept], permutations)
        for width, ridge in itertools.product(np.median(apart) * np.array(_WIDTHS), _RIDGES):
            tried = replace(model, kernel=_regression(*known, width, ridge))
            error = sum(_square(tried, one) for one in fitted[kept:] or fitted)
            if error < least:
                least, best = error, (width, ridge, shifts)
    assert best
    width, ridge, shifts = best
    return _regression(*_with_images(distances, shifts, permutations), width, ridge)


def _shifts(model: ChargeModel, around: Surroundings, penalty: float, start: np.ndarray) -> np.ndarray:
    """Return local shifts (K, 3) in Å that mend the ESP around one geometry, from some to start with."""
    axes = np.stack([frame_axes(around.geometry, frame) for frame in model.frames])
    unmoved = model.sites(around.geometry)
    scale = np.sqrt(len(around.points))
    penalties = penalty * np.eye(start.size)

    def evaluate(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = around.points[:, None] - (unmoved + np.einsum("ki,kix->kx", shifts.reshape(-1, 3), axes))
        inverse = 1.0 / np.linalg.norm(offsets, axis=-1)
        errors = (COULOMB * inverse @ model.charges - around.esp) / scale
        slopes = np.einsum("gkx,kix->gki", offsets, axes) * (COULOMB * model.charges * inverse**3)[..., None]
        slopes = slopes.reshape(len(errors), -1) / scale
        return np.concatenate([errors, penalty * shifts]), np.concatenate([slopes, penalties])

    limits = np.full(start.size, _FARTHEST)
    return least_squares(evaluate, start.ravel(), limits, _STEPS).reshape(-1, 3)


class _Permutation(NamedTuple):
    """A symmetric image of geometries: pairs of atoms and sites as they are numbered there."""

    pairs: np.ndarray  # (P,) the pair whose distance each pair has
    sites: np.ndarray  # (K,) the site whose shift each site has
    sign: int  # of z


def _permutations(model: ChargeModel, symmetry: Symmetry) -> dict[tuple[int, ...], list[_Permutation]]:
    """Return the images of a geometry under the automorphisms, by the images of the atoms.

    Where there are more than 48, those of the rigid molecule alone.
    """
    n = len(model.atomic_numbers)
    numbered = np.zeros((n, n), np.int64)
    first, second = np.triu_indices(n, 1)
    numbered[first, second] = numbered[second, first] = np.arange(len(first))
    places: dict[tuple[object, ...], list[int]] = {}
    for site, frame in enumerate(model.frames):
        places.setdefault((frame, *_rounded(model, site, 1)), []).append(site)
    found: dict[tuple[int, ...], list[_Permutation]] = {}
    rigid = [operation for operation in symmetry.operations if operation.sign]
    group = group_of(symmetry.operations, _MOST_PERMUTATIONS) or group_of(rigid, len(rigid)) or []
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
        place = (tuple(operation.image[atom] for atom in frame), *_rounded(model, site, operation.sign))
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
    distances: np.ndarray, shifts: np.ndarray, permutations: dict[tuple[int, ...], list[_Permutation]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (M, P) and shifts (M, K, 3) of geometries and of their symmetric images."""
    images = []
    for same in permutations.values():
        # A planar molecule has one image of two signs: the shift of z is zero.
        moved = [shifts[:, one.sites] * [1, 1, one.sign] for one in same]
        images.append((distances[:, same[0].pairs], np.mean(moved, axis=0)))
    return np.concatenate([one for one, _ in images]), np.concatenate([one for _, one in images])


def _regression(distances: np.ndarray, shifts: np.ndarray, width: float, ridge: float) -> Kernel:
    squared = ((distances[:, None] - distances) ** 2).sum(axis=-1)
    matrix = np.exp(-0.5 * squared / width**2) + ridge * np.eye(len(distances))
    coefficients = np.linalg.solve(matrix, shifts.reshape(len(shifts), -1)).reshape(shifts.shape)
    return Kernel(distances, float(width), coefficients)


def _square(model: ChargeModel, around: Surroundings) -> float:
    sites = model.sites(around.geometry)
    return float(np.mean((potential(model.charges, sites, around.points) - around.esp) ** 2))

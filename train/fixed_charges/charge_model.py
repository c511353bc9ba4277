"""A charge model of one molecule: constant charges at sites in local frames of its atoms.

In a frame of atoms a, b, c a site has right-handed coordinates with the origin at a, x along b - a, and c in the half
plane y > 0 of x and y. Of two atoms only x is defined (linear molecules), of one only the origin (the nucleus). Sites
may shift with the geometry by kernels of the interatomic distances (Boittier, Töpfer, Devereux & Meuwly, kernel-based
minimal distributed charges, arXiv 2406.00513).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Frame = tuple[int, ...]
"""One to three atoms: the origin, the direction of x, the half plane of y > 0."""


@dataclass(frozen=True)
class Kernel:
    """Shifts of the sites with the geometry: Σ_m c_m exp(-|d - d_m|²/(2 σ²)) in each site's local coordinates.

    Near a line no plane is defined, but how far it is left is: of a site in a frame of two atoms a, b, y is the part of
    the unit vector from a to a third atom that is normal to x, as long as the sine of the angle.
    """

    distances: np.ndarray  # (M, P) Å, of the pairs i < j of atoms in M geometries
    width: float  # σ, Å
    coefficients: np.ndarray  # (M, K, 3) Å
    thirds: tuple[int | None, ...]  # of each site, the third atom; None where y is that of the frame, or zero

    def shifts(self, distances: np.ndarray) -> np.ndarray:
        """Return the shifts (..., K, 3) in Å at distances (..., P) in Å."""
        weights = gaussians(distances, self.distances, self.width)
        return np.einsum("...m,mkx->...kx", weights, self.coefficients)

    def derivatives(self, distances: np.ndarray) -> np.ndarray:
        """Return the derivatives (K, 3, P) of the shifts with respect to distances (P,) in Å."""
        offsets = distances - self.distances
        weights = gaussians(distances, self.distances, self.width)
        return np.einsum("mkx,m,mp->kxp", self.coefficients, -weights / self.width**2, offsets)


@dataclass(frozen=True)
class ChargeModel:
    """K constant charges of a molecule of N atoms."""

    atomic_numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å, the reference geometry
    bonds: np.ndarray  # (bonds, 2) atoms, each bond once
    total_charge: int  # e
    charges: np.ndarray  # (K,) e; they sum to total_charge
    frames: tuple[Frame, ...]  # of each site; its first atom is the one that the charge belongs to
    local: np.ndarray  # (K, 3) Å, in the site's frame
    kernel: Kernel | None = None

    def sites(self, positions: np.ndarray) -> np.ndarray:
        """Return the positions (..., K, 3) of the charges in Å, at a geometry (..., N, 3) in Å."""
        origins = positions[..., [frame[0] for frame in self.frames], :]
        local = np.broadcast_to(self._local(positions), origins.shape)
        return np.asarray(origins + np.einsum("...ki,...kix->...kx", local, self.axes(positions)))

    def axes(self, positions: np.ndarray) -> np.ndarray:
        """Return each site's axes (..., K, 3, 3) x, y, z as rows, at a geometry (..., N, 3); zero where not defined.

        With a kernel's third atom, y has the length of a sine (:class:`Kernel`).
        """
        axes = np.stack([frame_axes(positions, frame) for frame in self.frames], axis=-3)
        for k, (frame, third) in enumerate(zip(self.frames, self.thirds, strict=True)):
            if third is not None:
                arm = _unit(positions[..., third, :] - positions[..., frame[0], :])
                x = axes[..., k, 0, :]
                axes[..., k, 1, :] = arm - (arm * x).sum(axis=-1, keepdims=True) * x
        return axes

    def site_derivatives(self, positions: np.ndarray) -> np.ndarray:
        """Return d site/d atom (K, 3, N, 3) at a geometry (N, 3) in Å.

        Forces F on the sites become forces on the atoms: Σ_kx F_kx ∂x_k/∂R.
        """
        local = self._local(positions)
        found = np.zeros((len(self.frames), 3, *positions.shape))
        for k, (frame, third) in enumerate(zip(self.frames, self.thirds, strict=True)):
            found[k, :, frame[0]] += np.eye(3)
            for atom, slopes in zip(frame, _axes_derivatives(positions, frame), strict=True):
                found[k, :, atom] += np.einsum("i,ixy->xy", local[k], slopes)
            if third is not None:
                atoms = (*frame, third)
                for atom, slope in zip(atoms, _bend_derivatives(positions, atoms), strict=True):
                    found[k, :, atom] += local[k, 1] * slope
        if self.kernel is not None:
            axes = self.axes(positions)
            first, second = np.triu_indices(len(positions), 1)
            units = _unit(positions[first] - positions[second])
            by_pair = np.einsum("kix,kip->kxp", axes, self.kernel.derivatives(pair_distances(positions)))
            along = np.zeros((len(units), *positions.shape))
            along[np.arange(len(units)), first] = units
            along[np.arange(len(units)), second] = -units
            found += np.einsum("kxp,pny->kxny", by_pair, along)
        return found

    def _local(self, positions: np.ndarray) -> np.ndarray:
        """Return local positions ([...,] K, 3) in Å, which with kernels depend on the geometry."""
        return self.local if self.kernel is None else self.local + self.kernel.shifts(pair_distances(positions))

    @property
    def thirds(self) -> tuple[int | None, ...]:
        """Return the third atom of each site; None without one."""
        return (None,) * len(self.frames) if self.kernel is None else self.kernel.thirds

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        record: dict[str, Any] = {
            "atomic_numbers": self.atomic_numbers.tolist(),
            "positions_angstrom": self.positions.tolist(),
            "bonds": self.bonds.tolist(),
            "total_charge": self.total_charge,
            "sites": [
                {"charge": charge, "frame": list(frame), "local_angstrom": local}
                for charge, frame, local in zip(self.charges.tolist(), self.frames, self.local.tolist(), strict=True)
            ],
        }
        if self.kernel is not None:
            record["kernel"] = {
                "width_angstrom": self.kernel.width,
                "distances_angstrom": self.kernel.distances.tolist(),
                "coefficients_angstrom": self.kernel.coefficients.tolist(),
                "thirds": list(self.kernel.thirds),
            }
        return record


def at_nuclei(atomic_numbers: np.ndarray, positions: np.ndarray, bonds: np.ndarray, total_charge: int) -> ChargeModel:
    """Return a model of equal charges at the nuclei, of which only the molecule matters."""
    n = len(atomic_numbers)
    charges, frames = np.full(n, total_charge / n), tuple((atom,) for atom in range(n))
    return ChargeModel(atomic_numbers, positions, bonds, total_charge, charges, frames, np.zeros((n, 3)))


def charge_model_from_json(record: dict[str, Any]) -> ChargeModel:
    """Return the model that :meth:`ChargeModel.as_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is none of these.
    """
    kernel = record.get("kernel")
    sites = record["sites"]
    return ChargeModel(
        atomic_numbers=np.array(record["atomic_numbers"], np.int64),
        positions=np.array(record["positions_angstrom"], np.float64).reshape(-1, 3),
        bonds=np.array(record["bonds"], np.int64).reshape(-1, 2),
        total_charge=int(record["total_charge"]),
        charges=np.array([site["charge"] for site in sites], np.float64),
        frames=tuple(tuple(map(int, site["frame"])) for site in sites),
        local=np.array([site["local_angstrom"] for site in sites], np.float64).reshape(-1, 3),
        kernel=kernel
        and Kernel(
            np.array(kernel["distances_angstrom"], np.float64),
            float(kernel["width_angstrom"]),
            np.array(kernel["coefficients_angstrom"], np.float64),
            tuple(kernel.get("thirds", [None] * len(sites))),
        ),
    )


def frame_axes(positions: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the axes (..., 3, 3) x, y, z of a frame as rows, at a geometry (..., N, 3); zero where not defined."""
    axes = np.zeros((*positions.shape[:-2], 3, 3))
    if len(frame) > 1:
        axes[..., 0, :] = _unit(positions[..., frame[1], :] - positions[..., frame[0], :])
    if len(frame) > 2:
        in_plane = positions[..., frame[2], :] - positions[..., frame[0], :]
        axes[..., 2, :] = _unit(np.cross(axes[..., 0, :], in_plane))
        axes[..., 1, :] = np.cross(axes[..., 2, :], axes[..., 0, :])
    return axes


def _axes_derivatives(positions: np.ndarray, frame: Frame) -> list[np.ndarray]:
    """Return the derivatives (3, 3, 3) of a frame's axes (axis, component) with respect to each of its atoms."""
    zero = np.zeros((3, 3, 3))
    if len(frame) == 1:
        return [zero]
    axes = frame_axes(positions, frame)
    to_second = positions[frame[1]] - positions[frame[0]]
    d_x = _unit_derivative(to_second)
    if len(frame) == 2:
        d_second = zero.copy()
        d_second[0] = d_x
        return [-d_second, d_second]
    to_third = positions[frame[2]] - positions[frame[0]]
    normal = np.cross(axes[0], to_third)
    of_unit = _unit_derivative(normal)
    d_second, d_third = zero.copy(), zero.copy()
    d_second[0] = d_x
    d_second[2] = of_unit @ (-_cross_matrix(to_third) @ d_x)
    d_third[2] = of_unit @ _cross_matrix(axes[0])
    for one in (d_second, d_third):
        one[1] = _cross_matrix(axes[2]) @ one[0] - _cross_matrix(axes[0]) @ one[2]
    return [-d_second - d_third, d_second, d_third]


def _bend_derivatives(positions: np.ndarray, atoms: tuple[int, ...]) -> list[np.ndarray]:
    """Return the derivatives (3, 3) of y of a site with a third atom, with respect to a, b and that atom."""
    a, b, third = (positions[atom] for atom in atoms)
    x, arm = _unit(b - a), _unit(third - a)
    d_x, d_arm = _unit_derivative(b - a), _unit_derivative(third - a)
    d_second = -np.outer(x, arm @ d_x) - (arm @ x) * d_x
    d_third = d_arm - np.outer(x, x @ d_arm)
    return [-d_second - d_third, d_second, d_third]


def gaussians(distances: np.ndarray, references: np.ndarray, width: float) -> np.ndarray:
    """Return exp(-|d - d_m|²/(2 width²)) (..., M) of distances (..., P) and references (M, P) in Å."""
    squared = ((distances[..., None, :] - references) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-0.5 * squared / width**2))


def pair_distances(positions: np.ndarray) -> np.ndarray:
    """Return the distances (..., P) in Å of the pairs i < j of atoms, at a geometry (..., N, 3) in Å."""
    first, second = np.triu_indices(positions.shape[-2], 1)
    return np.asarray(np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _unit_derivative(vector: np.ndarray) -> np.ndarray:
    """Return the derivative (3, 3) of the unit vector along a vector (3,) with respect to it."""
    unit = _unit(vector)
    return np.asarray((np.eye(3) - np.outer(unit, unit)) / np.linalg.norm(vector))


def _cross_matrix(vector: np.ndarray) -> np.ndarray:
    """Return the matrix (3, 3) of v × ."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])

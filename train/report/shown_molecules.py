"""The molecules of the 3D view: the worst by the error of the ESP, and typical ones of other types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.elements import COVALENT_RADII
from shared.units import BOHR_IN_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.report.prediction_reader import Predictions
from train.report.surface import Surface, interpolate, molecular_surface

SHOWN = 6
MOST_POINTS = 3000
_BOND_FACTOR = 1.25  # of the sum of two covalent radii
_WORST_SHOWN = 2
_SEED = 0
_OF_ALL = ((0.5, "median"), (1.0, "smallest ESP error"), (0.25, "upper quartile"), (0.75, "lower quartile"))
"""Quantiles of the falling ESP error that are shown where there are too few types."""


@dataclass(frozen=True)
class ShownMolecule:
    """One molecule with its charges and its ESP; the ESP in kcal/mol/e."""

    name: str
    formula: str
    row: int  # in the split's input files
    why: str  # it was chosen
    rmse: float  # of the ESP over all its points, kcal/mol/e
    atomic_numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    charges: np.ndarray  # (N,) PhysNet's, e
    bonds: np.ndarray  # (B, 2) pairs of atoms
    dcm_charges: np.ndarray  # (N, n_dcm) e
    dcm_sites: np.ndarray  # (N, n_dcm, 3) Å
    n_points: int
    grid: np.ndarray  # (G, 3) Å, all points or a seeded sample of MOST_POINTS
    reference: np.ndarray  # (G,)
    predicted: np.ndarray  # (G,)
    surface: Surface | None
    surface_reference: np.ndarray  # (V,) at its vertices
    surface_predicted: np.ndarray  # (V,)

    @property
    def bound(self) -> float:
        """Largest absolute reference: the end of the colour scale of reference and prediction."""
        return float(np.abs(self.reference).max()) or 1e-12

    @property
    def bound_difference(self) -> float:
        """Largest absolute difference: the end of its colour scale."""
        return float(np.abs(self.predicted - self.reference).max()) or 1e-12


def choose_molecules(predictions: Predictions) -> list[ShownMolecule]:
    """Return at most SHOWN molecules that have an ESP, the worst first."""
    chosen = _choose(predictions.esp_rmse, predictions.molecules.types)
    return [_read(predictions, i, why) for i, why in chosen.items()]


def _choose(errors: np.ndarray, types: list[str]) -> dict[int, str]:
    """Choose molecules, with reasons: the worst of the worst types, then the median ones of types in between.

    Args:
        errors: (n,) of the ESP; NaN where there is none.
        types: n names of kinds.
    """
    order = [int(i) for i in np.argsort(-errors, kind="stable") if np.isfinite(errors[i])]
    of_type: dict[str, list[int]] = {}
    for i in order:
        of_type.setdefault(types[i], []).append(i)
    chosen: dict[int, str] = {}
    for rank, kind in enumerate(list(of_type)[:_WORST_SHOWN]):
        chosen[of_type[kind][0]] = "largest ESP error" if rank == 0 else "next largest, of another type"
    medians = [own[len(own) // 2] for own in of_type.values() if own[0] not in chosen]
    if len(medians) >= SHOWN - len(chosen):
        medians.sort(key=lambda i: -errors[i])
        places = np.linspace(0, len(medians) - 1, SHOWN - len(chosen)).round().astype(int)
        return chosen | {medians[place]: "median of its type" for place in places}
    chosen |= dict.fromkeys(medians, "median of its type")
    for share, why in _OF_ALL:
        i = order[round(share * (len(order) - 1))] if order else -1
        if i >= 0 and len(chosen) < SHOWN:
            chosen.setdefault(i, why)
    return chosen


def _read(predictions: Predictions, i: int, why: str) -> ShownMolecule:
    names = predictions.molecules
    numbers, positions, grid = (predictions.of_molecule(name, i) for name in ("atomic_numbers", "positions", "grid"))
    esp = np.stack([predictions.of_molecule(name, i) for name in ("esp_reference", "esp")], axis=1)
    esp = esp.astype(np.float64) * HARTREE_IN_KCAL_PER_MOL
    charges, sites = predictions.of_molecule("dcm_charges", i), predictions.of_molecule("dcm_sites", i)
    surface = molecular_surface(numbers, positions, grid)
    vertices = np.zeros((0, 3)) if surface is None else surface.vertices
    # The prediction is known everywhere. So only its difference from the reference needs to be interpolated.
    predicted = potential(charges.ravel(), sites.reshape(-1, 3), vertices)
    error = interpolate(grid, esp[:, 1] - esp[:, 0], vertices) if len(vertices) else np.zeros(0)
    n_points = len(grid)
    drawn = np.sort(np.random.default_rng(_SEED).permutation(n_points)[:MOST_POINTS])
    return ShownMolecule(
        names.names[i] or names.formulas[i],
        names.formulas[i],
        int(names.rows[i]),
        why,
        float(predictions.esp_rmse[i] * HARTREE_IN_KCAL_PER_MOL),
        numbers,
        positions,
        predictions.of_molecule("charges", i),
        find_bonds(numbers, positions),
        charges,
        sites,
        n_points,
        grid[drawn],
        esp[drawn, 0],
        esp[drawn, 1],
        surface,
        predicted - error,
        predicted,
    )


def potential(charges: np.ndarray, sites: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the ESP (P,) of point charges in kcal/mol/e: V(r) = Σ q / |r - s|, in atomic units.

    Args:
        charges: (K,) e.
        sites: (K, 3) Å.
        points: (P, 3) Å.
    """
    distances = np.linalg.norm(points[:, None] - sites[None].astype(np.float64), axis=-1) / BOHR_IN_ANGSTROM
    return (charges / distances).sum(axis=1) * HARTREE_IN_KCAL_PER_MOL


def find_bonds(atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return pairs (B, 2) of atoms nearer than 1.25 times the sum of their covalent radii (Cordero 2008, through ASE).

    Args:
        atomic_numbers: (N,).
        positions: (N, 3) Å.
    """
    radii = COVALENT_RADII[atomic_numbers]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.argwhere(np.triu(distances < _BOND_FACTOR * (radii[:, None] + radii[None]), k=1))

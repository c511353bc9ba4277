"""Per-element reference energies, centres of mass, and the statistics that a manifest records."""

from __future__ import annotations

import numpy as np

from shared.elements import MASSES


def fit_reference_energies(energy: np.ndarray, atomic_numbers: np.ndarray) -> dict[int, float]:
    """Energy of each element that leaves the least squares of E - Σ E_ref(Z), in float64.

    float32 resolves 5e-4 eV at -5,000 eV; without this shift the network could not see its own errors.
    Where compositions do not determine every element (only CO2, say) the solution of least norm is taken:
    predictions add back the same sums.

    Args:
        energy: (n,) total energies, eV.
        atomic_numbers: (n, atoms), 0 = padding.

    Returns:
        eV for each element that occurs.
    """
    elements = np.unique(atomic_numbers[atomic_numbers > 0])
    counts = np.stack([(atomic_numbers == z).sum(axis=1) for z in elements], axis=1).astype(np.float64)
    solution = np.linalg.lstsq(counts, energy.astype(np.float64), rcond=None)[0]
    return {int(z): float(e) for z, e in zip(elements, solution, strict=True)}


def sum_reference_energies(reference: dict[int, float], atomic_numbers: np.ndarray) -> np.ndarray:
    """(n,) sum of the reference energies over the atoms of each molecule, eV, float64."""
    table = np.zeros(int(atomic_numbers.max(initial=0)) + 1)
    for z, energy in reference.items():
        if z < table.size:
            table[z] = energy
    return table[atomic_numbers].sum(axis=1)


def centers_of_mass(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Centre of mass of every molecule, padding excluded.

    Args:
        positions: (n, atoms, 3) in Å; rows of padding may hold anything.
        atomic_numbers: (n, atoms), 0 = padding.

    Returns:
        (n, 3) in Å, float64.
    """
    mass = MASSES[atomic_numbers]
    real = np.where((atomic_numbers > 0)[..., None], positions, 0.0)
    return (mass[..., None] * real).sum(axis=1) / mass.sum(axis=1)[:, None]


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, least and greatest value."""
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }

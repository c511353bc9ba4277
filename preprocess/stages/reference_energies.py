"""Reference energies of the elements, to which the energies in the shards are relative."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from preprocess.input.survey import Composition, Moments
from shared.elements import element_table


def fit_reference_energies(energies: Mapping[Composition, Moments]) -> dict[int, float]:
    """Fit the energies E_ref(Z) that minimise the squares of E - Σ E_ref(Z) over all molecules, in float64.

    float32 resolves 5e-4 eV at -5,000 eV; without this shift the network's errors would be lost in rounding.
    Molecules of one composition share their row of the least-squares problem, so one row of weight √count with
    their mean energy replaces all of them: the solution is the same.
    Where compositions do not determine every element (only CO2, say) the solution of least norm is taken:
    predictions add back the same sums.

    Args:
        energies: total energies (eV) of each composition.

    Returns:
        energy in eV of each element that occurs.
    """
    elements = sorted({z for composition in energies for z, _ in composition})
    # In a fixed order, so that the last digit does not depend on the order of the files.
    ordered = sorted(energies.items())
    counts = np.array([[dict(composition).get(z, 0) for z in elements] for composition, _ in ordered], np.float64)
    weight = np.sqrt([moments.count for _, moments in ordered])
    mean = np.array([moments.mean for _, moments in ordered])
    solution = np.linalg.lstsq(counts * weight[:, None], mean * weight, rcond=None)[0]
    return {z: float(e) for z, e in zip(elements, solution, strict=True)}


def shift_energies(energies: Mapping[Composition, Moments], reference: Mapping[int, float]) -> Moments:
    """Return the statistics of E - Σ E_ref(Z) over all molecules, eV."""
    total = Moments()
    for composition, moments in energies.items():
        total.merge(moments.shifted(-sum(reference[z] * n for z, n in composition)))
    return total


def sum_reference_energies(reference: Mapping[int, float], atomic_numbers: np.ndarray) -> np.ndarray:
    """Return the sum (n,), float64, of the reference energies over the atoms of each molecule, eV."""
    return element_table(reference)[atomic_numbers].sum(axis=1)

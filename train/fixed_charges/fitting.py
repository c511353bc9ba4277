"""Charge models of one molecule from the network's charges at many geometries, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from shared.errors import UserError
from shared.log import log
from shared.shells import Shells
from train.fixed_charges.charge_errors import ChargeErrors, Charges, describe_stages, measure
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.geometries import equal_points
from train.fixed_charges.kernels import Surroundings, fit_kernel, with_whole_frames
from train.fixed_charges.orbit_fit import fit_orbits, potential
from train.fixed_charges.pruning import Stage, choose_stage, first_orbits, fit_nuclear_charges, prune, rmse_of
from train.fixed_charges.site_orbits import as_model
from train.fixed_charges.symmetry import Symmetry


@dataclass(frozen=True)
class FittedCharges:
    """Charge models of a molecule."""

    model: ChargeModel
    kernel_model: ChargeModel | None
    stages: list[Stage]
    chosen: Stage
    errors: list[ChargeErrors]  # on the held-out geometries: network, kernels, frames, nuclei, the user's


# The BLAS's threads would wait for each other longer than these many small products take.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_molecule(
    symmetry: Symmetry,
    geometries: np.ndarray,
    charges: np.ndarray,
    sites: np.ndarray,
    total_charge: int,
    points: Sequence[np.ndarray] | None = None,
    esp: Sequence[np.ndarray] | None = None,
    *,
    max_charges: int | None = None,
    budget: float | None = None,
    kernels: bool = True,
    compared: np.ndarray | None = None,
    seed: int = 0,
) -> FittedCharges:
    """Fit constant charges to an ESP, else to that of a network's charges on Merz–Kollman shells.

    The last fifth of the geometries is held out.

    Args:
        symmetry: of the molecule of N atoms.
        geometries: (S, N, 3) Å.
        charges: (S, N, n) e, the network's.
        sites: (S, N, n, 3) Å, the network's.
        total_charge: e.
        points: (G, 3) in Å around each geometry.
        esp: (G,) in kcal/mol/e there.
        max_charges: most charges.
        budget: largest RMSE on held-out geometries, kcal/mol/e.
        kernels: whether positions that depend on the geometry are fitted too.
        compared: (N,) e, a user's own charges, whose errors are measured.
        seed: of the choice of points.

    Raises:
        UserError: no charges are as few or as good.
    """
    numbers, shells = symmetry.atomic_numbers, Shells()
    values, places = charges.reshape(len(geometries), -1), sites.reshape(len(geometries), -1, 3)
    if points is None or esp is None:
        points = [shells.points(numbers, positions) for positions in geometries]
        esp = [potential(*one) for one in zip(values, places, points, strict=True)]
    fit, rest = slice(0, (size := len(geometries) - len(geometries) // 5)), slice(size, None)
    fitted, held_out = (
        equal_points(geometries[rows], points[rows], esp[rows], size, seed + number)
        for number, rows in enumerate((fit, rest))
    )
    start = first_orbits(symmetry, geometries[fit], charges[fit], sites[fit])
    with tqdm(desc="fit", unit="fit", leave=False, disable=None) as bar:
        stages = prune(start, symmetry, fitted, held_out, total_charge, lambda _: bar.update())
    try:
        chosen = choose_stage(stages, max_charges, budget)
    except UserError:
        # What took minutes says which number or budget to ask for.
        log.info(describe_stages(stages))
        raise
    orbits = fit_orbits(chosen.orbits, fitted, numbers, total_charge).orbits
    if rmse_of(orbits, held_out) > chosen.held_out_rmse:
        # More steps may fit to these geometries alone, and leave the budget.
        orbits = chosen.orbits
    model, kernel_model = as_model(symmetry, orbits, total_charge), None
    if kernels:
        whole = as_model(symmetry, with_whole_frames(orbits, symmetry, geometries[fit]), total_charge)
        around = [Surroundings(*one) for one in zip(geometries[fit], points[fit], esp[fit], strict=True)]
        kernel_model = fit_kernel(whole, symmetry, around)
    nuclei = as_model(symmetry, fit_nuclear_charges(symmetry, fitted, total_charge), total_charge)
    measured = geometries[rest]
    network = Charges("network", values[rest], places[rest])
    models = [("kernels", kernel_model), ("fixed frames", model), ("nuclei", nuclei)]
    all_charges = [
        network,
        *(Charges(name, one.charges, one.sites(measured)) for name, one in models if one is not None),
        *([Charges("yours", compared, measured)] if compared is not None else []),
    ]
    errors = [measure(one, network, numbers, measured, points[rest], esp[rest]) for one in all_charges]
    return FittedCharges(model, kernel_model, stages, chosen, errors)

"""Errors of constant charges on geometries that they were not fitted to: ESP by shell and element, and multipoles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

from shared.drawing import literal
from shared.elements import centers_of_mass, symbol
from shared.multipoles import traceless
from shared.shells import RADII
from shared.units import DEBYE_IN_E_ANGSTROM
from train.fixed_charges.orbit_fit import potential
from train.fixed_charges.pruning import Stage

_SHELL, _LAST_SHELL = 0.2, 2.4
"""Width of the shells, and the last one, which has all points beyond it too; of the nearest atom's radius."""


@dataclass(frozen=True)
class Charges:
    """Charges of one molecule, at each of S geometries."""

    name: str
    values: np.ndarray  # (K,) or (S, K) e
    sites: np.ndarray  # (S, K, 3) Å


@dataclass(frozen=True)
class ChargeErrors:
    """Errors of some charges, root mean squares over points or geometries."""

    name: str
    charges: int
    esp_rmse_kcal_per_mol_e: float
    by_shell: dict[str, float]  # kcal/mol/e, by the distance from the nearest atom over its radius
    by_element: dict[str, float]  # kcal/mol/e, by the nearest atom
    dipole_rmse_debye: float  # from the network's
    quadrupole_rmse_e_angstrom2: float  # from the network's, over the components
    largest_charge_e: float
    shortest_distance_angstrom: float | None  # between two charges

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def measure(
    charges: Charges,
    network: Charges,
    numbers: np.ndarray,
    geometries: np.ndarray,
    points: Sequence[np.ndarray],
    esp: Sequence[np.ndarray],
) -> ChargeErrors:
    """Return the errors of charges.

    Args:
        charges: to measure.
        network: the network's, at the same geometries.
        numbers: (N,) atomic numbers.
        geometries: (S, N, 3) Å.
        points: (G, 3) in Å around each geometry.
        esp: (G,) in kcal/mol/e there.
    """
    values = np.broadcast_to(charges.values, charges.sites.shape[:2])
    squares, shells, elements = [], [], []
    for row, (geometry, at, target) in enumerate(zip(geometries, points, esp, strict=True)):
        squares.append((potential(values[row], charges.sites[row], at) - target) ** 2)
        ratios = np.linalg.norm(at[:, None] - geometry, axis=-1) / RADII[numbers]
        shells.append((_SHELL * np.rint(ratios.min(axis=1) / _SHELL)).round(1).clip(max=_LAST_SHELL))
        elements.append(numbers[ratios.argmin(axis=1)])
    square, shell, element = (np.concatenate(one) for one in (squares, shells, elements))
    centers = centers_of_mass(geometries, np.broadcast_to(numbers, geometries.shape[:2]))
    own, expected = _moments(charges, centers), _moments(network, centers)
    dipole, quadrupole = (one - other for one, other in zip(own, expected, strict=True))
    distances = [pdist(one).min() for one in charges.sites if len(one) > 1]
    return ChargeErrors(
        name=charges.name,
        charges=charges.sites.shape[1],
        esp_rmse_kcal_per_mol_e=float(np.sqrt(square.mean())),
        by_shell={f"{one:g}": float(np.sqrt(square[shell == one].mean())) for one in np.unique(shell)},
        by_element={symbol(int(one)): float(np.sqrt(square[element == one].mean())) for one in np.unique(element)},
        dipole_rmse_debye=float(np.sqrt((dipole**2).sum(axis=-1).mean()) / DEBYE_IN_E_ANGSTROM),
        quadrupole_rmse_e_angstrom2=float(np.sqrt((quadrupole**2).mean())),
        largest_charge_e=float(np.abs(values).max()),
        shortest_distance_angstrom=float(min(distances)) if distances else None,
    )


def describe(errors: Sequence[ChargeErrors]) -> str:
    """Return a table of errors for the console."""
    shells, elements = list(errors[0].by_shell), list(errors[0].by_element)
    width = max(len(one.name) for one in errors)
    head = ["charges", "ESP", *(f"at {one}" for one in shells), *(f"near {one}" for one in elements)]
    head += ["dipole", "quadrupole", "largest", "closest"]
    lines = [
        "RMSE on held-out geometries: ESP in kcal/mol/e (at multiples of the radii, near elements); dipole in D, "
        "quadrupole in e·Å² from the network's; largest charge in e, closest two in Å",
        " " * width + "".join(f"{one:>{max(9, len(one) + 2)}}" for one in head),
    ]
    for one in errors:
        closest = one.shortest_distance_angstrom
        numbers = [
            str(one.charges),
            f"{one.esp_rmse_kcal_per_mol_e:.3f}",
            *(f"{one.by_shell[shell]:.3f}" for shell in shells),
            *(f"{one.by_element[element]:.3f}" for element in elements),
            f"{one.dipole_rmse_debye:.4f}",
            f"{one.quadrupole_rmse_e_angstrom2:.4f}",
            f"{one.largest_charge_e:.3f}",
            "-" if closest is None else f"{closest:.3f}",
        ]
        cells = (f"{text:>{max(9, len(title) + 2)}}" for text, title in zip(numbers, head, strict=True))
        lines.append(f"{one.name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def describe_stages(stages: Sequence[Stage], chosen: Stage | None = None) -> str:
    """Return a table of the error against the number of charges."""
    lines = ["charges   ESP RMSE, kcal/mol/e   held-out geometries"]
    for stage in stages:
        mark = "   <- chosen" if stage is chosen else ""
        lines.append(f"{stage.charges:>7}{stage.rmse:>23.3f}{stage.held_out_rmse:>22.3f}{mark}")
    return "\n".join(lines)


def draw_errors(molecule: str, errors: Sequence[ChargeErrors], stages: Sequence[Stage], chosen: Stage) -> Figure:
    """Draw the error against the number of charges, and the errors by shell."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = [stage.charges for stage in stages]
    left.plot(counts, [stage.rmse for stage in stages], "o-", markersize=3, label="fitted geometries")
    left.plot(counts, [stage.held_out_rmse for stage in stages], "o-", markersize=3, label="held-out geometries")
    left.plot(chosen.charges, chosen.held_out_rmse, "o", markersize=10, fillstyle="none", color="k", label="chosen")
    left.set(title=f"{literal(molecule)}: constant charges", xlabel="charges", ylabel="ESP RMSE, kcal/mol/e")
    left.set_ylim(bottom=0.0)
    left.legend()
    shown = [one for one in errors if one.esp_rmse_kcal_per_mol_e > 0.0]
    for one in shown:
        at = [float(shell) for shell in one.by_shell]
        right.plot(at, list(one.by_shell.values()), "o-", markersize=4, label=f"{literal(one.name)} ({one.charges})")
    right.set(title="held-out geometries", xlabel="distance over the nearest atom's radius")
    right.set_ylabel("ESP RMSE, kcal/mol/e")
    right.set_ylim(bottom=0.0)
    right.legend()
    return figure


def _moments(charges: Charges, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return dipoles (S, 3) in e·Å and traceless quadrupoles (S, 3, 3) in e·Å² about centres (S, 3) in Å."""
    values = np.broadcast_to(charges.values, charges.sites.shape[:2])
    about = charges.sites - centers[:, None]
    dipoles = np.einsum("sk,skx->sx", values, about)
    return dipoles, 1.5 * traceless(np.einsum("sk,skx,sky->sxy", values, about, about))

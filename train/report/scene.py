"""Data of the page's 3D view as plain JSON, of which page.js makes Plotly's traces."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data.colors import jmol_colors

from shared.drawing import principal_axes
from shared.elements import COVALENT_RADII, symbol
from train.report.plotly_figures import rounded
from train.report.shown_molecules import ShownMolecule


def scene_data(molecule: ShownMolecule) -> dict[str, Any]:
    """Return the data of one molecule, in Å, e and kcal/mol/e."""
    numbers = molecule.atomic_numbers
    owners = np.repeat(np.arange(len(numbers)), molecule.dcm_charges.shape[1])
    return {
        "label": f"{molecule.name} (row {molecule.row}): {molecule.why}",
        "name": molecule.name,
        "formula": molecule.formula,
        "row": molecule.row,
        "why": molecule.why,
        "rmse": float(f"{molecule.rmse:.5g}"),
        "n_points": molecule.n_points,
        "bound": float(f"{molecule.bound:.5g}"),
        "bound_difference": float(f"{molecule.bound_difference:.5g}"),
        "atoms": {
            **_places(molecule.positions),
            "symbol": [symbol(int(z)) for z in numbers],
            "radius": rounded(COVALENT_RADII[numbers]),
            "colour": [_colour(z) for z in numbers.tolist()],
            "charge": rounded(molecule.charges),
        },
        "view": _view(molecule.positions),
        "bonds": molecule.bonds.tolist(),
        "sites": {
            **_places(molecule.dcm_sites.reshape(-1, 3)),
            "charge": rounded(molecule.dcm_charges),
            "atom": owners.tolist(),
        },
        "grid": {
            **_places(molecule.grid),
            "reference": rounded(molecule.reference),
            "predicted": rounded(molecule.predicted),
        },
        "surface": _surface(molecule),
    }


def _surface(molecule: ShownMolecule) -> dict[str, Any] | None:
    surface = molecule.surface
    if surface is None:
        return None
    i, j, k = surface.faces.T.tolist()
    places = {axis: np.round(column, 3).tolist() for axis, column in zip("xyz", surface.vertices.T, strict=True)}
    return {
        **places,
        "i": i,
        "j": j,
        "k": k,
        "reference": [float(f"{value:.4g}") for value in molecule.surface_reference],
        "predicted": [float(f"{value:.4g}") for value in molecule.surface_predicted],
    }


def _places(points: np.ndarray) -> dict[str, list[float]]:
    """Return points (P, 3) by column, rounded to a thousandth of an Å."""
    return {axis: np.round(column.astype(np.float64), 3).tolist() for axis, column in zip("xyz", points.T, strict=True)}


def _view(positions: np.ndarray) -> dict[str, dict[str, float]]:
    """Return Plotly's camera: along the molecule's shortest axis, a little from the side, its longest axis level."""
    turn = principal_axes(positions)[1].T
    eye = 1.75 * turn[2] + 0.35 * turn[1] + 0.3 * turn[0]
    names = ("x", "y", "z")
    return {
        "eye": {name: round(float(value), 3) for name, value in zip(names, eye, strict=True)},
        "up": {name: round(float(value), 3) for name, value in zip(names, turn[1], strict=True)},
    }


def _colour(atomic_number: int) -> str:
    """Return Jmol's colour; for hydrogen grey, because a white page does not show white."""
    red, green, blue = (round(255 * float(part)) for part in jmol_colors[atomic_number])
    return "#c9d1d9" if atomic_number == 1 else f"#{red:02x}{green:02x}{blue:02x}"

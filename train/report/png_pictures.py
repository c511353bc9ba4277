"""Pictures for papers, beside those of an evaluation: distributions of errors, types, ESP on surfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from shared.drawing import literal, principal_axes, save_picture
from shared.elements import symbol
from train.data.quantities import ESP, FORCES
from train.report.plotly_figures import histogram, worst_types
from train.report.shown_molecules import ShownMolecule
from train.report.surface import Surface
from train.report.target_samples import Sample
from train.run_folder import RunFolder

_BLUE, _RED = "#2166ac", "#b2182b"
_SURFACES = 3
_LIGHT = np.array([0.35, 0.45, 0.82])


def draw_pictures(
    folder: RunFolder,
    split: str,
    samples: list[Sample],
    evaluation: dict[str, Any],
    molecules: list[ShownMolecule],
) -> list[Path]:
    """Draw the pictures into ``plots/`` and return their paths."""
    folder.plots.mkdir(parents=True, exist_ok=True)
    drawn = [save_picture(folder.picture_file(f"errors-{split}"), lambda: draw_errors(samples, split))]
    if len(evaluation["by_type"]) > 1 and any(evaluation["worst"].values()):
        drawn.append(
            save_picture(folder.picture_file(f"types-{split}"), lambda: draw_types(evaluation["by_type"], split))
        )
    closed = [molecule for molecule in molecules if molecule.surface is not None]
    if closed:
        # The worst one, and others from the end of the list, which has the typical ones.
        shown = closed[:1] + closed[1:][-(_SURFACES - 1) :]
        drawn.append(save_picture(folder.picture_file(f"esp-surface-{split}"), lambda: draw_surfaces(shown, split)))
    return drawn


def draw_errors(samples: list[Sample], split: str) -> Figure:
    """Draw the distribution of the errors of every target."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, sample in zip(axes, samples, strict=False):
        bounds, counts = histogram(sample)
        axis.stairs(100 * counts / max(counts.sum(), 1), bounds, fill=True, color=_BLUE)
        axis.axvline(0, color="0.2", linewidth=0.8, linestyle=":")
        unit = sample.target.unit
        axis.set(title=sample.target.title, xlabel=f"prediction - reference, {unit}", ylabel="share of entries, %")
        axis.text(0.03, 0.96, sample.described, transform=axis.transAxes, va="top", fontsize="small")
    for axis in axes[len(samples) :]:
        axis.set_axis_off()
    figure.suptitle(f"Errors on the {split} split; those beyond 99.5 % are in the outermost bars")
    return figure


def draw_types(by_type: dict[str, Any], split: str) -> Figure:
    """Draw ESP and force errors by type of molecule, if they are in the data, the worst types first."""
    esp, forces = (worst_types(by_type, quantity.metric) for quantity in (ESP, FORCES))
    figure = Figure(figsize=(11, 1.5 + 0.24 * max(len(esp), len(forces))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, rows, quantity, colour in ((left, esp, ESP, _BLUE), (right, forces, FORCES, _RED)):
        if not rows:
            axis.set_axis_off()
            continue
        bars = axis.barh(
            [literal(row[0]) for row in rows],
            [row[1] * quantity.error_factor for row in rows],
            color=colour,
            height=0.72,
        )
        axis.bar_label(bars, [f"{row[2]:,}" for row in rows], padding=3, fontsize="x-small")
        axis.set(title=quantity.label, xlabel=quantity.error_axis, ylabel="type of molecule")
        axis.invert_yaxis()
        axis.margins(x=0.09, y=0.01)
    figure.suptitle(f"Errors by type on the {split} split; beside the bars: number of molecules")
    return figure


def draw_surfaces(molecules: list[ShownMolecule], split: str) -> Figure:
    """Draw reference, prediction and difference on the surface around each molecule, along its shortest axis."""
    figure = Figure(figsize=(13, 3.9 * len(molecules)), layout="constrained")
    rows = figure.subplots(len(molecules), 3, squeeze=False)
    for axes, molecule in zip(rows, molecules, strict=True):
        assert molecule.surface is not None
        reference, predicted = molecule.surface_reference, molecule.surface_predicted
        error = f"difference (RMSE {molecule.rmse:.3g} kcal/mol/e)"
        for axis, values, bound, title in (
            (axes[0], reference, molecule.bound, f"{literal(molecule.name)}, row {molecule.row}: reference"),
            (axes[1], predicted, molecule.bound, "prediction"),
            (
                axes[2],
                predicted - reference,
                molecule.bound_difference,
                error,
            ),
        ):
            colours = ScalarMappable(Normalize(-bound, bound), "RdBu_r")
            _draw_surface(axis, molecule, molecule.surface, colours.to_rgba(values))
            figure.colorbar(colours, ax=axis, label="ESP, kcal/mol/e", shrink=0.85)
            axis.set(title=title, xlabel="Å", ylabel="Å", aspect="equal")
            axis.autoscale_view()
    figure.suptitle(
        f"ESP on the {split} split, on a surface near the innermost grid points; the difference is interpolated to it"
    )
    return figure


def _draw_surface(axis: Axes, molecule: ShownMolecule, surface: Surface, colours: np.ndarray) -> None:
    """Draw the triangles that face the viewer, shaded, the farthest first, and the atoms' symbols.

    Args:
        axis: to draw on.
        molecule: its atoms.
        surface: of V vertices.
        colours: (V, 4) without shading.
    """
    center, turn = principal_axes(molecule.positions)
    turn = turn * np.array([1.0, 1.0, np.linalg.det(turn)])  # a rotation: handedness is kept
    corners = ((surface.vertices - center) @ turn)[surface.faces]
    normals = (surface.normals @ turn)[surface.faces].mean(axis=1)
    order = np.argsort(corners[:, :, 2].mean(axis=1))
    order = order[normals[order, 2] > -0.1]
    shade = 0.8 + 0.24 * np.clip(normals[order] @ (_LIGHT / np.linalg.norm(_LIGHT)), 0.0, 1.0)
    painted = colours[surface.faces[order]].mean(axis=1)
    painted[:, :3] = np.clip(painted[:, :3] * shade[:, None], 0.0, 1.0)
    flat = corners[order][:, :, :2]
    axis.add_collection(PolyCollection(flat, facecolors=painted, edgecolors=painted, linewidths=0.4))
    places = (molecule.positions - center) @ turn
    for a, b in molecule.bonds:
        axis.plot(places[[a, b], 0], places[[a, b], 1], color="0.15", linewidth=1.2, alpha=0.7)
    for atomic_number, (x, y, _) in zip(molecule.atomic_numbers, places, strict=True):
        label = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "0.15", "linewidth": 0.8}
        axis.text(x, y, symbol(int(atomic_number)), ha="center", va="center", fontsize="small", bbox=label, zorder=4)

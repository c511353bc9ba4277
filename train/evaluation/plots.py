"""Pictures of a run: scatter of every target, the ESP of a few molecules, learning curves. Units on every axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from shared.drawing import literal, principal_axes, save_picture
from shared.elements import symbol
from train.data.quantities import ENERGY, MONOPOLE, TARGETS, Quantity
from train.evaluation.ensemble_errors import COMPARED, EnsembleErrors
from train.evaluation.results import MoleculeEsp, Targets
from train.run_folder import RunFolder, read_metrics

_HEXAGON_THRESHOLD = 5000
_POINTS_DRAWN = 3000


def draw_all(
    folder: RunFolder, targets: Targets, split: str, metrics: dict[str, float], ensemble: dict[str, Any] | None = None
) -> list[Path]:
    """Draw every picture of a run into ``plots/``, with the errors ``metrics`` of the table, and return the paths."""
    folder.plots.mkdir(parents=True, exist_ok=True)
    drawn = [save_picture(folder.picture_file(f"scatter-{split}"), lambda: draw_scatter(targets, split, metrics))]
    if targets.molecules:
        drawn.append(save_picture(folder.picture_file(f"esp-{split}"), lambda: draw_esp(targets.molecules)))
    if ensemble is not None:
        path, errors = folder.picture_file(f"calibration-{split}"), targets.ensemble_errors
        drawn.append(save_picture(path, lambda: draw_calibration(errors, ensemble["deviations"], split)))
    records = read_metrics(folder, epochs=10**9)
    if len(records) > 1:
        drawn.append(save_picture(folder.picture_file("learning-curves"), lambda: draw_curves(records)))
    return drawn


def draw_scatter(targets: Targets, split: str, metrics: dict[str, float]) -> Figure:
    """Draw prediction against reference for every target, and each atom's DCMNet charges against PhysNet's.

    Of many values some are drawn; the errors are those of the table, over all of them.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, quantity in zip(axes, TARGETS, strict=False):
        reference, predicted = targets.arrays(quantity.key)
        if len(reference):
            _scatter(axis, reference, predicted, quantity, metrics)
            labels = (f"{what}, {quantity.unit}" for what in ("reference", "prediction"))
            title = "energy above the atomic references" if quantity is ENERGY else quantity.label
            axis.set(title=title, **dict(zip(("xlabel", "ylabel"), labels, strict=True)))
        else:
            _say_missing(axis, quantity.label)
    charges, sums = targets.arrays("monopole")
    _scatter(axes[5], charges, sums, MONOPOLE, metrics)
    axes[5].set(title="monopoles", xlabel="PhysNet's charge, e", ylabel="sum of the atom's distributed charges, e")
    figure.suptitle(f"{split} split, best weights")
    return figure


def draw_calibration(errors: EnsembleErrors, compared: dict[str, Any], split: str) -> Figure:
    """Draw the errors of an ensemble's mean against the deviations of its members, singly and in bins.

    Args:
        errors: of all that is known.
        compared: the numbers on them, by the names of COMPARED.
        split: its name.
    """
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    for axis, (name, (quantity, of, unit)) in zip(figure.subplots(1, 3), COMPARED.items(), strict=True):
        label = f"{quantity.label}, of each {of}"
        if name not in compared:
            _say_missing(axis, label)
            continue
        found, pairs = compared[name], errors.pairs(name)
        pairs = pairs[:, :: -(-pairs.shape[1] // _POINTS_DRAWN)]
        axis.scatter(*pairs[:, (pairs > 0).all(axis=0)], s=6, alpha=0.35, linewidths=0, color="0.5")
        bins = np.array([[one["rms_deviation"], one["rms_error"]] for one in found["bins"]]).T
        axis.plot(*bins, "o", color="C0", label=f"root mean squares of {bins.shape[1]} bins")
        ends = np.array([bins[0][bins[0] > 0].min(), bins[0].max()]) if bins.any() else np.ones(2)
        axis.plot(ends, ends, color="0.3", linewidth=0.8, label="error = deviation")
        if found["factor"]:
            axis.plot(ends, found["factor"] * ends, "--", color="C1", label=f"deviation × {found['factor']:.3g}")
        rank = found["rank_correlation"]
        title = label if rank is None else f"{label}\nrank correlation {rank:.2f}"
        labels = (f"{what}, {unit}" for what in ("deviation of the members", "error of their mean"))
        axis.set(title=title, xscale="log", yscale="log", **dict(zip(("xlabel", "ylabel"), labels, strict=True)))
        for own in (axis.xaxis, axis.yaxis):
            own.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            own.set_major_formatter("{x:g}")
            own.set_minor_formatter(NullFormatter())
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.suptitle(f"{split} split: does the ensemble know where it is wrong?")
    return figure


def _scatter(axis: Axes, x: np.ndarray, y: np.ndarray, quantity: Quantity, metrics: dict[str, float]) -> None:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    pad = 0.03 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    axis.plot(limits, limits, color="0.6", linewidth=0.8, zorder=0)
    if len(x) > _HEXAGON_THRESHOLD:
        axis.hexbin(x, y, gridsize=80, bins="log", mincnt=1, extent=(*limits, *limits), cmap="viridis")
    else:
        axis.scatter(x, y, s=8, alpha=0.5, linewidths=0)
    error = metrics[quantity.metric] * quantity.error_factor
    text = f"{quantity.error} {error:.4g} {quantity.error_unit}"
    axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top")
    axis.set(xlim=limits, ylim=limits, aspect="equal")


def _say_missing(axis: Axes, title: str) -> None:
    axis.set_axis_off()
    axis.set(title=title)
    axis.text(0.5, 0.5, "not in the data", transform=axis.transAxes, ha="center", va="center", color="0.4")


def draw_esp(molecules: list[MoleculeEsp]) -> Figure:
    """Draw reference, prediction and difference on each molecule's grid, with atoms and distributed charges.

    The molecule is turned so that its longest extent lies in the plane of the picture.
    """
    figure = Figure(figsize=(13, 3.9 * len(molecules)), layout="constrained")
    rows = figure.subplots(len(molecules), 3, squeeze=False)
    for axes, molecule in zip(rows, molecules, strict=True):
        center, turn = principal_axes(molecule.positions)
        grid = (molecule.grid - center) @ turn
        front = grid[:, 2] >= np.median(grid[:, 2])
        difference = molecule.predicted - molecule.reference
        bound = float(np.abs(molecule.reference).max())
        bound_difference = float(np.abs(difference).max()) or 1e-12
        rmse = float(np.sqrt((difference**2).mean()))
        for axis, values, limit, title in (
            (axes[0], molecule.reference, bound, f"{literal(molecule.name)}: reference"),
            (axes[1], molecule.predicted, bound, "distributed charges"),
            (axes[2], difference, bound_difference, f"difference (RMSE {rmse:.3g})"),
        ):
            points = axis.scatter(
                grid[front, 0],
                grid[front, 1],
                c=values[front],
                s=26,
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                linewidths=0,
            )
            figure.colorbar(points, ax=axis, label="ESP, kcal/mol/e", shrink=0.85)
            _draw_atoms(axis, molecule, center, turn)
            axis.set(title=title, xlabel="Å", ylabel="Å", aspect="equal")
        sites = (molecule.dcm_sites.reshape(-1, 3) - center) @ turn
        charges = molecule.dcm_charges.ravel()
        axes[1].scatter(
            sites[:, 0], sites[:, 1], c=np.where(charges > 0, "crimson", "royalblue"), s=18, marker="x", zorder=4
        )
    figure.suptitle("ESP on the half of the grid towards the viewer; crosses: distributed charges (red +, blue -)")
    return figure


def _draw_atoms(axis: Axes, molecule: MoleculeEsp, center: np.ndarray, turn: np.ndarray) -> None:
    atoms = (molecule.positions - center) @ turn
    for atomic_number, (x, y, _) in zip(molecule.atomic_numbers, atoms, strict=True):
        axis.text(x, y, symbol(int(atomic_number)), ha="center", va="center", fontweight="bold", zorder=3)


def draw_curves(records: list[dict]) -> Figure:
    """Draw training and validation errors over the epochs."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    epochs = [record["epoch"] for record in records]
    curves = [("loss", "loss", "", 1.0)]
    curves += [(one.metric, one.label, one.error_axis, one.error_factor) for one in TARGETS]
    for axis, (name, label, unit, factor) in zip(figure.subplots(2, 3).ravel(), curves, strict=True):
        if not any(name in record[split] for record in records for split in ("train", "valid")):
            _say_missing(axis, label)
            continue
        for split in ("train", "valid"):
            axis.plot(epochs, [factor * record[split].get(name, np.nan) for record in records], label=split)
        axis.set(xlabel="epoch", ylabel=unit, title=label, yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend()
    return figure

"""Errors of the molecules that were never trained on, beside those of the others, and their baselines."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from shared.text import shown
from train.data.known_molecules import NEW_FORMULA, NEW_GRAPH, NOT_KNOWN, TRAINED_ON
from train.data.loader import BatchPlan, Loader
from train.data.quantities import ESP, QUANTITIES, Quantity
from train.evaluation.baselines import SEEN, UNSEEN, Baselines
from train.step.metrics import MetricSums, add_sums, named_metrics

FITS = {
    "atom_centred_esp_rmse_kcal_per_mol_e": "1 charge per atom",
    "distributed_esp_rmse_kcal_per_mol_e": "{n_dcm} charges per atom, displaced",
    "dipoles_esp_rmse_kcal_per_mol_e": "charge and dipole per atom",
    "quadrupoles_esp_rmse_kcal_per_mol_e": "charge, dipole, quadrupole per atom",
}
"""Errors of Baselines: what was fitted to the ESP of each molecule by itself."""

COLUMNS = {SEEN: "trained on", UNSEEN: "never trained on", "new_graph": "new bonds", "new_formula": "new formula"}
"""Groups of molecules, the last two being parts of the second, and their names in tables."""

_KINDS = {
    SEEN: (TRAINED_ON,),
    UNSEEN: (NEW_GRAPH, NEW_FORMULA),
    "new_graph": (NEW_GRAPH,),
    "new_formula": (NEW_FORMULA,),
}
_TYPES_NAMED = 8
_WIDTH = 20


class Sums(NamedTuple):
    """Sums of errors of some molecules."""

    molecules: int
    sums: MetricSums


def total_metrics(parts: Sequence[Sums]) -> dict[str, float]:
    """Return the errors over all parts, at least one.

    The loss, a mean over batches of means in each, depends a little on which molecules share a batch.
    """
    return named_metrics(functools.reduce(add_sums, (part.sums for part in parts)))


def plan_apart(loader: Loader, novelty: Sequence[np.ndarray] | None) -> list[tuple[int, BatchPlan]]:
    """Return the batches of a split, each of molecules that are the same to the training, and what they are to it.

    Args:
        loader: of the split.
        novelty: of its molecules, see KnownMolecules.novelty; None: NOT_KNOWN.
    """
    if novelty is None:
        return [(NOT_KNOWN, plan) for plan in loader.plan()]
    plans: list[tuple[int, BatchPlan]] = []
    for bucket, kinds in enumerate(novelty):
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            parts = (rows[start : start + loader.batch_size] for start in range(0, len(rows), loader.batch_size))
            plans.extend((kind, BatchPlan(bucket, part)) for part in parts)
    return plans


def transfer_record(by_novelty: dict[int, Sums], baselines: Baselines) -> dict[str, Any] | None:
    """Return numbers of molecules, errors and baselines of each group, for the JSON file.

    Args:
        by_novelty: sums of errors of TRAINED_ON, NEW_GRAPH and NEW_FORMULA, or of NOT_KNOWN alone.
        baselines: of the split and its groups.
    """
    if NOT_KNOWN in by_novelty:
        return None
    record: dict[str, Any] = {}
    for name, kinds in _KINDS.items():
        parts = [by_novelty[kind] for kind in kinds if kind in by_novelty]
        metrics = total_metrics(parts) if parts else {}
        metrics.pop("loss", None)
        record[name] = {"molecules": sum(part.molecules for part in parts), "metrics": metrics}
        if name in (SEEN, UNSEEN):
            own = baselines.groups.get(name)
            record[name]["baselines"] = without_groups(own) if own else None
            record[name]["normalised_errors"] = own.normalised_errors(metrics) if own else {}
    return record


def without_groups(baselines: Baselines) -> dict[str, Any]:
    """Return plain values of baselines, without those of their groups."""
    record = asdict(baselines)
    del record["groups"]
    return record


def describe_fits(baselines: Baselines) -> dict[str, float]:
    """Return the RMSE of the ESP in kcal/mol/e of what was fitted to each molecule of a sample."""
    errors = {what.format(n_dcm=baselines.n_dcm): getattr(baselines, name) for name, what in FITS.items()}
    return {what: error for what, error in errors.items() if error is not None}


class Column(NamedTuple):
    """Errors of a group of molecules, and what they are compared with."""

    label: str
    molecules: int
    metrics: dict[str, float]
    spread: dict[str, float]  # by metric; empty for parts of a group that has baselines
    fits: dict[str, float]  # see describe_fits
    fitted: int  # molecules


def filled_columns(groups: dict[str, Any]) -> list[Column]:
    """Return a column for each group of a :func:`transfer_record` that has molecules."""
    columns = []
    for name, label in COLUMNS.items():
        group = groups[name]
        own = Baselines(**group["baselines"]) if group.get("baselines") else None
        compared = (own.spread, describe_fits(own), own.molecules_fitted) if own else ({}, {}, 0)
        if group["molecules"]:
            columns.append(Column(label, group["molecules"], group["metrics"], *compared))
    return columns


def error_rows(columns: Sequence[Column]) -> list[tuple[Quantity, list[tuple[float | None, float | None]]]]:
    """Return error and spread in each column, of every quantity that has an error in one of them."""
    return [
        (one, [(one.error_in(column.metrics), one.error_in(column.spread)) for column in columns])
        for one in QUANTITIES
        if any(one.metric in column.metrics for column in columns)
    ]


def fit_rows(columns: Sequence[Column]) -> list[tuple[str, list[float | None]]]:
    """Return the RMSE of the ESP in each column, of everything that was fitted in one of them."""
    fits = dict.fromkeys(what for column in columns for what in column.fits)
    return [(what, [column.fits.get(what) for column in columns]) for what in fits]


def describe_transfer(record: dict[str, Any]) -> str:
    """Return lines, and a table if there are several groups, for the console."""
    groups = record["transfer"]
    if groups is None:
        return "  whether these molecules were trained on is not known: not all data of the training are in the cache"
    if not groups[UNSEEN]["molecules"]:
        return "  all molecules were trained on, by their formulas, total charges and bonds"
    lines = [_headline(record)]
    columns = filled_columns(groups)
    if not groups[SEEN]["molecules"]:
        columns = columns[1:]  # the first is the table above
    if len(columns) > 1:
        lines += _table(columns)
    return "\n".join(lines)


def _table(columns: Sequence[Column]) -> list[str]:
    """Return lines of errors, spreads and fits, with a column for each group."""
    rows = [("", [column.label for column in columns])]
    rows.append(("molecules", [f"{column.molecules:,}" for column in columns]))
    for one, pairs in error_rows(columns):
        rows.append((f"{one.error_label}, {one.error_unit}", [_cell(*pair) for pair in pairs]))
    fits = fit_rows(columns)
    if fits:
        numbers = [f"{column.fitted:,}" if column.fitted else "" for column in columns]
        rows.append((f"ESP {ESP.error}, {ESP.error_unit}, of fits to single molecules", numbers))
    rows += [(f"  {what}", ["" if error is None else f"{error:.3g}" for error in errors]) for what, errors in fits]
    lines = [f"  {label:<50}{''.join(f'{cell:>17}' for cell in cells)}".rstrip() for label, cells in rows]
    return [*lines, "  of: the spread"] if any(column.spread for column in columns) else lines


def _headline(record: dict[str, Any]) -> str:
    groups = record["transfer"]
    parts = [
        f"{groups[name]['molecules']:,} of {what}"
        for name, what in (
            ("new_formula", "a new formula or total charge"),
            ("new_graph", "a known one with new bonds"),
        )
        if groups[name]["molecules"]
    ]
    line = (
        f"  never trained on: {groups[UNSEEN]['molecules']:,} of {record['molecules']:,} molecules, {', '.join(parts)}"
    )
    types = unseen_types(record)
    names = [f"{shown(kind, _WIDTH)} {number:,}" for kind, number in types[:_TYPES_NAMED]]
    if len(types) > _TYPES_NAMED:
        names.append(f"and {len(types) - _TYPES_NAMED:,} more types")
    return f"{line}\n  ({', '.join(names)})"


def unseen_types(record: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the types of the molecules that were never trained on, with their numbers, the most frequent first."""
    types = [(kind, entry["unseen"]) for kind, entry in record["by_type"].items() if entry["unseen"]]
    return sorted(types, key=lambda one: -one[1])


def _cell(error: float | None, spread: float | None) -> str:
    if error is None:
        return ""
    return f"{error:.4g}" if spread is None else f"{error:.4g} of {spread:.4g}"

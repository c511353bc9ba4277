"""The HTML page: the template filled with a run's facts, errors, figures and molecules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from shared.text import shown
from train.data.quantities import DIPOLE_DCM, ENERGY, ESP, FORCES, QUANTITIES, RARE
from train.evaluation.baselines import UNSEEN, Baselines
from train.evaluation.charge_extents import describe_owner, warn_of_charges
from train.evaluation.ensemble_errors import ensemble_rows
from train.evaluation.errors_by_molecule import worst_first
from train.evaluation.transfer import error_rows, filled_columns, fit_rows, unseen_types
from train.report import plotly_figures
from train.report.run_facts import RunFacts
from train.report.scene import scene_data
from train.report.shown_molecules import MOST_POINTS, ShownMolecule
from train.report.surface import REACH_ANGSTROM
from train.report.target_samples import SAMPLED, Sample

_HERE = Path(__file__).parent
_TYPES_IN_TABLE = 60
_TYPES_NAMED = 30
_TILES = tuple(one.metric for one in (ESP, FORCES, ENERGY, DIPOLE_DCM))


def render(
    facts: RunFacts,
    split: str,
    evaluation: dict[str, Any],
    samples: list[Sample],
    molecules: list[ShownMolecule],
) -> str:
    """Return the whole page, which refers to nothing outside of it."""
    groups = {
        "curves": plotly_figures.learning_curves(facts.epochs),
        "scatter": [plotly_figures.scatter(sample) for sample in samples],
        "errors": [plotly_figures.error_histogram(sample) for sample in samples],
        "types": plotly_figures.type_bars(evaluation["by_type"]),
    }
    named = {f"{name}-{i}": figure for name, group in groups.items() for i, figure in enumerate(group)}
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update({"digits": _digits, "count": _count, "shown": shown})
    rows = _error_rows(evaluation)
    return environment.get_template("page.html").render(
        facts=facts,
        split=split,
        evaluation=evaluation,
        rows=rows,
        tiles=[row for name in _TILES for row in rows if row["name"] == name and row["error"] is not None],
        transfer=_transfer(evaluation),
        ensemble=ensemble_rows(evaluation),
        charges=_charge_rows(evaluation["distributed_charges"]),
        warning=warn_of_charges(evaluation),
        types=[(shown(name), entry) for name, entry in worst_first(evaluation["by_type"])],
        types_in_table=_TYPES_IN_TABLE,
        ids={name: [f"{name}-{i}" for i in range(len(group))] for name, group in groups.items()},
        molecules=molecules,
        samples=samples,
        drawn={
            "points": plotly_figures.POINTS_DRAWN,
            "sampled": SAMPLED,
            "tail": f"{plotly_figures.TAIL:.1%}",
            "types": plotly_figures.TYPES_DRAWN,
            "grid": MOST_POINTS,
            "reach": REACH_ANGSTROM,
        },
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
        figures_json=_json({name: _plain(figure) for name, figure in named.items()}),
        molecules_json=_json([scene_data(molecule) for molecule in molecules]),
    )


def _plain(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


def _json(value: Any) -> Markup:
    """Return JSON for a script element: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _error_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every metric in the unit that is shown, beside its baselines; None where the data lack the target."""
    baselines = Baselines(**evaluation["baselines"])
    metrics, spread = evaluation["metrics"], baselines.spread
    return [
        {
            "name": one.metric,
            "label": one.error_label,
            "unit": one.error_unit,
            "error": one.error_in(metrics),
            "fitted": baselines.fitted_error(one.metric) or None,
            "spread": one.error_in(spread),
            "normalised": evaluation["normalised_errors"].get(one.metric),
        }
        for one in QUANTITIES
        if one.metric in metrics or one not in RARE
    ]


def _transfer(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return errors, spreads and fits of the molecules that were trained on, and of others; None if not known."""
    groups = evaluation["transfer"]
    if groups is None:
        return None
    columns = filled_columns(groups)
    return {
        "unseen": groups[UNSEEN]["molecules"],
        "types": unseen_types(evaluation),
        "named": _TYPES_NAMED,
        "columns": columns,
        "rows": error_rows(columns),
        "fits": fit_rows(columns),
    }


def _charge_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return mean and extreme of each property of the distributed charges, and whose the extreme is."""
    return [
        {
            "label": label,
            "unit": unit,
            "mean": found.get(mean),
            "extreme": found[extreme],
            "owner": describe_owner(found[owner]),
        }
        for label, unit, mean, extreme, owner in (
            ("magnitude", "e", "mean_magnitude_e", "largest_magnitude_e", "largest"),
            ("distance from their atom", "Å", "mean_arm_angstrom", "longest_arm_angstrom", "longest_arm"),
            ("depth below the molecule's surface", "Å", "", "least_depth_angstrom", "least_deep"),
        )
    ]


def _digits(value: float | None, factor: float = 1.0) -> str:
    """Return three digits, or a dash where there is no number; powers of ten only for extreme values."""
    if value is None or not np.isfinite(value):
        return "–"
    shown = value * factor
    if shown and (abs(shown) < 1e-4 or abs(shown) >= 1e6):
        return f"{shown:.1e}"
    return np.format_float_positional(shown, precision=3, unique=False, fractional=False).rstrip(".")


def _count(value: int) -> str:
    return f"{value:,}"

"""The page's plots in two dimensions, with Plotly: small figures, which a narrow window can stack."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from shared.text import shown
from train.data.quantities import ESP, FORCES, TARGETS
from train.report.target_samples import Sample

POINTS_DRAWN = 2000
TYPES_DRAWN = 20
MOST_BINS = 61
TAIL = 0.995
"""Share of the errors inside a histogram's range; those outside are counted in its first and last bins."""

_BLUE, _GREY, _DARK, _RED = "#2166ac", "#9aa3ad", "#1f2933", "#b2182b"


def learning_curves(epochs: list[dict[str, Any]]) -> list[go.Figure]:
    """Return learning curves of all errors with values; none with fewer than two epochs."""
    if len(epochs) < 2:
        return []
    numbers = [epoch["epoch"] for epoch in epochs]
    figures = []
    curves = [("loss", "loss", "loss", 1.0)]
    curves += [(one.metric, one.label, one.error_axis, one.error_factor) for one in TARGETS]
    for name, title, label, factor in curves:
        figure = _figure(title, "epoch", label)
        for split, colour in (("train", _GREY), ("valid", _BLUE)):
            values = [_finite(epoch[split].get(name), factor) for epoch in epochs]
            if any(value is not None for value in values):
                line = {"color": colour, "width": 1.8}
                figure.add_scatter(x=numbers, y=values, mode="lines", name=split, line=line, showlegend=True)
        if not figure.data:
            continue
        ticks = _ticks([value for trace in figure.data for value in trace.y if value])
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        figure.update_layout(hovermode="x unified", showlegend=True)
        figures.append(figure)
    return figures


def scatter(sample: Sample) -> go.Figure:
    """Return prediction against reference, of a seeded part of the sample; hovering names the molecule."""
    target = sample.target
    figure = _figure(target.title, f"{target.x_label}, {target.unit}", f"{target.y_label}, {target.unit}", 340)
    drawn = np.sort(np.random.default_rng(0).permutation(len(sample.reference))[:POINTS_DRAWN])
    x, y = sample.reference[drawn], sample.predicted[drawn]
    finite = np.concatenate([x, y])[np.isfinite(np.concatenate([x, y]))]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    pad = 0.04 * (high - low) or 1.0
    ends = [low - pad, high + pad]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": _GREY, "width": 1}, hoverinfo="skip")
    figure.add_scatter(
        x=rounded(x),
        y=rounded(y),
        mode="markers",
        marker={"color": _BLUE, "size": 4, "opacity": 0.45},
        text=[html.escape(sample.labels[i]) for i in drawn],
        hovertemplate=f"%{{text}}<br>{target.x_label} %{{x:.4g}} {target.unit}<br>"
        f"{target.y_label} %{{y:.4g}} {target.unit}<extra></extra>",
    )
    figure.add_annotation(
        text=sample.described,
        **{"xref": "x domain", "yref": "y domain", "x": 0.03, "y": 0.98, "align": "left", "showarrow": False},
        bgcolor="rgba(255,255,255,0.8)",
    )
    figure.update_xaxes(range=ends, constrain="domain")
    figure.update_yaxes(range=ends, scaleanchor="x", constrain="domain")
    return figure


def histogram(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds (b + 1,) and counts (b,) of the errors about zero; the end bins include all beyond them."""
    errors = sample.errors
    reach = float(np.quantile(np.abs(errors), TAIL)) if len(errors) else 1.0
    bins = min(MOST_BINS, 2 * int(np.sqrt(len(errors))) + 3)
    bounds = np.linspace(-1.0, 1.0, bins + 1) * (reach or 1e-12)
    return bounds, np.histogram(np.clip(errors, bounds[0], bounds[-1]), bounds)[0]


def error_histogram(sample: Sample) -> go.Figure:
    """Return the distribution of the errors."""
    unit = sample.target.unit
    figure = _figure(sample.target.title, f"prediction - reference, {unit}", "share, %", 260)
    bounds, counts = histogram(sample)
    share = 100 * counts / max(counts.sum(), 1)
    figure.add_bar(
        x=rounded((bounds[1:] + bounds[:-1]) / 2),
        y=rounded(share),
        width=float(bounds[1] - bounds[0]),
        marker={"color": _BLUE, "line": {"width": 0}},
        hovertemplate=f"%{{x:.3g}} {unit}: %{{y:.3g}} %<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": _DARK, "width": 1, "dash": "dot"})
    figure.update_layout(bargap=0)
    return figure


def worst_types(by_type: dict[str, Any], metric: str) -> list[tuple[str, float, int]]:
    """Return name, error and number of molecules of the types with the largest errors, the largest first."""
    rows = [(kind, entry[metric], entry["molecules"]) for kind, entry in by_type.items() if entry[metric] is not None]
    return sorted(rows, key=lambda row: -row[1])[:TYPES_DRAWN]


def type_bars(by_type: dict[str, Any]) -> list[go.Figure]:
    """Return ESP and force errors by type of molecule, if in the data; none if there is only one type."""
    if len(by_type) < 2:
        return []
    figures = []
    for quantity, colour in ((ESP, _BLUE), (FORCES, _RED)):
        rows, factor, unit = worst_types(by_type, quantity.metric), quantity.error_factor, quantity.error_unit
        if not rows:
            continue
        title = f"{quantity.label} by type of molecule"
        figure = _figure(title, quantity.error_axis, "", 110 + 19 * len(rows))
        figure.add_bar(
            x=rounded(np.array([row[1] * factor for row in rows])),
            y=[html.escape(shown(row[0])) for row in rows],
            orientation="h",
            marker={"color": colour},
            text=[f"{row[2]:,}" for row in rows],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{y}}: %{{x:.4g}} {unit}, %{{text}} molecules<extra></extra>",
        )
        figure.update_yaxes(autorange="reversed", type="category", automargin=True, dtick=1)
        figures.append(figure)
    return figures


def rounded(values: np.ndarray) -> list[float | None]:
    """Return numbers of five digits for JSON, None for NaN."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.ravel(values).tolist()]


def _figure(title: str, x: str, y: str, height: int = 270) -> go.Figure:
    axis = {"showline": True, "linecolor": "#c5ccd3", "gridcolor": "#eceff2", "zeroline": False, "ticks": "outside"}
    return go.Figure(
        layout={
            "title": {"text": f"<b>{title}</b>", "font": {"size": 13}, "x": 0.02, "y": 0.97, "yanchor": "top"},
            "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 11.5, "color": _DARK},
            "xaxis": {**axis, "title": {"text": x, "standoff": 6, "font": {"size": 12}}},
            "yaxis": {**axis, "title": {"text": y, "standoff": 6, "font": {"size": 12}}},
            "height": height,
            "margin": {"l": 58, "r": 14, "t": 40, "b": 44},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "showlegend": False,
            "legend": {
                "orientation": "h",
                "x": 1,
                "y": 1.0,
                "xanchor": "right",
                "yanchor": "bottom",
                "font": {"size": 11},
            },
            "template": None,
        }
    )


def _ticks(values: list[float]) -> list[float]:
    """Return the labels of a logarithmic axis: more in each decade where there are fewer decades."""
    if not values:
        return []
    first, last = (math.floor(math.log10(value)) for value in (min(values), max(values)))
    near = max(values) < 10 * min(values)
    digits = (1, 2, 3, 5, 7) if near else (1, 2, 5) if last - first < 3 else (1,)
    return [digit * 10.0**decade for decade in range(first, last + 2) for digit in digits]


def _finite(value: float | None, factor: float) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value * factor:.5g}")

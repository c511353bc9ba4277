"""The folder of a trained model: where its weights are, those of an ensemble's members too, and its errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.settings import as_flags
from train.config import ModelConfig
from train.data.quantities import ENERGY, FORCES
from train.data.training_facts import TrainingFacts, dipole_errors
from train.model.saved_model import SETTINGS, TrainedModel, load_weights, member_folders

Runs = str | Path | Sequence[str | Path]
"""Folder of a run (runs/NAME), of a single model or of an ensemble, or a copy of its best/; or several of these."""


def best_folder(run: str | Path) -> Path:
    """Return the folder of the weights: ``run``/best, or ``run`` if that is one itself.

    Raises:
        UserError: it is a file.
    """
    run = Path(run)
    if run.is_file():
        raise UserError(f"{run}: a file; give the folder of the run (runs/NAME), or a copy of its best/")
    is_best = any((folder / "model.json").exists() for folder in member_folders(run))
    return run if is_best else run / "best"


def single_folder(run: str | Path) -> Path:
    """Return the folder of a model's weights.

    Raises:
        UserError: the run is an ensemble.
    """
    folders = member_folders(best_folder(run))
    if len(folders) > 1:
        raise UserError(
            f"--run {run}: an ensemble of {len(folders)} models, of which one can be exported: --run {folders[0]}"
        )
    return folders[0]


def load_members(runs: Runs) -> dict[Path, TrainedModel]:
    """Return the folder and the model of every member of an ensemble; of a single model, these alone.

    Raises:
        UserError: there is no model, or it is damaged; one is given twice; models of different settings.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    folders = [folder for run in given for folder in member_folders(best_folder(run))]
    if not folders:
        raise UserError("no run: give the folder of one, or of several")
    resolved = [folder.resolve() for folder in folders]
    for place, folder in enumerate(folders):
        if resolved[place] in resolved[:place]:
            raise UserError(f"{folder}: given twice; the members of an ensemble are trained separately")
    members = {folder: load_with_errors(folder) for folder in folders}
    first = folders[0]
    for folder, member in members.items():
        _require_same_settings(first, members[first].config, folder, member.config)
    return members


def load_with_errors(folder: Path) -> TrainedModel:
    """Return a model with the errors of its dipoles, from the evaluation beside it where its own file lacks them.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    trained = load_weights(folder)
    facts = trained.training
    if facts and facts.dipole_errors:
        return trained
    errors = dipole_errors(_validation_metrics(folder))
    return replace(trained, training=replace(facts or TrainingFacts(), dipole_errors=errors)) if errors else trained


def validation_errors(folder: Path) -> tuple[float, float] | None:
    """Return the mean absolute errors of energies in eV and forces in eV/Å on the validation split, if known."""
    metrics = _validation_metrics(folder)
    found = [metrics.get(quantity.metric) for quantity in (ENERGY, FORCES)]
    return None if None in found else (float(found[0]), float(found[1]))  # type: ignore[arg-type]


def _validation_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of the evaluation beside best/, an ensemble's for each of its members; empty without one."""
    best = folder.parent if folder.name.startswith("member-") else folder
    if best.name != "best":
        return {}
    try:
        record = json.loads((best.parent / "evaluation-valid.json").read_text(encoding="utf-8"))
        return {name: float(value) for name, value in record["metrics"].items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # not evaluated, or not to be read: nothing but defaults depends on it


def _require_same_settings(first: Path, expected: ModelConfig, other: Path, config: ModelConfig) -> None:
    differing = [name for name in SETTINGS if getattr(expected, name) != getattr(config, name)]
    if differing:
        shown = (
            " ".join(as_flags({name: getattr(one, name) for name in differing})) + f" in {folder}"
            for folder, one in ((first, expected), (other, config))
        )
        raise UserError(f"no ensemble, because the models have different settings: {', '.join(shown)}")

"""The folder of a trained model: where its weights are, and how good its dipoles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from train.data.training_facts import TrainingFacts, dipole_errors
from train.model.saved_model import TrainedModel, load_weights


def best_folder(run: str | Path) -> Path:
    """Return the folder of the weights: ``run``/best, or ``run`` if that is one itself."""
    run = Path(run)
    return run if (run / "model.json").exists() else run / "best"


def load_with_errors(folder: Path) -> TrainedModel:
    """Return a model with the errors of its dipoles, from the evaluation beside it where its own file lacks them.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    trained = load_weights(folder)
    facts = trained.training or TrainingFacts()
    if facts.dipole_errors or folder.name != "best":
        return trained
    try:
        record = json.loads((folder.parent / "evaluation-valid.json").read_text(encoding="utf-8"))
        errors = dipole_errors(record["metrics"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return trained  # not evaluated, or not to be read: nothing but a default depends on it
    return replace(trained, training=replace(facts, dipole_errors=errors))

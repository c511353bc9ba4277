"""Weights on disk, without pickle: ``best/weights.safetensors`` and ``best/model.json`` suffice to predict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from shared.errors import UserError
from shared.files import write_atomically
from shared.settings import checked
from train.config import ModelConfig
from train.data.training_facts import TrainingFacts, facts_from_json
from train.model.prediction import Params

FORMAT_VERSION = 1
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "charge": "e", "dipole": "e·Å", "esp": "Hartree/e"}
_WEIGHTS, _MODEL = "weights.safetensors", "model.json"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model as saved on disk."""

    config: ModelConfig
    reference_energies_ev: dict[int, float]
    params: Params
    training: TrainingFacts | None = None  # None: of an older version


def save_weights(folder: Path, model: TrainedModel) -> None:
    """Write the model; a reader sees the old weights or the new ones, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(ModelConfig) if field.name not in ("config", "cache_dir")]
    settings = asdict(model.config)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": {name: settings[name] for name in names},
        "units": UNITS,
        "reference_energies_ev": {str(z): e for z, e in sorted(model.reference_energies_ev.items())},
    }
    if model.training:
        description["training"] = model.training.as_json()
    text = json.dumps(description, indent=1, ensure_ascii=False).encode()
    flat = {name: np.asarray(value) for name, value in flatten_dict(model.params, sep="/").items()}
    write_atomically(folder / _MODEL, text)
    write_atomically(folder / _WEIGHTS, save(flat))


def load_weights(folder: Path) -> TrainedModel:
    """Read a model.

    Raises:
        UserError: a file is missing, damaged, or of another version.
    """
    path = folder / _MODEL
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        flat = load_file(folder / _WEIGHTS)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or folder / _WEIGHTS}: no such file; a finished run has best/{_MODEL}"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged weights ({error}); train again, or copy the folder again") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}, but this program reads {FORMAT_VERSION}")
    try:
        training = facts_from_json(description["training"]) if "training" in description else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged (training: {error!r}); train again, or copy the folder again") from error
    return TrainedModel(
        config=checked(ModelConfig, description["model"], f"{path}: "),
        reference_energies_ev={int(z): float(e) for z, e in description["reference_energies_ev"].items()},
        params=unflatten_dict(flat, sep="/"),
        training=training,
    )

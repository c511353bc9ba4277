"""Weights on disk, without pickle: ``best/weights.safetensors`` and ``best/model.json`` suffice to predict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.digests import array_digest, settings_digest
from shared.errors import UserError
from shared.files import write_atomically
from shared.settings import checked, values_before
from train.config import ModelConfig
from train.data.training_facts import TrainingFacts, facts_from_json
from train.model.prediction import Params

FORMAT_VERSION = 1
UNITS = {
    "length": "Å",
    "energy": "eV",
    "forces": "eV/Å",
    "charge": "e",
    "dipole": "e·Å",
    "quadrupole": "e·Å²",
    "esp": "Hartree/e",
}
SETTINGS = tuple(field.name for field in fields(ModelConfig) if field.name not in ("config", "cache_dir"))
"""Settings that the program of a model depends on."""

_WEIGHTS, _MODEL = "weights.safetensors", "model.json"
_CHECKSUM = "checksum"
"""Entry of the weights' own metadata: of these weights and of their model.json, so that one rename changes both."""


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
    settings = asdict(model.config)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": {name: settings[name] for name in SETTINGS},
        "units": UNITS,
        "reference_energies_ev": {str(z): e for z, e in sorted(model.reference_energies_ev.items())},
    }
    if model.training:
        description["training"] = model.training.as_json()
    text = json.dumps(description, indent=1, ensure_ascii=False).encode()
    flat = {name: np.asarray(value) for name, value in flatten_dict(model.params, sep="/").items()}
    write_atomically(folder / _MODEL, text)
    write_atomically(folder / _WEIGHTS, save(flat, metadata={_CHECKSUM: _checksum(json.loads(text), flat)}))


def load_weights(folder: Path) -> TrainedModel:
    """Read a model.

    Raises:
        UserError: a file is missing, damaged, or of another version, or they do not belong together.
    """
    path = folder / _MODEL
    try:
        description = json.loads(path.read_bytes())
        content = (folder / _WEIGHTS).read_bytes()
        flat = load(content)
        metadata = _metadata(content)
        # Weights of the first version have none.
        if metadata is not None and metadata[_CHECKSUM] != _checksum(description, flat):
            raise ValueError(f"{_MODEL} and {_WEIGHTS} have another checksum than when they were written together")
        version = description.get("format_version")
        references = {int(z): float(e) for z, e in description["reference_energies_ev"].items()}
        # Weights that are older than a setting are those of the model without it.
        model = {**values_before(ModelConfig, description["model"]), **description["model"]}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; a finished run has best/{_MODEL}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: damaged weights ({_reason(error)}); train again, or copy the folder again"
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}, but this program reads {FORMAT_VERSION}")
    try:
        training = facts_from_json(description["training"]) if "training" in description else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged (training: {error!r}); train again, or copy the folder again") from error
    return TrainedModel(
        checked(ModelConfig, model, f"{path}: "), references, unflatten_dict(flat, sep="/"), training=training
    )


def member_folders(best: Path) -> list[Path]:
    """Return the folders ``member-0``, ... of an ensemble in a run's best/; of a single model, best/ itself."""
    found = {int(path.name[7:]): path for path in best.glob("member-*") if path.name[7:].isdecimal()}
    return [found[number] for number in sorted(found)] or [best]


def _checksum(description: Any, flat: dict[str, np.ndarray]) -> str:
    weights = {name: [str(value.dtype), value.shape, array_digest(value)] for name, value in flat.items()}
    return settings_digest({"model": description, "weights": weights})


def _metadata(content: bytes) -> dict[str, str] | None:
    """Return the metadata in the header of a safetensors file, whose length its first 8 bytes are."""
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__")


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)

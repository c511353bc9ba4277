"""Data, settings, programs and hardware of a run, from its own files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.elements import symbol
from shared.errors import UserError
from shared.manifest import read_manifest, stage_folder
from shared.sealed import read_sealed
from train.config import TrainConfig
from train.model.saved_model import load_weights
from train.run_folder import RunFolder, load_config, read_metrics, read_record

_MAIN_SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "schedule", "seed", "members"),
    *("energy_weight", "forces_weight", "dipole_weight", "esp_weight", "mono_weight", "charge_sum_weight"),
    *("quadrupole_weight", "point_charge_esp_weight", "charge_weight"),
    *("dipole_source", "physnet_cutoff", "physnet_features", "physnet_iterations", "physnet_degree"),
    *("dcmnet_cutoff", "dcmnet_features", "dcmnet_iterations", "share_features"),
    *("n_dcm", "longest_arm", "exact_monopoles", "mix_coulomb_energy"),
    *("esp_radius_factor", "esp_min_distance", "esp_max_value", "init_from", "freeze"),
)
_UNITS = {
    "physnet_cutoff": "Å",
    "dcmnet_cutoff": "Å",
    "energy_weight": "1/eV²",
    "forces_weight": "Å²/eV²",
    "dipole_weight": "1/(e·Å)²",
    "esp_weight": "(e/Hartree)²",
    "mono_weight": "1/e²",
    "charge_sum_weight": "1/e",
    "quadrupole_weight": "1/(e·Å²)²",
    "point_charge_esp_weight": "(e/Hartree)²",
    "charge_weight": "1/e²",
    "longest_arm": "Å",
    "esp_min_distance": "Å",
    "esp_max_value": "Hartree/e",
}
_PLACES = ("config", "cache_dir", "runs_dir", "coordinator")
"""Settings that are paths on one machine: a report is for others too."""


@dataclass(frozen=True)
class RunFacts:
    """Data, settings, programs and hardware of one run."""

    folder: RunFolder
    config: TrainConfig
    record: dict[str, Any]  # run.json
    manifest: dict[str, Any] | None  # of the training's data; None if they are no longer in the cache
    reference_energies_ev: dict[int, float]
    parameters: int
    epochs: list[dict[str, Any]]  # metrics.jsonl

    @property
    def elements(self) -> list[str]:
        """Symbols, by atomic number."""
        return [symbol(z) for z in sorted(self.reference_energies_ev)]

    def data_files(self) -> list[dict[str, Any]]:
        """Return split, names, digests and number of molecules of each pair of input files; empty if unknown."""
        data = self.record["data"]
        return [
            {
                "split": entry["split"],
                "efd": Path(entry["efd"]).name,
                "esp": Path(entry["esp"]).name,
                "molecules": entry["samples"],
                "efd_digest": digests["efd"],
                "esp_digest": digests.get("esp", ""),
            }
            for entry, digests in zip(data.get("files", []), data.get("inputs", []), strict=True)
        ]

    def understood(self) -> list[dict[str, Any]]:
        """Return the members that preprocessing read for each quantity; empty for data of earlier versions."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self.record["data"].get("files", []):
            quantities = {**entry.get("quantities", {}), **entry.get("esp_quantities", {})}
            if not quantities:
                continue
            left = {key: why for members in entry["left_alone"].values() for key, why in members.items()}
            own = found.setdefault(json.dumps(quantities), {"files": [], "quantities": quantities, "left_alone": {}})
            own["files"] += [Path(entry[kind]).name for kind in ("efd", "esp") if entry[kind]]
            own["left_alone"] |= left
        return [{**one, "files": list(dict.fromkeys(one["files"]))} for one in found.values()]

    def splits(self) -> list[dict[str, Any]]:
        """Return numbers of molecules, atoms and grid points, and spreads, of each split."""
        return [{"split": name, **values} for name, values in (self.manifest or {}).get("splits", {}).items()]

    def settings(self, main: bool) -> list[dict[str, str]]:
        """Return name, value with unit, and whether it is not the default, of the main settings or all others."""
        defaults = asdict(TrainConfig())
        values = {name: value for name, value in asdict(self.config).items() if name not in _PLACES}
        # Of other runs the name alone, for the same reason.
        values |= {name: Path(values[name]).name for name in ("init_from", "from_run")}
        names = _MAIN_SETTINGS if main else tuple(sorted(set(values) - set(_MAIN_SETTINGS)))
        return [
            {
                "name": name.replace("_", " "),
                "value": " ".join((_shown(values[name]), _UNITS.get(name, ""))).strip(),
                "changed": "changed" if values[name] != defaults[name] else "",
            }
            for name in names
        ]

    def course(self) -> dict[str, str]:
        """Return when and how long the run trained."""
        if not self.epochs:
            return {"epochs trained": "unknown (no metrics.jsonl)"}
        # Runs of earlier versions kept the weights of the lowest validation loss, and did not write which they were.
        last, lowest = self.epochs[-1], min(self.epochs, key=lambda epoch: epoch["valid"].get("loss", float("inf")))
        of_members = [str(member["best_epoch"]) for member in last.get("members", [])]
        best = f"{', '.join(of_members)} (of each member)" if of_members else last.get("best_epoch", lowest["epoch"])
        minutes = sum(epoch["seconds"] for epoch in self.epochs) / 60
        return {
            **({"begun": self.record["begun"]} if "begun" in self.record else {}),
            "epochs trained": f"{last['epoch']} of {self.config.epochs}; the best was {best}",
            "time in training": f"{minutes:.3g} minutes ({last['samples_per_second']:,.0f} molecules/s)",
        }

    def machine(self) -> dict[str, str]:
        """Return programs and hardware."""
        device, git = self.record.get("device") or {}, self.record.get("git") or {}
        commit = git.get("commit", "")[:12] + (" with changes" if git.get("modified") else "")
        continued = len(self.record.get("continued", []))
        return {
            **({"device": f"{device['count']} × {device['kind']} ({device['platform']})"} if device else {}),
            **({"processor": f"{device['processor']}, {device['cores']} cores"} if device else {}),
            **({"program's commit": commit} if git else {}),
            **({"continued elsewhere": f"{continued} time(s)"} if continued else {}),
            "versions": ", ".join(f"{name} {version}" for name, version in self.record.get("versions", {}).items()),
        }


def read_evaluation(folder: RunFolder, split: str) -> dict[str, Any]:
    """Return the errors of a split, and the digest of the predictions (None: there were none).

    Raises:
        UserError: the file is damaged.
    """
    path = folder.evaluation_file(split)
    remedy = "delete it, and the report evaluates again"
    try:
        record = read_sealed(path, remedy)
        return {**{name: record[name] for name in _EVALUATED}, "predictions_digest": record.get("predictions_digest")}
    except KeyError as error:
        raise UserError(f"{path}: damaged (it lacks {error}); {remedy}") from error


def read_facts(folder: RunFolder) -> RunFacts:
    """Read the run's files, and its data's manifest if it is still in the cache.

    Raises:
        UserError: no such run, or its record or weights are missing or damaged.
    """
    config = load_config(folder)
    record = read_record(folder)
    trained = load_weights(folder.best_folders(config.members)[0])
    manifest = read_manifest(stage_folder(Path(config.cache_dir), "frames", record["data"]["frames"]))
    epochs = read_metrics(folder, epochs=10**9)
    size = _size(trained.params)
    return RunFacts(folder, config, record, manifest, trained.reference_energies_ev, size, epochs)


def _size(tree: Any) -> int:
    return sum(map(_size, tree.values())) if isinstance(tree, dict) else int(tree.size)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "-"


_EVALUATED = (
    "split",
    "molecules",
    "metrics",
    "ensemble",
    "baselines",
    "normalised_errors",
    "transfer",
    "distributed_charges",
    "by_element",
    "by_distance_shell",
    "by_type",
    "worst",
)

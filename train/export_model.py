"""``python -m train.export_model``: a trained model as one file that runs with JAX alone."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import run_program
from shared.files import write_atomically
from shared.log import log
from shared.settings import PathName, parse_flags
from train.step.start import start_jax

MODEL, DESCRIPTION, README = "model.jax-export", "model.json", "README.md"


@dataclass(frozen=True)
class ExportModelConfig:
    """Write a trained model as a serialised JAX program with its weights: energy, forces, charges, any molecules."""

    run: PathName
    """Folder of the run, runs/NAME (or a copy of its best/); of an ensemble one member, runs/NAME/best/member-0."""

    output: PathName
    """Folder to write to."""

    precision: Literal["float32", "float64"] = "float32"
    """Precision: float32 as trained, or float64, in which dynamics and finite differences are smoother."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the artefact, its description and instructions for loading it.

    Raises:
        UserError: no such run, or an ensemble.
        OSError: the folder cannot be written.
    """
    asked = parse_flags(ExportModelConfig, "python -m train.export_model", argv)
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    from train.inference.folder import single_folder
    from train.inference.jax_export import describe, export_model
    from train.model.saved_model import load_weights

    trained = load_weights(single_folder(asked.run))
    artefact = export_model(trained, asked.precision)
    description = describe(trained, asked.precision)
    folder = Path(asked.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False).encode())
    write_atomically(folder / README, _readme(description).encode())
    write_atomically(folder / MODEL, artefact)
    log.info(f"{folder / MODEL}: {len(artefact) / 2**20:.1f} MiB; {folder / README} says how to load it")


def _readme(description: dict[str, Any]) -> str:
    double = description["precision"] == "float64"
    element = description["elements"][0]
    versions = description["written_by"]
    far = "" if double else " or farther than 256 Å from the origin"
    tables = {
        name: "\n".join(f"- `{key}`: {meaning}" for key, meaning in description[name].items())
        for name in ("inputs", "outputs")
    }
    return f"""# A PhysNet–DCMNet model as a JAX program

`{MODEL}` holds program and weights, and is no pickle. It needs JAX alone: `pip install jax flatbuffers` (on a
GPU `"jax[cuda13]"`), for {" and ".join(description["platforms"])}. It was written by jax {versions["jax"]}; JAX
promises that versions up to six months newer run it. Elements: {", ".join(description["elements"])}. A molecule
with another one gets NaN, and so does one with atoms closer than 0.2 Å{far}.

```python
import json
from pathlib import Path

import jax
import numpy as np
from jax import export

jax.config.update("jax_enable_x64", {double})
model = export.deserialize(bytearray(Path("{MODEL}").read_bytes()))
elements = json.loads(Path("{DESCRIPTION}").read_text(encoding="utf-8"))["reference_energies_ev"]

# One molecule of two atoms, as an example: of the element {element}, 1.2 Å apart; a third place is padding.
number = int(next(iter(elements)))
atomic_numbers = np.array([[number, number, 0]], np.int32)
positions = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.0, 0.0]]])
total_charge = np.zeros(1, np.{description["precision"]})

# About each molecule's centre, before they are cast: single precision resolves little far from the origin.
real = (atomic_numbers > 0)[..., None]
center = (positions * real).sum(axis=1, keepdims=True) / real.sum(axis=1, keepdims=True)
near = ((positions - center) * real).astype(np.{description["precision"]})

result = jax.device_get(model.call(atomic_numbers, near, total_charge))
energy = result["energy"].astype(np.float64) + result["reference_energy"].astype(np.float64).sum(axis=1)
if not np.isfinite(energy).all():
    raise ValueError("an element that the model was not trained on, atoms at one place, or a geometry out of its range")
result["dcm_sites"] = result["dcm_sites"] + center[:, None]
print("energy, eV:", energy)
print("forces, eV/Å:", result["forces"])
print("distributed charges, e:", result["dcm_charges"], "at, Å:", result["dcm_sites"])
```

Inputs, in this order ({description["precision"]}), of B molecules with A places for atoms each:

{tables["inputs"]}

Outputs, a dictionary:

{tables["outputs"]}

Every new pair (B, A) compiles once: pad molecules to few sizes, and wrap the call in `jax.jit`. Time and memory grow
with A², because all pairs of atoms are looked at. Not periodic.
"""


if __name__ == "__main__":
    sys.exit(run_program(main))

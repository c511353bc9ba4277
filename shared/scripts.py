"""The programs as commands of an installed environment: ``joint-train`` for ``python -m train``, and so on.

Python puts the working directory before its packages for ``python -m``, so that a user's own ``train.py`` there would
run instead; a command finds the installed programs from any folder.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

PROGRAMS = {
    "joint-preprocess": "preprocess",
    "joint-check-data": "preprocess.check_data",
    "joint-clean-cache": "preprocess.clean_cache",
    "joint-reference-data": "preprocess.reference_data",
    "joint-train": "train",
    "joint-evaluate": "train.evaluate",
    "joint-predict": "train.predict",
    "joint-report": "train.report",
    "joint-select-molecules": "train.select_molecules",
    "joint-spectra": "train.spectra",
    "joint-charge-model": "train.charge_model",
    "joint-export-charges": "train.export_charges",
    "joint-export-model": "train.export_model",
}


def main() -> None:
    """Run the program that the command's name stands for."""
    runpy.run_module(PROGRAMS[Path(sys.argv[0]).stem], run_name="__main__", alter_sys=True)


def environment_of_programs() -> dict[str, str]:
    """Return an environment in which ``python -m`` runs the programs of this installation, whatever lies around."""
    root = str(Path(__file__).parents[1])
    others = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([root, others] if others else [root])
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path}

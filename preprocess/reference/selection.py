"""Selection of the geometries to compute, by an ensemble, in a process of its own: nothing here knows the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from preprocess.reference.config import ReferenceConfig
from shared.errors import UserError
from shared.log import log
from shared.scripts import environment_of_programs

SELECTED = "selected.xyz"


def selected_geometries(config: ReferenceConfig) -> Path:
    """Let ``python -m train.select_molecules`` choose, and return the file of the chosen geometries in the output.

    Raises:
        UserError: the output holds another selection.
        SystemExit: with the code of that program, which has said why.
    """
    path = Path(config.output) / SELECTED
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{SELECTED}")
    words = ["--run", *config.from_run, "--candidates", *config.candidates, "--select", str(config.select)]
    command = [sys.executable, "-m", "train.select_molecules", *words, "--output", str(new)]
    try:
        code = subprocess.run(command, env=environment_of_programs(), check=False).returncode
        if code:
            raise SystemExit(code if code > 0 else 128 - code)
        if path.exists() and path.read_bytes() != new.read_bytes():
            raise UserError(
                f"{path}: holds other geometries than are chosen now; go on with those by --geometries {path} in place "
                "of --select, or choose another --output"
            )
        new.replace(path)
        log.info(f"chosen molecules in {path}")
    finally:
        new.unlink(missing_ok=True)
    return path

"""``python -m train.select_molecules``: the molecules of some files on which an ensemble disagrees most."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from shared.errors import UserError, run_program
from shared.files import atomic_path
from shared.log import log
from shared.settings import PathName, PositiveInt, parse_flags
from shared.text import escaped
from train.step.start import start_jax

if TYPE_CHECKING:
    import ase

_AT_ONCE = 2048
"""Molecules that are read at once."""


@dataclass(frozen=True)
class SelectConfig:
    """Choose the molecules that an ensemble knows least, to be computed and trained on next.

    Of those whose forces the ensemble's members disagree on most, the ones least alike are taken.
    """

    run: Annotated[tuple[PathName, ...], Field(min_length=1)]
    """Folder of a run of several --members, or folders of several runs."""

    candidates: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files of molecules: extended XYZ, databases, SDF ..., or NPZ (globs are expanded; FILE@0:10: those)."""

    select: PositiveInt
    """How many to choose."""

    output: PathName = "selected.xyz"
    """Extended XYZ file to write; `make reference-data GEOMETRIES=FILE` computes its molecules."""

    position_unit: str = "auto"
    """Unit of the positions: angstrom or bohr (auto: the file's, else angstrom)."""

    batch_size: PositiveInt = 64
    """Molecules in a batch."""


def main(argv: Sequence[str] | None = None) -> None:
    """Predict all candidates, and write the chosen ones, those first that were chosen first.

    Raises:
        UserError: a run of one model, a file that cannot be read, fewer candidates than are to be chosen that have the
            model's elements and no atoms at one place.
        OSError: the output cannot be written.
    """
    asked = parse_flags(SelectConfig, "python -m train.select_molecules", argv)
    if Path(asked.output).suffix not in (".xyz", ".extxyz"):
        raise UserError(f"--output {asked.output}: extended XYZ is written; name it .xyz")
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    import ase.io
    import numpy as np

    from shared.geometry import SHORTEST_DISTANCE, describe_close_atoms
    from shared.input.labelled import expand_files, open_source, read_labelled
    from shared.input.labels import FrameKeys
    from train.inference.predicted_frames import as_atoms
    from train.inference.predictor import Predictor
    from train.inference.selection import choose_diverse, disagreement, distance_features, most_disputed

    files = expand_files(asked.candidates, "--candidates")
    if Path(asked.output).resolve() in {Path(name).resolve() for name in files}:
        raise UserError(f"--output {asked.output}: one of the files of --candidates; choose another name")
    predictor = Predictor(asked.run if len(asked.run) > 1 else asked.run[0])
    if not predictor.is_ensemble:
        raise UserError(
            f"{asked.run[0]}: one model, which cannot disagree; train with --members 4, or name several runs"
        )
    frames: list[ase.Atoms] = []
    scores: list[float] = []
    known = set(predictor.elements)
    unknown, impossible, streaming = 0, 0, False
    for molecules in read_labelled(
        [open_source(name, FrameKeys()) for name in files], {"position": asked.position_unit}, _AT_ONCE
    ):
        # Few shapes for a file of any length.
        streaming |= len(molecules) == _AT_ONCE
        trained = [one for one in molecules if set(one.numbers.tolist()) <= known]
        usable = [one for one in trained if not describe_close_atoms(one.numbers, one.positions)]
        unknown, impossible = unknown + len(molecules) - len(trained), impossible + len(trained) - len(usable)
        batch = [as_atoms(molecule) for molecule in usable]
        predictions = predictor.predict(batch, asked.batch_size, streaming, [one.where for one in usable])
        scores.extend(map(disagreement, predictions))
        for atoms, molecule in zip(batch, usable, strict=True):
            stated = {key: value for key, value in molecule.info.items() if key.lower() in ("multiplicity", "spin")}
            atoms.info |= {"source": escaped(molecule.where)} | stated
            atoms.info |= {"name": escaped(molecule.name)} if molecule.name else {}
        frames += batch
    closer = f"atoms closer than {SHORTEST_DISTANCE} Å"
    for number, what in ((unknown, "elements that the model was not trained on"), (impossible, closer)):
        if number:
            log.info(f"note: {number:,} molecules have {what}; left out")
    if len(frames) < asked.select:
        raise UserError(f"--select {asked.select}: the files hold {len(frames):,} molecules that can be predicted")
    pool = most_disputed(np.array(scores), asked.select)
    disputed = [frames[row] for row in pool]
    features = distance_features([one.numbers for one in disputed], [one.positions for one in disputed])
    chosen = pool[choose_diverse(features, asked.select)]
    for row in chosen:
        frames[row].info["forces_std"] = scores[row]
    Path(asked.output).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(asked.output)) as temporary:
        ase.io.write(temporary, [frames[row] for row in chosen], format="extxyz")
    log.info(
        f"{asked.select:,} of {len(frames):,} molecules chosen; largest deviation of a force: median "
        f"{np.median(scores):.3g} eV/Å of all, {np.median(np.array(scores)[chosen]):.3g} of these"
    )


if __name__ == "__main__":
    sys.exit(run_program(main))

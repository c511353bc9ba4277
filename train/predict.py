"""``python -m train.predict``: energies, forces, moments and charges of any file of molecules, and errors."""

from __future__ import annotations

if __name__ == "__main__":
    from shared.signals import answer_signals

    answer_signals()  # before the imports that follow, which take a second

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.errors import UserError, run_program
from shared.files import atomic_path, write_atomically
from shared.log import log
from shared.settings import Finite, PathName, PositiveInt, parse_flags
from train.step.start import start_jax

if TYPE_CHECKING:
    from shared.input.labelled import Source
    from shared.input.unit_names import Kind
    from train.inference.deviation_sums import DeviationSums
    from train.inference.label_errors import LabelErrors
    from train.inference.predictor import Predictor

_FORMAT_VERSION = 1
_BATCHES_AT_ONCE = 32
"""Batches that are read at once; among them, molecules of one size are predicted together."""


@dataclass(frozen=True)
class PredictConfig:
    """Predict for every molecule of some files, in any format that ASE reads or NPZ, and compare with their labels."""

    run: PathName
    """Folder of the run, runs/NAME (or a copy of its best/)."""

    data: tuple[str, ...]
    """Files of molecules: extended XYZ, ASE databases, SDF, PDB ..., or NPZ (globs are expanded; FILE@0:10: those)."""

    output: str = ""
    """Extended XYZ file to write; errors go to a .errors.json beside it (default: RUN/predictions/FILE.xyz)."""

    charge: Finite | None = None
    """Total charge of each molecule, e (default: the file's, else 0)."""

    energy_key: str = ""
    """Name of the energies in files that ASE reads (default: recognised: REF_energy, energy ...)."""

    forces_key: str = ""
    """Name of the forces in them (default: recognised)."""

    dipole_key: str = ""
    """Name of the dipoles in them (default: recognised)."""

    quadrupole_key: str = ""
    """Name of the quadrupoles in them (default: recognised)."""

    charge_key: str = ""
    """Name of the total charges in them (default: recognised)."""

    position_unit: str = "auto"
    """Unit of the positions: angstrom or bohr (auto: the file's, else angstrom)."""

    energy_unit: str = "auto"
    """Unit of the energies: ev, hartree, kcal/mol or kj/mol (auto: the file's, else ev)."""

    force_unit: str = "auto"
    """Unit of the forces: ev/angstrom, hartree/bohr, kcal/mol/angstrom ... (auto: the file's, else ev/angstrom)."""

    dipole_unit: str = "auto"
    """Unit of the dipoles: debye, e-angstrom or au (auto: the file's, else e-angstrom, in NPZ files debye)."""

    quadrupole_unit: str = "auto"
    """Unit of the quadrupoles: e-angstrom2, debye-angstrom or au (auto: the file's, else e-angstrom2)."""

    batch_size: PositiveInt = 64
    """Molecules in a batch."""

    precision: Literal["float32", "float64"] = "float32"
    """Precision of all arithmetic."""

    strict: bool = False
    """Stop at what no training molecule had (total charge, bonds, fragments, size ...), instead of a note."""

    @property
    def unit_flags(self) -> dict[Kind, str]:
        """Return the unit flag of each kind of quantity."""
        return {
            "position": self.position_unit,
            "energy": self.energy_unit,
            "force": self.force_unit,
            "dipole": self.dipole_unit,
            "quadrupole": self.quadrupole_unit,
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, write the frames, and compare with their labels.

    Raises:
        UserError: no such run or file, a file that cannot be read, an element that the model was not trained on; with
            --strict, a molecule that has what no training molecule had.
        OSError: the output cannot be written.
    """
    asked = parse_flags(PredictConfig, "python -m train.predict", argv)
    # JAX takes seconds, and --help or a wrong flag should not.
    start_jax()
    from shared.input.labelled import expand_files, open_source
    from shared.input.labels import FrameKeys
    from train.inference.predictor import Predictor

    files = expand_files(asked.data, "--data")
    keys = FrameKeys(asked.energy_key, asked.forces_key, asked.dipole_key, asked.quadrupole_key, asked.charge_key)
    sources = [open_source(name, keys) for name in files]
    output = _output(asked, files)
    predictor = Predictor(asked.run, asked.precision, strict=asked.strict)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary:
        found = _predict(asked, sources, predictor, temporary)
    record = {
        "format_version": _FORMAT_VERSION,
        "run": asked.run,
        "files": {source.name: asdict(source.summary) for source in sources},
        "molecules": found.molecules,
        "molecules_with": found.errors.molecules(),
        "metrics": found.errors.metrics(),
    }
    if predictor.domain.is_known:
        record["molecules_outside"] = found.outside
    if predictor.is_ensemble:
        record["members"] = len(predictor.members)
        record["deviations"] = found.deviations.metrics()
    write_atomically(_errors_file(output), json.dumps(record, indent=1).encode())
    for source in sources:
        log.info(_describe(source, asked))
    log.info(found.errors.describe())
    if predictor.is_ensemble:
        log.info(found.deviations.describe(len(predictor.members)))
    if found.outside:
        log.info(
            f"note: {found.outside:,} molecules have what no training molecule had; outside= in their frames says it"
        )
    beside = "errors" if record["metrics"] else "what was understood"
    log.info(f"predictions of {found.molecules:,} molecules in {output}, {beside} in {_errors_file(output)}")


@dataclass
class _Found:
    """What was found of all molecules."""

    errors: LabelErrors
    deviations: DeviationSums
    molecules: int = 0
    outside: int = 0


def _predict(asked: PredictConfig, sources: Sequence[Source], predictor: Predictor, path: Path) -> _Found:
    import ase.io
    from tqdm import tqdm

    from shared.input.labelled import read_labelled
    from train.inference.deviation_sums import DeviationSums
    from train.inference.label_errors import LabelErrors
    from train.inference.predicted_frames import as_atoms, predicted_frame

    found = _Found(LabelErrors(), DeviationSums())
    at_once, streaming = _BATCHES_AT_ONCE * asked.batch_size, False
    with path.open("w", encoding="utf-8") as stream, tqdm(desc="predict", unit="mol", leave=False, disable=None) as bar:
        for molecules in read_labelled(sources, asked.unit_flags, at_once):
            # A compilation takes longer than the padding of the last batches does.
            streaming |= len(molecules) == at_once
            if asked.charge is not None:
                molecules = [replace(molecule, charge=asked.charge) for molecule in molecules]
            own = [as_atoms(molecule) for molecule in molecules]
            predictions = predictor.predict(own, asked.batch_size, streaming, [one.where for one in molecules])
            frames = []
            for pair in zip(molecules, predictions, strict=True):
                found.errors.add(*pair)
                found.deviations.add(pair[1])
                frames.append(predicted_frame(*pair))
            ase.io.write(stream, frames, format="extxyz")
            found.molecules += len(molecules)
            found.outside += sum(bool(prediction.outside) for prediction in predictions)
            bar.update(len(molecules))
    return found


def _output(asked: PredictConfig, files: Sequence[str]) -> Path:
    """Return the file to write, which must be none of those that are read."""
    output = Path(asked.output or Path(asked.run) / "predictions" / f"{Path(files[0]).stem}.xyz")
    if output.suffix not in (".xyz", ".extxyz"):
        raise UserError(f"--output {output}: extended XYZ is written; name it .xyz")
    for path in (output, _errors_file(output)):
        if path.resolve() in {Path(name).resolve() for name in files}:
            raise UserError(f"--output {output}: {path} is one of the files of --data; choose another name")
    return output


def _errors_file(output: Path) -> Path:
    return output.with_suffix(".errors.json")


def _describe(source: Source, asked: PredictConfig) -> str:
    from shared.input.labelled import unit_of

    summary = source.summary
    units = {"charge": "e"}
    for quantity, array in (("energy", "E"), ("forces", "F"), ("dipole", "Dxyz"), ("quadrupole", "quadrupole")):
        if quantity in summary.keys:
            units[quantity] = unit_of(source, array, asked.unit_flags)
    read = [f"{quantity} {key!r} in {units[quantity]}" for quantity, key in summary.keys.items()]
    lines = [f"{source.name}: {summary.frames:,} molecules; labels: {', '.join(read) or 'none'}"]
    for quantity, names in summary.also.items():
        lines.append(f"note: {source.name}: {quantity} is {summary.keys[quantity]!r}, not {', '.join(names)}")
    lines += [f"note: {source.name}: {note}" for note in summary.notes]
    for quantity, names in summary.alike.items():
        lines.append(f"note: {source.name}: not known as {quantity}: {', '.join(names)} (--{quantity}-key {names[0]})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_program(main))

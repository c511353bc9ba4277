"""``python -m preprocess.check_data``: look for mistakes in all molecules; preprocessing looks at a sample.

The checks themselves are in :mod:`preprocess.checks`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.checks import (
    CheckInput,
    Evidence,
    Finding,
    conclude,
    find_permutation,
    gather,
    merge,
    report,
)
from preprocess.config import PreprocessConfig
from preprocess.engine import open_engine
from preprocess.load import (
    Chunk,
    Grids,
    InputUnits,
    Molecules,
    PairFiles,
    PairReader,
    find_pairs,
    open_pair,
    split_into_chunks,
)
from preprocess.padding import pad_grids
from preprocess.validate import PairingError, check_grids, check_molecules
from shared import config_io
from shared.digests import write_atomically
from shared.errors import UserError, run_program

SAMPLED_MOLECULES = 800
"""Molecules that preprocessing looks at, of all files together."""

_FEWEST_OF_A_PAIR = 40
_WINDOW_BYTES = 16 << 20
"""Of a compressed pair the sample comes from its first rows: the others cannot be had without all before them."""

_ALIKE_ROWS = 1_000_000
"""Rows up to which the order of one file is looked for in the other."""


@dataclass(frozen=True)
class CheckTask:
    """Chunks of one pair, examined one after the other."""

    chunks: list[Chunk]
    units: InputUnits

    def __call__(self) -> list[Evidence]:
        """Evidence of every chunk.

        Raises:
            UserError: bad input, naming file, key, row and value.
        """
        with open_pair(self.chunks[0].pair, self.units) as reader:
            return [gather(_as_input(m, grids, self.units)) for _, m, grids in reader.read_ahead(self.chunks)]


def main(argv: Sequence[str] | None = None) -> None:
    """Check all molecules, print what was found and write it to check-data.txt in the cache folder.

    Raises:
        UserError: bad settings or input, or the data contradict themselves.
    """
    config = config_io.parse(PreprocessConfig, "preprocess", argv, prog="python -m preprocess.check_data")
    files = [PairFiles(pair) for pair in find_pairs(config)]
    units = InputUnits.of(config)
    tasks = []
    for file, chunks in zip(files, split_into_chunks(files, config.chunk_mib * 2**20), strict=True):
        groups = [chunks] if file.is_sequential else [[chunk] for chunk in chunks]
        tasks += [CheckTask(group, units) for group in groups]
    amounts = [sum(chunk.stop - chunk.start for chunk in task.chunks) for task in tasks]
    with open_engine(config.workers, config.scheduler, config.chunk_mib * 2**20) as engine:
        found = dict(engine.run(tasks, "check data", amounts))
    evidence = merge([part for index in range(len(tasks)) for part in found[index]])
    findings = conclude(evidence, units)
    text = report(findings, evidence)
    print(text)
    path = Path(config.cache_dir) / "check-data.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (text + "\n").encode())
    print(f"report in {path}")
    _stop_at_errors(findings, "this report")


def check_sample(files: list[PairFiles], config: PreprocessConfig) -> list[Finding]:
    """Examine a seeded sample of the molecules and print what was found.

    Raises:
        UserError: the data contradict themselves, and the settings do not say to go on.
    """
    units = InputUnits.of(config)
    evidence = merge([gather(sample) for file in files if (sample := _sample(file, files, units)) is not None])
    findings = conclude(evidence, units)
    if findings:
        print(report(findings, evidence))
    if config.checks == "stop":
        _stop_at_errors(findings, "the report above")
    return findings


def explain_pairing(error: PairingError, units: InputUnits) -> UserError:
    """The error of two files whose rows differ, and whether another order of the rows would pair them."""
    files = PairFiles(error.pair)
    if files.rows > _ALIKE_ROWS:
        return error
    with open_pair(error.pair, units) as reader:
        m = reader.molecules(0, files.rows)
    order = find_permutation(m.atomic_numbers, m.positions, m.esp_atomic_numbers, m.esp_positions)
    if order is None:
        return error
    moved = int(np.flatnonzero(order != np.arange(len(order)))[0])
    return UserError(
        f"{error}. Both files hold the same molecules in another order (row {moved} of {error.pair.efd.name} is row "
        f"{order[moved]} of {error.pair.esp.name})"
    )


def _stop_at_errors(findings: Sequence[Finding], where: str) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError(
            f"the data contradict themselves ({', '.join(finding.check for finding in errors)}): see {where}; mend "
            "the files or the flags"
        )


def _sample(file: PairFiles, files: list[PairFiles], units: InputUnits) -> CheckInput | None:
    """Some molecules of a pair, in the order of the file; its share of the sample follows its size."""
    total = sum(other.rows for other in files)
    count = min(file.rows, max(_FEWEST_OF_A_PAIR, SAMPLED_MOLECULES * file.rows // total))
    window = min(file.rows, file.rows_per_chunk(_WINDOW_BYTES)) if file.is_sequential else file.rows
    # Seeded by the content: the same files give the same sample wherever they lie.
    seed = int(file.digests["esp"][:16], 16)
    rows = np.sort(np.random.default_rng(seed).choice(window, min(count, window), replace=False))
    with open_pair(file.pair, units) as reader:
        if file.is_sequential:
            whole = _read_checked(reader, 0, window)
            return _as_input(*whole, units, rows)
        parts = [_as_input(*_read_checked(reader, int(row), int(row) + 1), units) for row in rows]
    return _joined(parts)


def _read_checked(reader: PairReader, start: int, stop: int) -> tuple[Molecules, Grids]:
    molecules, grids = reader.molecules(start, stop), reader.grids(start, stop)
    check_molecules(molecules)
    check_grids(molecules, grids)
    return molecules, grids


def _as_input(m: Molecules, grids: Grids, units: InputUnits, rows: np.ndarray | None = None) -> CheckInput:
    chosen = np.arange(len(m)) if rows is None else rows
    width = int(m.n_grid[chosen].max(initial=1))
    points, esp, _ = pad_grids(
        grids.points, grids.esp, chosen, m.n_grid, np.zeros((len(m), 3)), units.grid_in_angstrom, width
    )
    return CheckInput(
        split=m.pair.split,
        efd=m.pair.efd.name,
        esp=m.pair.esp.name,
        rows=m.start + chosen,
        atomic_numbers=m.atomic_numbers[chosen],
        n_atoms=m.n_atoms[chosen],
        positions=m.positions[chosen],
        energy=m.energy[chosen],
        forces=m.forces[chosen],
        dipole=m.dipole[chosen],
        total_charge=m.total_charge[chosen],
        n_grid=m.n_grid[chosen],
        grid=points,
        esp_values=esp,
    )


def _joined(parts: Sequence[CheckInput]) -> CheckInput:
    """Single molecules of one pair, whose arrays may have other widths, as one input."""
    arrays: dict[str, Any] = {
        name: _stacked([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
        if isinstance(value, np.ndarray)
    }
    return replace(parts[0], **arrays)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if arrays[0].ndim == 1:
        return np.concatenate(arrays)
    width = max(array.shape[1] for array in arrays)
    pads = [[(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2) for array in arrays]
    return np.concatenate([np.pad(array, pad) for array, pad in zip(arrays, pads, strict=True)])


if __name__ == "__main__":
    sys.exit(run_program(main))

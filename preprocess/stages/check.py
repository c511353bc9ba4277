"""Checks of all molecules, or of a sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.checks.evidence import CheckedFile, CheckInput, Evidence, Finding, merge
from preprocess.checks.measure import measure
from preprocess.checks.report import describe_findings
from preprocess.checks.rules import judge
from preprocess.config import PreprocessConfig
from preprocess.input.grid_padding import pad_grids
from preprocess.input.grid_points import find_real_points
from preprocess.input.pairs import Chunk, PairFiles, Reading
from preprocess.input.reader import Grids, Molecules, PairReader, open_pair
from preprocess.input.validate import check_grids, check_molecules
from preprocess.stages.first_pass import Prepared
from preprocess.stages.task_runner import TaskRunner
from shared.errors import UserError
from shared.log import log
from shared.schema import Split

SAMPLED_MOLECULES = 800
"""Molecules that preprocessing checks, of all files together."""

_FEWEST_OF_A_PAIR = 40
_WINDOW_BYTES = 256 << 20
"""Bytes at the start of a compressed pair from which its sample is drawn: later rows cannot be read without inflating
all before them, which takes a second for twice as many bytes."""


@dataclass(frozen=True)
class CheckTask:
    """A task that measures chunks of one pair, one after the other."""

    chunks: list[Chunk]
    reading: Reading

    def __call__(self) -> list[Evidence]:
        """Return the evidence of every chunk.

        Raises:
            UserError: bad input, naming file, key, row and value.
        """
        with open_pair(self.reading) as reader:
            return [measure(_as_input(reader, *read)) for read in reader.read_ahead(self.chunks)]


def check_all(prepared: Prepared, runner: TaskRunner[Any]) -> tuple[list[Finding], str]:
    """Check all molecules; return the findings and the report."""
    tasks = []
    for file, reading, chunks in zip(prepared.files, prepared.readings, prepared.chunks, strict=True):
        tasks += [CheckTask(group, reading) for group in file.chunk_groups(chunks)]
    amounts = [sum(map(len, task.chunks)) for task in tasks]
    evidence = merge([part for parts in runner.run(tasks, "check data", amounts) for part in parts])
    findings = judge(evidence)
    return findings, describe_findings(findings, evidence)


def check_sample(prepared: Prepared, config: PreprocessConfig) -> list[Finding]:
    """Check a seeded sample of the molecules and print the findings.

    Raises:
        UserError: the data contradict themselves and ``checks`` is ``stop``.
    """
    total = sum(file.rows for file in prepared.files)
    parts = [
        measure(_sample(file, reading, chunks, total))
        for file, reading, chunks in zip(prepared.files, prepared.readings, prepared.chunks, strict=True)
    ]
    evidence = merge(parts)
    findings = judge(evidence)
    if findings:
        log.info(describe_findings(findings, evidence))
    if config.checks == "stop":
        stop_at_errors(findings, "the report above")
    return findings


def stop_at_errors(findings: Sequence[Finding], where: str) -> None:
    """Stop if any finding is an error; ``where`` names the report.

    Raises:
        UserError: the data contradict themselves; lists the remedies.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        remedies = "; ".join(dict.fromkeys(f"{finding.check}: {finding.remedy}" for finding in errors))
        raise UserError(
            f"the data contradict themselves, see {where}; {remedies} (or go on all the same: --checks warn)"
        )


def _sample(file: PairFiles, reading: Reading, chunks: list[Chunk], total: int) -> CheckInput:
    """Draw molecules of a pair, in proportion to its size, in the order of the file."""
    count = min(file.rows, max(_FEWEST_OF_A_PAIR, SAMPLED_MOLECULES * file.rows // total))
    window = min(file.rows, file.rows_per_chunk(_WINDOW_BYTES)) if file.is_sequential else file.rows
    # Seeded by the content: the same files give the same sample in any folder.
    seed = int((file.digests["esp"] or file.digests["efd"])[:16], 16)
    rows = np.sort(np.random.default_rng(seed).choice(window, min(count, window), replace=False))
    of_chunk = np.searchsorted([chunk.stop for chunk in chunks], rows, side="right")
    parts = []
    with open_pair(reading) as reader:
        if not file.is_sequential:
            single = [chunks[i].part(int(row), int(row) + 1) for i, row in zip(of_chunk, rows, strict=True)]
            return _joined([_as_input(reader, chunk, *_checked(reader, chunk)) for chunk in single])
        for i in np.unique(of_chunk):
            chunk = chunks[i].part(chunks[i].start, min(chunks[i].stop, window))
            own = rows[of_chunk == i] - chunk.start
            parts.append(_as_input(reader, chunk, *_checked(reader, chunk), own))
        return _joined(parts)


def _checked(reader: PairReader, chunk: Chunk) -> tuple[Molecules, Grids]:
    molecules, grids = reader.frames(chunk)
    check_molecules(molecules)
    check_grids(molecules, grids)
    return molecules, grids


def _as_input(
    reader: PairReader, chunk: Chunk, m: Molecules, grids: Grids, chosen: np.ndarray | None = None
) -> CheckInput:
    """Return some rows of a chunk (default: all) that belong to a split."""
    units, split = reader.reading.units, chunk.facts.split
    rows = np.arange(len(m)) if chosen is None else chosen
    if split is not None:
        rows = rows[split[rows] >= 0]
    width = int(m.n_grid[rows].max(initial=1))
    points, values = np.zeros((len(rows), 1, 3), np.float32), np.zeros((len(rows), 1), np.float32)
    if grids.esp.shape[1]:
        points, values, _ = pad_grids(
            grids.points, grids.esp, rows, m.n_grid, -m.grid_shift, units.grid_in_angstrom, width, units.scale("esp")
        )
    return CheckInput(
        file=_checked_file(reader, chunk.pair.split or "train"),
        rows=m.start + rows,
        atomic_numbers=m.atomic_numbers[rows],
        n_atoms=m.n_atoms[rows],
        positions=m.positions[rows],
        energy=m.energy[rows],
        forces=m.forces[rows],
        dipole=m.dipole[rows],
        quadrupole=m.quadrupole[rows],
        total_charge=m.total_charge[rows],
        n_grid=m.n_grid[rows],
        grid=points,
        esp_values=values,
        grid_shift=m.grid_shift[rows],
        nowhere=_padding_counted(m, rows, points, values),
        split=None if split is None else split[rows],
    )


def _padding_counted(m: Molecules, rows: np.ndarray, points: np.ndarray, esp: np.ndarray) -> np.ndarray:
    """Return the share (n,) of the points that are padding although the file counts them."""
    share = np.zeros(len(rows))
    for i, row in enumerate(rows):
        if count := int(m.n_grid[row]):
            of_row = slice(i, i + 1)
            found = find_real_points(
                points[of_row, :count], esp[of_row, :count], m.positions[[row]], m.n_atoms[[row]], 1.0
            )
            share[i] = 1.0 - found.mask.mean()
    return share


def _checked_file(reader: PairReader, split: Split) -> CheckedFile:
    efd, esp, reading = reader.files.efd, reader.files.esp, reader.reading
    return CheckedFile(
        split=split,
        efd=Path(efd.file.shown).name,
        esp=Path((esp or efd).file.shown).name,
        units=reading.units,
        grid_frame=reading.grid_frame,
        quadrupole_origin=reading.quadrupole_origin,
        has_origin=esp is not None and "grid_origin" in esp,
        paired_by_row=esp is not None and "positions" not in esp,
        energy_dtype=str(efd.file.dtype(efd.key("energy"))),
        force_dtype=str(efd.file.dtype(efd.key("forces"))) if "forces" in efd else "float64",
        dipole_dtype=str(efd.file.dtype(efd.key("dipole"))) if "dipole" in efd else "float64",
        esp_dtype=str(esp.file.dtype(esp.key("esp"))) if esp is not None and "esp" in esp else "float64",
        divided=reading.pair.split is None,
    )


def _joined(parts: Sequence[CheckInput]) -> CheckInput:
    """Join parts of one pair, whose arrays may have different widths."""
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

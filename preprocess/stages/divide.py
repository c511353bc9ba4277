"""Division of the rows of files among the splits: by frame, by molecule, by formula, or as a file says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.config import PreprocessConfig
from preprocess.input.molecule_kinds import join_kinds
from preprocess.input.pairs import Chunk, PairFiles, Reading
from preprocess.input.reader import open_pair
from preprocess.input.split_settings import check_shares
from preprocess.input.splits import divide_by_kind, read_split_file
from preprocess.input.validate import atom_mask, check_molecules
from preprocess.stages.task_runner import TaskRunner
from shared.bond_graphs import Kinds, describe_kinds
from shared.errors import UserError
from shared.schema import SPLITS


@dataclass(frozen=True)
class KindsTask:
    """A task that describes the kinds of the molecules of some chunks of one pair."""

    chunks: list[Chunk]
    reading: Reading

    def __call__(self) -> list[Kinds]:
        """Return the kinds of every chunk.

        Raises:
            UserError: a file is damaged, or holds impossible molecules.
        """
        found = []
        with open_pair(self.reading) as reader:
            for chunk in self.chunks:
                m = reader.molecules(chunk)
                check_molecules(replace(m, n_grid=np.zeros_like(m.n_grid)))
                width = m.positions.shape[1]
                numbers = np.where(atom_mask(m.n_atoms, width), m.atomic_numbers[:, :width], 0)
                found.append(describe_kinds(numbers, m.n_atoms, m.positions, m.name))
        return found


def divide_rows(
    files: list[PairFiles],
    readings: list[Reading],
    chunks: list[list[Chunk]],
    config: PreprocessConfig,
    runner: TaskRunner[Any],
) -> tuple[list[np.ndarray], str]:
    """Assign every row of the files to a split.

    Returns:
        for each file an index (n,), int8, into SPLITS (-1: in none), and a description of the division.

    Raises:
        UserError: a split would be empty, or the split file does not fit.
    """
    rows = [file.rows for file in files]
    if config.split_file:
        assigned, how = read_split_file(Path(config.split_file), sum(rows)), f"as {config.split_file} says"
    else:
        assigned, how = _draw(files, readings, chunks, config, runner)
    for number, split in enumerate(SPLITS[:2]):
        if not (assigned == number).any():
            remedy = "" if config.split_by == "frame" or config.split_file else "give --split-by frame, "
            raise UserError(
                f"--data: the {split} split would be empty ({sum(rows)} frames, divided {how}); change "
                f"{'--split-file' if config.split_file else '--split'}, {remedy}or name files for each split"
            )
    return np.split(assigned, np.cumsum(rows)[:-1]), how


def _draw(
    files: list[PairFiles],
    readings: list[Reading],
    chunks: list[list[Chunk]],
    config: PreprocessConfig,
    runner: TaskRunner[Any],
) -> tuple[np.ndarray, str]:
    shares, seed = check_shares(config.split), config.split_seed
    total = sum(file.rows for file in files)
    shown = " : ".join(f"{share:g}" for share in shares)
    if config.split_by == "frame":
        return divide_by_kind(np.arange(total, dtype=np.uint64), shares, seed), f"by frame, {shown}, seed {seed}"
    tasks = []
    for file, reading, parts in zip(files, readings, chunks, strict=True):
        tasks += [KindsTask(group, reading) for group in file.chunk_groups(parts)]
    amounts = [sum(len(chunk) for chunk in task.chunks) for task in tasks]
    kinds_of = [part for parts in runner.run(tasks, "compare molecules", amounts) for part in parts]
    if config.split_by == "formula":
        kinds, what = np.concatenate([part.formula for part in kinds_of]), "formula"
    else:
        kinds, what = join_kinds(kinds_of), "molecule"
    count = len(np.unique(kinds))
    if config.split_by == "auto" and count == 1:
        frames = np.arange(total, dtype=np.uint64)
        return divide_by_kind(frames, shares, seed), f"by frame (all are one molecule), {shown}, seed {seed}"
    return divide_by_kind(kinds, shares, seed), f"by {what} ({count:,} of them), {shown}, seed {seed}"

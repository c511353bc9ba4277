"""Pairs of the users' files (energies and geometries; ESP), what each holds, and the chunks that they are read in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preprocess.config import PreprocessConfig
from shared.errors import UserError
from shared.input.file_names import expand, is_npz
from shared.input.layout import Layout, holds_esp, understand_efd, understand_esp
from shared.input.npz import NpzFile
from shared.input.unit_choice import InputUnits, choose_units
from shared.input.unit_names import KINDS, Kind
from shared.schema import SPLITS, Split

GridFrame = Literal["given", "centroid", "cube", "fit"]
QuadrupoleOrigin = Literal["mass", "zero"]


@dataclass(frozen=True)
class Pair:
    """The files of some molecules; ``esp`` may be absent, or the same file."""

    split: Split | None
    """The split of all rows; None if they are divided among the splits."""

    efd: Path
    esp: Path | None
    source: str = ""
    """The user's file that ``efd`` was converted from."""

    esp_source: str = ""
    """The user's file that ``esp`` was converted from."""

    @property
    def efd_shown(self) -> str:
        """Return the name of the file of energies for messages."""
        return self.source or str(self.efd)

    @property
    def esp_shown(self) -> str:
        """Return the name of the file of the ESP for messages."""
        return self.esp_source or (self.efd_shown if self.esp in (None, self.efd) else str(self.esp))

    @property
    def role(self) -> str:
        """Return the split, or ``data``, with which names in the cache begin."""
        return self.split or "data"


@dataclass(frozen=True)
class Reading:
    """How a pair is read: what a task needs to open it."""

    pair: Pair
    units: InputUnits
    grid_frame: GridFrame = "given"
    quadrupole_origin: QuadrupoleOrigin = "mass"
    unit_reasons: dict[Kind, str] = field(default_factory=dict, compare=False)
    """The origin of each unit, in words."""


@dataclass(frozen=True)
class RowFacts:
    """What is known of each row beyond its files, as arrays over some rows; None where nothing is."""

    split: np.ndarray | None = None
    """Index (n,), int8, into SPLITS; -1 in none."""

    esp_row: np.ndarray | None = None
    """Row (n,), int64, in the ESP file; -1 if it does not hold the molecule."""

    grid_shift: np.ndarray | None = None
    """Fitted shift (n, 3) in Å; NaN where none is certain, so that the ESP is left out."""

    def rows(self, start: int, stop: int) -> RowFacts:
        """Return the facts about some rows."""
        return RowFacts(*(None if values is None else values[start:stop] for values in vars(self).values()))


@dataclass(frozen=True)
class Chunk:
    """Rows of one pair that are processed together and become one shard for each split and bucket."""

    pair: Pair
    index: int
    """Number of the chunk within the split's (or all divided) files."""

    start: int
    """First row within the pair's files."""

    stop: int
    first_row: int
    """Row of ``start`` counted through all files of the split, or all divided ones."""

    facts: RowFacts = RowFacts()

    @property
    def name(self) -> str:
        """Return the beginning of the names of the chunk's files in the cache."""
        return f"{self.pair.role}-{self.index:05d}"

    def __len__(self) -> int:
        return self.stop - self.start

    def members(self) -> Iterable[tuple[Split, np.ndarray]]:
        """Yield each split that has rows here, and its rows, counted from ``start``."""
        if self.pair.split is not None:
            yield self.pair.split, np.arange(len(self))
            return
        assert self.facts.split is not None
        for number, split in enumerate(SPLITS):
            rows = np.flatnonzero(self.facts.split == number)
            if len(rows):
                yield split, rows

    def part(self, start: int, stop: int) -> Chunk:
        """Return some rows of this chunk as a chunk."""
        offset = start - self.start
        facts = self.facts.rows(offset, offset + stop - start)
        return replace(self, start=start, stop=stop, first_row=self.first_row + offset, facts=facts)


def find_pairs(config: PreprocessConfig) -> list[Pair]:
    """Return the pairs of files, in order: those of every split, or those whose rows are divided.

    Raises:
        UserError: no training or validation files, unequal numbers of files, a glob that matches nothing.
    """
    named = [flag for split in SPLITS for flag in (f"{split}_efd", f"{split}_esp") if getattr(config, flag)]
    if (config.data or config.cubes) and named:
        flags = ", ".join("--" + name.replace("_", "-") for name in named)
        divided = "--data" if config.data else "--cubes"
        raise UserError(f"{divided} names files to be divided among the splits, {flags} files of one: give either")
    pairs = _divided(config) if config.data or config.cubes else _of_splits(config)
    for pair in pairs:
        for path in (pair.efd, pair.esp):
            # Other formats have readers of their own, and may name frames: all.xyz@0:10.
            if path is not None and not path.is_file() and is_npz(path):
                what = "is a directory, not an NPZ file" if path.is_dir() else "no such file"
                raise UserError(f"{path}: {what} ({'--data' if pair.split is None else f'split {pair.split}'})")
    return pairs


def _divided(config: PreprocessConfig) -> list[Pair]:
    files, grids = expand(config.data, "--data"), expand(config.grids, "--grids")
    if grids and len(grids) != len(files):
        raise UserError(f"--data names {len(files)} files and --grids {len(grids)}; they are paired in order")
    return [Pair(None, Path(a), Path(b) if b else None) for a, b in zip(files, grids or [""] * len(files), strict=True)]


def _of_splits(config: PreprocessConfig) -> list[Pair]:
    pairs: list[Pair] = []
    for split in SPLITS:
        efd, esp = (expand(getattr(config, f"{split}_{kind}"), f"--{split}-{kind}") for kind in ("efd", "esp"))
        if esp and len(efd) != len(esp):
            raise UserError(
                f"--{split}-efd names {len(efd)} files and --{split}-esp {len(esp)}; they are paired in order"
            )
        if not efd and split != "test":
            raise UserError(
                f"no {split} files: give --{split}-efd and --{split}-esp, or --data for files to be divided (or set "
                f"them in {config.config})"
            )
        pairs.extend(
            Pair(split, Path(a), Path(b) if b else None) for a, b in zip(efd, esp or [""] * len(efd), strict=True)
        )
    return pairs


class PairFiles:
    """The files of a pair and their layouts, from the headers (and members that hold for all rows) alone."""

    def __init__(self, pair: Pair) -> None:
        """Open and check.

        Raises:
            UserError: a file or key is missing, damaged, or of the wrong shape or kind.
        """
        file = NpzFile(pair.efd, pair.efd_shown)
        if pair.esp is None and holds_esp(file):
            pair = replace(pair, esp=pair.efd)
        self.pair = pair
        self.efd: Layout = understand_efd(file)
        self.esp: Layout | None = None
        if pair.esp is not None:
            self.esp = understand_esp(file if pair.esp == pair.efd else NpzFile(pair.esp, pair.esp_shown))
            self._check_rows(self.esp)
        self.rows = self.efd.rows

    def _check_rows(self, esp: Layout) -> None:
        if esp.file is self.efd.file and esp.rows != self.efd.rows:
            raise UserError(
                f"{esp.file.shown}: {esp.key('esp')!r} has {esp.rows} rows and {self.efd.key('positions')!r} "
                f"{self.efd.rows}; in one file they are of the same molecules"
            )
        if esp.rows == self.efd.rows or "positions" in esp:
            return
        raise UserError(
            f"{esp.file.shown}: {esp.rows} molecules, but {self.efd.file.shown} has {self.efd.rows}, and without R and "
            "Z there the two files can only be paired by row; give both the same molecules in the same order"
        )

    @property
    def is_one_file(self) -> bool:
        """Return whether the ESP is in the file of energies."""
        return self.esp is not None and self.esp.file is self.efd.file

    @property
    def needs_matching(self) -> bool:
        """Return whether the files hold different numbers of molecules, to be paired by their geometries."""
        return self.esp is not None and self.esp.rows != self.efd.rows

    @property
    def counts_points(self) -> bool:
        """Return whether the ESP file counts its real grid points; else they are found in the grids."""
        return self.esp is None or ("n_grid" in self.esp and "esp_mask" not in self.esp)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Return the content digests of the files."""
        esp = "" if self.esp is None else self.esp.file.content_digest
        return {"efd": self.efd.file.content_digest, "esp": esp}

    @property
    def files(self) -> dict[str, NpzFile]:
        """Return the files by role, each once."""
        return {"efd": self.efd.file} | ({} if self.esp is None or self.is_one_file else {"esp": self.esp.file})

    @property
    def converted(self) -> list[Path]:
        """Return the files in the cache that were converted from the user's."""
        paths = ((self.pair.efd, self.pair.source), (self.pair.esp, self.pair.esp_source))
        return [path for path, source in paths if path is not None and source]

    @property
    def grid_width(self) -> int:
        """Return the padded number of grid points."""
        return self.esp.grid_width if self.esp else 0

    @property
    def is_sequential(self) -> bool:
        """Return whether one reader should read all rows in order: members are compressed, or loaded whole."""
        layouts = [layout for layout in (self.efd, self.esp) if layout is not None]
        return any(layout.file.is_sequential(layout.row_keys) for layout in layouts)

    def chunk_groups(self, chunks: list[Chunk], size: int = 1) -> list[list[Chunk]]:
        """Return the chunks of each task: so many, or all where one reader should read them in order."""
        size = max(1, len(chunks)) if self.is_sequential else size
        return [chunks[start : start + size] for start in range(0, len(chunks), size)]

    def rows_per_chunk(self, chunk_bytes: float) -> int:
        """Return the number of rows whose input takes about so many bytes; at least one."""
        layouts = [layout for layout in (self.efd, self.esp) if layout is not None]
        return max(1, int(chunk_bytes // sum(layout.file.row_bytes(layout.row_keys) for layout in layouts)))

    def reading(self, config: PreprocessConfig) -> Reading:
        """Return how the pair is read with these settings.

        Raises:
            UserError: a unit is not known, or the file lacks what another origin of its grid or quadrupoles takes.
        """
        if self.esp is not None and config.grid_frame == "cube" and "grid_origin" not in self.esp:
            raise UserError(
                f"{self.esp.file.shown}: --grid-frame cube needs the cubes' origins as 'grid_origin' (n, 3), in Bohr; "
                "the file has none: try --grid-frame fit"
            )
        if config.quadrupole_origin == "zero" and "quadrupole" in self.efd and "dipole" not in self.efd:
            raise UserError(
                f"{self.efd.file.shown}: --quadrupole-origin zero moves quadrupoles to the centre of mass, which takes "
                "dipoles, and the file has none"
            )
        flags = {kind: getattr(config, f"{kind}_unit") for kind in KINDS}
        chosen = choose_units(self.efd, self.esp, flags)
        return Reading(self.pair, chosen.units, config.grid_frame, config.quadrupole_origin, chosen.reasons)


def describe_input(file: PairFiles, reading: Reading) -> dict[str, Any]:
    """Return all that determines the content that is read from a pair, for digests."""
    units = asdict(reading.units)
    described = {"split": file.pair.role, **file.digests, "units": units, "grid_frame": reading.grid_frame}
    # Frames without quadrupoles keep the digests that they had before there were any.
    if "quadrupole" in file.efd:
        return {**described, "quadrupole_origin": reading.quadrupole_origin}
    del units["quadrupole_unit"]
    return described


def split_into_chunks(files: list[PairFiles], chunk_bytes: float) -> list[list[Chunk]]:
    """Return the chunks of every pair, which depend on the files' shapes and dtypes alone."""
    chunks: list[list[Chunk]] = []
    next_index: dict[str, int] = {}
    next_row: dict[str, int] = {}
    for file in files:
        role, step = file.pair.role, file.rows_per_chunk(chunk_bytes)
        index, row = next_index.get(role, 0), next_row.get(role, 0)
        starts = range(0, file.rows, step)
        chunks.append(
            [
                Chunk(file.pair, index + i, start, min(start + step, file.rows), row + start)
                for i, start in enumerate(starts)
            ]
        )
        next_index[role], next_row[role] = index + len(starts), row + file.rows
    return chunks


def with_facts(chunks: list[Chunk], facts: RowFacts) -> list[Chunk]:
    """Return the chunks of a pair with what is known of their rows."""
    return [replace(chunk, facts=facts.rows(chunk.start, chunk.stop)) for chunk in chunks]

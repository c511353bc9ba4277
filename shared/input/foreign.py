"""Conversion of foreign files (extended XYZ, ASE's databases, cubes) to one NPZ file, made once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shared.digests import file_digest, settings_digest
from shared.errors import UserError
from shared.input.ase_files import split_index
from shared.input.ase_frames import ASE_UNITS
from shared.input.canonical import CanonicalFile
from shared.input.cubes import find_cubes, read_grid
from shared.input.foreign_config import ForeignConfig, GridShell
from shared.input.labelled import Source, open_source, unit_of
from shared.input.labels import RECOGNISED, FrameKeys, LabelledMolecule, Summary
from shared.input.layout import CONVERTED_KEY, PAIRING_TOLERANCE
from shared.input.pairing import GeometryIndex
from shared.input.unit_names import SCALES

_VERSION = 2
"""Version of the conversion: raise it when the same files are converted differently."""


@dataclass(frozen=True)
class Conversion:
    """The NPZ file of a conversion, and what was understood of its sources."""

    path: Path
    sources: dict[str, Summary]  # by the file's name as given
    frames: int
    frames_without_esp: int
    cubes: int
    notes: list[str] = field(default_factory=list)  # of the cubes, one line each


def convert(
    files: Sequence[str],
    cubes: Sequence[str],
    config: ForeignConfig,
    folder: Path,
    digest_of: Callable[[Path], str] = file_digest,
    quiet: bool = False,
) -> Conversion:
    """Convert files of molecules, and cubes of their ESP, to ``folder``/DIGEST.npz, unless it exists.

    Each cube gives its ESP to the frame with its geometry, and frames without a cube have none. Without any files the
    cubes' own molecules are the frames. Values keep the units of the files, which the NPZ's record states.

    Args:
        files: that ASE reads (``FILE@0:10``: those frames), or NPZ files, in order.
        cubes: files, globs or folders; as those of ``config``.
        config: names of quantities and choice of points.
        folder: of such files; made if it is not there.
        digest_of: digest of a file's content (hex), perhaps remembered.
        quiet: no progress bar.

    Raises:
        UserError: a file cannot be read, quantities go by different names or units, or a cube is of no frame.
    """
    paths = find_cubes(cubes) if cubes else []
    cube_digests = [digest_of(path) for path in paths]
    shell = config.shell
    inputs: list[Any] = []
    for name in files:
        path, index = split_index(name)
        inputs.append([digest_of(path), str(index), path.suffix])
    settings = {"version": _VERSION, "files": inputs, "keys": asdict(config.keys), "cubes": cube_digests}
    digest = settings_digest(settings | ({"shell": asdict(shell)} if paths else {}))
    target = folder / f"{digest}.npz"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with CanonicalFile(target) as file:
            sources = _add_frames(file, files, config.keys, quiet)
            notes = _add_cubes(file, list(zip(paths, cube_digests, strict=True)), shell, bool(files), quiet)
            record = {"sources": [asdict(source.summary) for source in sources], "notes": notes}
            file.finish(_one_record(sources), record)
    return _describe(target, files, len(paths))


def _add_frames(file: CanonicalFile, files: Sequence[str], keys: FrameKeys, quiet: bool) -> list[Source]:
    sources = [open_source(name, keys) for name in files]
    for name, source in zip(files, sources, strict=True):
        for molecule in tqdm(source, desc=f"read {Path(name).name}", unit="mol", leave=False, disable=quiet or None):
            # Cubes are compared with the frames in Å.
            file.add(replace(molecule, positions=molecule.positions * SCALES["position"][unit_of(source, "R", {})]))
        source.summary.units["R"] = ASE_UNITS["R"]
        for quantity, alike in source.summary.alike.items():
            raise UserError(
                f"{name}: no frame has {quantity} under a known name ({', '.join(RECOGNISED[quantity])}), but the file "
                f"holds {', '.join(alike)}; give --{quantity}-key {alike[0]}"
            )
    return sources


def _add_cubes(
    file: CanonicalFile, cubes: list[tuple[Path, str]], shell: GridShell, paired: bool, quiet: bool
) -> list[str]:
    index = GeometryIndex(file.numbers, file.positions) if paired and cubes else None
    moved, cut_off = [], []
    for place, (path, digest) in enumerate(tqdm(cubes, desc="read cubes", leave=False, disable=quiet or None)):
        cube = read_grid(path, shell, digest)
        cut_off.append(cube.cut_off)
        row, shift = place, np.zeros(3)
        if index is None:
            file.add(LabelledMolecule(str(path), cube.numbers, cube.positions))
        else:
            row, shift = index.find(cube, place)
        moved.append(float(np.abs(shift).max()))
        file.add_grid(row, cube.points + shift, cube.esp)
    notes = []
    if any(shift > PAIRING_TOLERANCE for shift in moved):
        count = sum(shift > PAIRING_TOLERANCE for shift in moved)
        notes.append(
            f"{count} of {len(cubes)} cubes are up to {max(moved):.3g} Å from their frames, and were moved there"
        )
    if any(missing > 0.0 for missing in cut_off):
        count = sum(missing > 0.0 for missing in cut_off)
        notes.append(
            f"{count} of {len(cubes)} cubes end inside of --grid-shell, by up to {max(cut_off):.2g} Å: on those sides "
            "points are missing"
        )
    return notes


def _one_record(sources: Sequence[Source]) -> dict[str, str]:
    """Return the units of all sources, which must agree, and those of the cubes."""
    units = dict(ASE_UNITS)
    for array in ("E", "F", "Dxyz", "quadrupole"):
        own = [source for source in sources if array in source.summary.units]
        names = [source.summary.units[array] for source in own]
        for source, name in zip(own, names, strict=True):
            # Units are parsed only where they differ: a flag may still override an unknown one.
            if name != names[0] and unit_of(source, array, {}) != unit_of(own[0], array, {}):
                raise UserError(f"{source.name}: {array} is in {name}, but that of {own[0].name} in {names[0]}")
        units |= {array: names[0]} if names else {}
    return units


def _describe(target: Path, files: Sequence[str], cubes: int) -> Conversion:
    with np.load(target, allow_pickle=False) as file:
        stored = json.loads(str(file[CONVERTED_KEY]))
        frames = len(file["N"])
        without = int((file["n_grid"] == 0).sum()) if "n_grid" in file else frames
    summaries = [Summary(**summary) for summary in stored["sources"]]
    return Conversion(target, dict(zip(files, summaries, strict=True)), frames, without, cubes, stored["notes"])

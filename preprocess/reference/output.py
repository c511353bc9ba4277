"""The output folder: NPZ pairs in the input format, and reference-data.json, which records how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from preprocess.reference.molecules import Molecule
from preprocess.reference.tasks import FOLDER
from shared.errors import UserError
from shared.files import atomic_path
from shared.schema import SPLITS, Split
from shared.sealed import read_sealed, write_sealed

RECORD = "reference-data.json"

UNITS = {
    "R": "angstrom",
    "E": "eV (total; 1 Hartree = 27.211386245988 eV, CODATA 2018)",
    "F": "eV/angstrom",
    "Dxyz": "debye; about the origin, of ions about the centre of mass",
    "quadrupole": "e*angstrom^2 (1/2 sum q (3 x x^T - |x|^2), traceless); about the centre of mass",
    "Q": "e",
    "esp": "hartree/e",
    "vdw_surface": "angstrom",
}


class Row(NamedTuple):
    """A geometry with its results (the arrays of a ReferenceTask)."""

    molecule: Molecule
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Output:
    """The folder of one calculation."""

    folder: Path

    @property
    def parts(self) -> Path:
        """Return the folder of the results of single geometries."""
        return self.folder / FOLDER

    def path(self, kind: Literal["efd", "esp"], split: Split) -> Path:
        """Return the path of one file of a pair."""
        return self.folder / f"{kind}-{split}.npz"

    def record(self) -> dict[str, Any] | None:
        """Return the content of reference-data.json; None if it is absent.

        Raises:
            UserError: it is damaged, or files of these names were made otherwise.
        """
        path = self.folder / RECORD
        try:
            record = read_sealed(path, f"remove it with {self.folder}, or choose another --output")
            if not isinstance(record["settings"], dict) or not isinstance(record["complete"], bool):
                raise TypeError
        except FileNotFoundError:
            present = [p.name for s in SPLITS for p in (self.path("efd", s), self.path("esp", s)) if p.exists()]
            if present:
                raise UserError(
                    f"{self.folder}: holds {present[0]}, but no {RECORD} that says how it was made; "
                    "choose another --output"
                ) from None
            return None
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: is damaged; remove it with {self.folder}, or choose another --output") from error
        return record

    def begin(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Make the folder this calculation's own.

        Returns:
            The record, where the calculation is complete and its files are there.

        Raises:
            UserError: the folder holds another calculation.
        """
        record = self.record()
        settings = json.loads(json.dumps(settings))
        if record is not None:
            if record["settings"] != settings:
                self._refuse(record["settings"], settings)
            if record["complete"] and all((self.folder / name).is_file() for name in record["files"]):
                return record
        self.write_record({"complete": False, "settings": settings})
        self.parts.mkdir(exist_ok=True)
        return None

    def _refuse(self, there: dict[str, Any], wanted: dict[str, Any]) -> NoReturn:
        """Raise a UserError that names the first setting that differs."""
        different = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
        # Geometries made from SMILES may differ because of the others, which then come first.
        key = next((key for key in different if key not in ("molecules", "names")), None)
        what = "other molecules or geometries"
        if key:
            what = f"{key} = {there.get(key, 'none')}, not {wanted.get(key, 'none')}"
        raise UserError(
            f"{self.folder}: holds another calculation ({what}); choose another --output, or remove the folder"
        )

    def write_split(self, split: Split, rows: Sequence[Row]) -> list[str]:
        """Write the pair of a split, and return the files' names."""
        for kind, arrays in (("efd", _efd(rows)), ("esp", _esp(rows))):
            with atomic_path(self.path(kind, split)) as temporary, temporary.open("wb") as stream:  # type: ignore[arg-type]
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes arrays for the flag allow_pickle
        return [f"efd-{split}.npz", f"esp-{split}.npz"]

    def write_record(self, record: dict[str, Any]) -> None:
        """Write reference-data.json."""
        write_sealed(self.folder / RECORD, record)

    def remove_parts(self) -> None:
        """Remove the results of single geometries."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def discard(self) -> None:
        """Remove the files of a calculation without results."""
        self.remove_parts()
        (self.folder / RECORD).unlink(missing_ok=True)


def draw_split(count: int, fractions: Sequence[float], seed: int) -> dict[Split, np.ndarray]:
    """Draw the indices of each split, ascending: a seeded permutation of ``count``, cut at the fractions."""
    permutation = np.random.default_rng(seed).permutation(count)
    bounds = np.rint(np.cumsum(fractions) * count).astype(int)[:-1]
    return {split: np.sort(part) for split, part in zip(SPLITS, np.split(permutation, bounds), strict=True)}


def _geometry(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {
        "R": padded([row.molecule.positions for row in rows]),
        "Z": padded([row.molecule.atomic_numbers.astype(np.int32) for row in rows]),
        "N": np.array([len(row.molecule) for row in rows], np.int32),
    }


def _efd(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {
        **_geometry(rows),
        "E": np.array([row.arrays["energy"] for row in rows]),
        "F": padded([row.arrays["forces"] for row in rows]),
        "Dxyz": np.array([row.arrays["dipole"] for row in rows]),
        "quadrupole": np.array([row.arrays["quadrupole"] for row in rows]),
        "Q": np.array([row.molecule.charge for row in rows], np.float64),
        "name": np.array([row.molecule.name for row in rows]),
    }


def _esp(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {
        **_geometry(rows),
        "esp": padded([row.arrays["esp"].astype(np.float32) for row in rows]),
        "vdw_surface": padded([row.arrays["grid"] for row in rows]),
        "n_grid": np.array([len(row.arrays["esp"]) for row in rows], np.int32),
        "name": np.array([row.molecule.name for row in rows]),
    }


def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of different lengths to (n, widest, ...), padded with zeros."""
    stacked = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked

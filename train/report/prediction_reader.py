"""Reader of predictions-SPLIT.h5 of any size: by molecule, and in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from shared.digests import file_digest
from shared.elements import formula
from shared.errors import UserError
from shared.files import require_readable
from shared.text import shown
from train.evaluation.errors_by_molecule import molecule_types
from train.evaluation.prediction_file import DATASETS

_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class MoleculeNames:
    """Names, formulas and rows of the molecules of a file."""

    names: list[str]  # perhaps empty
    formulas: list[str]
    types: list[str]
    rows: np.ndarray  # (n,) in the split's input files

    def label(self, i: int) -> str:
        """Return name and row of a molecule."""
        return f"{self.names[i] or self.formulas[i]}, row {self.rows[i]}"


def is_missing(rows: np.ndarray) -> np.ndarray:
    """Return whether rows (n, ...) of a dataset are NaN, (n,): references that the data do not have."""
    return np.isnan(rows).reshape(len(rows), -1).any(axis=1)


class Predictions:
    """An open file of predictions; a context manager."""

    def __init__(self, path: Path, digest: str | None = None) -> None:
        """Open the file.

        Args:
            path: of the file.
            digest: of its bytes, if it is known.

        Raises:
            UserError: it is damaged, or of another version.
        """
        self._path = path
        if digest is not None and file_digest(path) != digest:
            raise UserError(f"{path}: not as the evaluation wrote it; delete it, and the report evaluates again")
        try:
            self._file = h5py.File(path, locking=False)
        except OSError as error:
            require_readable(path)
            raise UserError(f"{path}: cannot be read ({error}); delete it, and the report evaluates again") from error
        missing = sorted(set(DATASETS) - set(self._file))
        if missing:
            self._file.close()
            raise UserError(f"{path}: lacks {', '.join(missing)}; delete it, and the report evaluates again")

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["row"])

    @cached_property
    def molecules(self) -> MoleculeNames:
        """Names of all molecules."""
        names = [shown(name.decode("utf-8", "replace")) for name in self._file["name"][:]]
        numbers = self._file["atomic_numbers"][:]
        formulas = [formula(own) for own in np.split(numbers, self._ends("atom")[:-1])]
        return MoleculeNames(names, formulas, molecule_types(names, formulas), self._file["row"][:])

    @cached_property
    def esp_rmse(self) -> np.ndarray:
        """Root mean square error (n,) of the ESP over each molecule's points, Hartree/e; NaN where none counts."""
        squares = np.zeros(len(self))
        for start, (predicted, reference) in self.blocks("esp", "esp_reference"):
            owner = self.owner("esp", np.arange(start, start + len(predicted)))
            squares += np.bincount(owner, np.square(predicted.astype(np.float64) - reference), minlength=len(self))
        with np.errstate(invalid="ignore"):
            return np.sqrt(squares / self._file["n_points"][:])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        return tuple(self._file[name].shape)

    def count_known(self, name: str) -> int:
        """Return how many rows of a dataset are not missing in the data."""
        if DATASETS[name][0] == "grid point":
            return self.shape(name)[0]  # without ESP there are no rows, and reading all of them takes long
        return sum(int((~is_missing(rows)).sum()) for _, (rows,) in self.blocks(name))

    def whole(self, name: str) -> np.ndarray:
        """Return all of a dataset, for those with one row for each molecule or atom."""
        return np.asarray(self._file[name][:])

    def blocks(self, *names: str) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield rows of some datasets of equal length, block by block, each with the index of its first row."""
        for start in range(0, len(self._file[names[0]]), _BLOCK_ROWS):
            yield start, [self._file[name][start : start + _BLOCK_ROWS] for name in names]

    def of_molecule(self, name: str, i: int) -> np.ndarray:
        """Return one molecule's rows of a dataset."""
        ends = self._ends(DATASETS[name][0])
        return np.asarray(self._file[name][ends[i - 1] if i else 0 : ends[i]])

    def owner(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the molecule (counted in this file) that each row of a dataset belongs to."""
        return np.searchsorted(self._ends(DATASETS[name][0]), rows, side="right")

    def _ends(self, counted: str) -> np.ndarray:
        """Return the ends of the molecules' rows in datasets whose first axis counts ``counted``."""
        return self._all_ends[counted]

    @cached_property
    def _all_ends(self) -> dict[str, np.ndarray]:
        counts = {"atom": self._file["n_atoms"][:], "grid point": self._file["n_points"][:]}
        ends = {counted: np.cumsum(values, dtype=np.int64) for counted, values in counts.items()}
        return {"molecule": np.arange(1, len(self) + 1), **ends}

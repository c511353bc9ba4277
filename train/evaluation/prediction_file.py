"""Predictions of a split beside their references in one HDF5 file, for the user's own analysis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared.elements import element_table
from shared.files import atomic_path
from train.data.batch import Batch
from train.model.prediction import Deviations, Prediction

FORMAT_VERSION = 1

_PER_MOLECULE, _PER_ATOM, _PER_POINT = "molecule", "atom", "grid point"
DATASETS: dict[str, tuple[str, str, str]] = {
    "row": (_PER_MOLECULE, "-", "row in the split's input files, counted through them in order"),
    "name": (_PER_MOLECULE, "-", "name in the input, or empty"),
    "novelty": (
        *(_PER_MOLECULE, "-"),
        "0: trained on; 1: with other bonds; 2: of another formula or total charge; -1: not known",
    ),
    "n_atoms": (_PER_MOLECULE, "-", "number of its atoms; they follow each other in the arrays per atom"),
    "n_points": (_PER_MOLECULE, "-", "number of its grid points that count; they follow each other likewise"),
    "energy": (_PER_MOLECULE, "eV", "predicted total energy"),
    "energy_reference": (_PER_MOLECULE, "eV", "its reference; NaN: not in the data"),
    "dipole": (_PER_MOLECULE, "e·Å", "of PhysNet's charges, about the centre of mass"),
    "dipole_dcm": (_PER_MOLECULE, "e·Å", "of the distributed charges, about the centre of mass"),
    "dipole_reference": (_PER_MOLECULE, "e·Å", "reference, about the centre of mass; NaN: not in the data"),
    "quadrupole": (_PER_MOLECULE, "e·Å²", "of PhysNet's charges, traceless, about the centre of mass"),
    "quadrupole_dcm": (_PER_MOLECULE, "e·Å²", "of the distributed charges, traceless, about the centre of mass"),
    "quadrupole_reference": (_PER_MOLECULE, "e·Å²", "reference, about the centre of mass; NaN: not in the data"),
    "atomic_numbers": (_PER_ATOM, "-", "atomic numbers"),
    "positions": (_PER_ATOM, "Å", "relative to the centre of mass"),
    "forces": (_PER_ATOM, "eV/Å", "predicted forces"),
    "forces_reference": (_PER_ATOM, "eV/Å", "their reference; NaN: not in the data"),
    "charges": (_PER_ATOM, "e", "PhysNet's charges"),
    "dcm_charges": (
        *(_PER_ATOM, "e"),
        "distributed charges, n_dcm for each atom; of an ensemble those of all members, divided by their number",
    ),
    "dcm_sites": (_PER_ATOM, "Å", "their positions relative to the centre of mass"),
    "grid": (_PER_POINT, "Å", "grid points relative to the centre of mass"),
    "esp": (_PER_POINT, "Hartree/e", "potential of the distributed charges"),
    "esp_reference": (_PER_POINT, "Hartree/e", "its reference"),
}
"""Name of each dataset: what its first axis counts, its unit, its meaning."""

DEVIATION_DATASETS: dict[str, tuple[str, str, str]] = {
    f"{name}_std": (*DATASETS[name][:2], f"standard deviation of {name} over the N members, N - 1 in the denominator")
    for name in Deviations._fields
}
"""Likewise, of ensembles alone."""


@contextlib.contextmanager
def write_predictions(path: Path, references_ev: dict[int, float], **attributes: str) -> Iterator[PredictionFile]:
    """Open a file that is written batch by batch, under a temporary name until it is complete.

    Args:
        path: of the finished file.
        references_ev: energy of each element, added to the energies.
        attributes: of the file, such as its run and split.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    with atomic_path(path) as temporary:
        file = h5py.File(temporary, "w", locking=False)
        try:
            file.attrs.update({**attributes, "format_version": FORMAT_VERSION})
            yield PredictionFile(file, references_ev)
        except BaseException:
            with contextlib.suppress(OSError, RuntimeError):  # what HDF5 raises for a full disk
                file.close()
            raise
        file.close()


class PredictionFile:
    """A file of predictions that is being written."""

    def __init__(self, file: h5py.File, references_ev: dict[int, float]) -> None:
        self._file = file
        self._references = element_table(references_ev)

    def add(
        self,
        batch: Batch,
        prediction: Prediction,
        rows: np.ndarray,
        names: list[str],
        novelty: int,
        deviations: Deviations | None = None,
    ) -> None:
        """Append a batch of the host, whose real molecules come first.

        Args:
            batch: references.
            prediction: of the batch.
            rows: (n,) rows of its molecules in the input.
            names: n names, perhaps empty.
            novelty: what all of them are to the training, see DATASETS.
            deviations: of an ensemble, over its members.
        """
        n = len(rows)
        numbers = np.asarray(batch.atomic_numbers)[:n]
        atoms, points = numbers > 0, np.asarray(batch.esp_mask)[:n]
        constant = self._references[numbers].sum(axis=1)
        values: dict[str, Any] = {
            "row": rows,
            "name": np.array(names, dtype=h5py.string_dtype()),
            "novelty": np.full(n, novelty, np.int8),
            "n_atoms": atoms.sum(axis=1).astype(np.int32),
            "n_points": points.sum(axis=1).astype(np.int32),
            "energy": prediction.energy[:n] + constant,
            "energy_reference": batch.energy[:n] + constant,
            "dipole": prediction.dipole[:n],
            "dipole_dcm": prediction.dipole_dcm[:n],
            "dipole_reference": batch.dipole[:n],
            "quadrupole": prediction.quadrupole[:n],
            "quadrupole_dcm": prediction.quadrupole_dcm[:n],
            "quadrupole_reference": np.full((n, 3, 3), np.nan) if batch.quadrupole is None else batch.quadrupole[:n],
            "atomic_numbers": numbers[atoms],
            "positions": batch.positions[:n][atoms],
            "forces": prediction.forces[:n][atoms],
            "forces_reference": batch.forces[:n][atoms],
            "charges": prediction.charges[:n][atoms],
            "dcm_charges": prediction.dcm_charges[:n][atoms],
            "dcm_sites": prediction.dcm_sites[:n][atoms],
            "grid": batch.grid[:n][points],
            "esp": prediction.esp[:n][points],
            "esp_reference": batch.esp[:n][points],
        }
        if deviations is not None:
            masks = {_PER_MOLECULE: np.ones(n, bool), _PER_ATOM: atoms, _PER_POINT: points}
            for name, array in deviations._asdict().items():
                values[f"{name}_std"] = array[:n][masks[DATASETS[name][0]]]
        for name, array in values.items():
            self._append(name, np.asarray(array))

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._file:
            counted, unit, meaning = (DATASETS | DEVIATION_DATASETS)[name]
            # Rows of some 64 KiB: small files stay small, large ones are read in long pieces.
            width = max(1, int(np.prod(array.shape[1:], dtype=int)) * array.dtype.itemsize)
            dataset = self._file.create_dataset(
                name,
                shape=(0, *array.shape[1:]),
                maxshape=(None, *array.shape[1:]),
                dtype=array.dtype,
                chunks=(max(1, 65536 // width), *array.shape[1:]),
            )
            dataset.attrs.update({"unit": unit, "meaning": meaning, "first_axis": counted})
        dataset = self._file[name]
        start = len(dataset)
        dataset.resize(start + len(array), axis=0)
        dataset[start:] = array

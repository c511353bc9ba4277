"""Baselines for the errors of a split: the spread of the references, and the error of fitted charges.

An ESP error alone does not separate the model's part from that of the representation, a few point charges. So charges
are fitted to single molecules of a sample, each by itself: a reference that a model can come near to, and on single
points beat, because its displacements are not bounded and the fits are local optima.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from shared.errors import UserError
from shared.sealed import read_sealed, write_sealed
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets, map_arrays
from train.data.loader import Loader
from train.data.quantities import (
    DIPOLE,
    DIPOLE_DCM,
    ENERGY,
    ESP,
    ESP_PHYSNET,
    FORCES,
    QUADRUPOLE,
    QUADRUPOLE_DCM,
)
from train.evaluation.charge_fit import fit_charges, fit_work
from train.evaluation.grid_regions import PointSquares, locate_points
from train.run_folder import RunFolder

_SAMPLE = 32
_LARGEST_WORK = 2e11
"""Multiplications of all fits of a split: about a minute on two cores, whatever the molecules' size."""


@dataclass(frozen=True)
class Baselines:
    """Errors to compare those of a model on one split with.

    Where no molecule has a target, its spread is left out; without ESP, the errors of fitted charges are None.
    """

    spread: dict[str, float]  # by metric: its value for a model that always predicts the mean
    atom_centred_esp_rmse_kcal_per_mol_e: float | None
    distributed_esp_rmse_kcal_per_mol_e: float | None
    n_dcm: int
    molecules_fitted: int
    esp_by_element: dict[str, float]  # kcal/mol/e, of distributed charges on the points nearest to the element
    esp_by_shell: dict[str, float]  # and at a distance from the molecule

    def normalised_error(self, metric: str, error: float) -> float | None:
        """Return an error on the scale from that of fitted charges (0) to the spread (1); see :func:`normalise`."""
        return normalise(error, self.fitted_error(metric), self.spread.get(metric))

    def fitted_error(self, metric: str) -> float | None:
        """Return the error of fitted charges in a metric of the ESP, and 0 for every other metric."""
        return {
            ESP.metric: self.distributed_esp_rmse_kcal_per_mol_e,
            ESP_PHYSNET.metric: self.atom_centred_esp_rmse_kcal_per_mol_e,
        }.get(metric, 0.0)


def normalise(error: float | None, fitted: float | None, spread: float | None) -> float | None:
    """Return (error - fitted) / (spread - fitted): 0 as fitted charges, 1 as the mean.

    None where one of them is unknown, or the spread is not above the error of fitted charges.
    """
    # Charges are fitted to a sample only: the spread of data that vary as little is no scale.
    if error is None or fitted is None or spread is None or spread <= fitted:
        return None
    return (error - fitted) / (spread - fitted)


def kept_baselines(folder: RunFolder, split: str) -> Baselines | None:
    """Return the baselines of a run's split from ``baselines-SPLIT.json``; None if they were not computed yet."""
    try:
        return Baselines(**read_sealed(folder.baselines_file(split), "it is computed again"))
    except (FileNotFoundError, UserError, TypeError):
        return None


def keep_baselines(folder: RunFolder, split: str, baselines: Baselines) -> None:
    """Write ``baselines-SPLIT.json``: later evaluations need not fit again."""
    write_sealed(folder.baselines_file(split), asdict(baselines))


def spread_alone(loader: Loader, n_dcm: int) -> Baselines:
    """Compute the spread over the whole split, and fit no charges."""
    return Baselines(_spread(loader), None, None, n_dcm, 0, {}, {})


def with_fitted_charges(
    baselines: Baselines, loader: Loader, seed: int, sample: int = _SAMPLE, quiet: bool = True
) -> Baselines:
    """Fit charges to a seeded sample of the split's molecules, of which fewer are taken where they are large.

    Args:
        baselines: of the split, without fitted charges.
        loader: of the split.
        seed: of the sample and of the first displacements.
        sample: largest number of molecules with ESP.
        quiet: no progress bar.
    """
    n_dcm = baselines.n_dcm
    batches = list(_sample(loader, sample, seed, n_dcm))
    centred, distributed, squares = [], [], PointSquares()
    total = sum(len(batch.energy) for batch in batches)
    with tqdm(total=total, desc="fit charges", unit="mol", leave=False, disable=quiet or None) as bar:
        for batch in batches:
            centred.append(_mean_squares(fit_charges(batch, 1, displaced=False), batch))
            errors = fit_charges(batch, n_dcm, seed=seed, done=bar.update)
            distributed.append(_mean_squares(errors, batch))
            for points in locate_points(batch):
                squares.add(points, errors[points.molecule])
    return replace(
        baselines,
        atom_centred_esp_rmse_kcal_per_mol_e=_rmse(centred),
        distributed_esp_rmse_kcal_per_mol_e=_rmse(distributed),
        molecules_fitted=sum(map(len, centred)),
        esp_by_element=squares.element_rmse(),
        esp_by_shell=squares.shell_rmse(),
    )


def compute_baselines(loader: Loader, n_dcm: int, seed: int, sample: int = _SAMPLE) -> Baselines:
    """Compute all baselines of a split."""
    return with_fitted_charges(spread_alone(loader, n_dcm), loader, seed, sample)


def _mean_squares(errors: np.ndarray, batch: Batch) -> np.ndarray:
    """Return mean squares (B,) of errors (B, G) that are zero on points that do not count."""
    return (errors**2).sum(axis=1) / np.asarray(batch.esp_mask).sum(axis=1)


def _rmse(mean_squares: Sequence[np.ndarray]) -> float | None:
    every = np.concatenate(mean_squares) if mean_squares else np.zeros(0)
    return float(np.sqrt(every.mean()) * HARTREE_IN_KCAL_PER_MOL) if len(every) else None


def _sample(loader: Loader, sample: int, seed: int, n_dcm: int) -> Iterator[Batch]:
    """Yield at most one batch of each bucket: the sample's molecules with grid points that count."""
    with_esp = np.concatenate([bucket.column("n_grid") > 0 for bucket in loader.buckets])
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(with_esp))[:sample]
    frames = [(len(bucket), bucket.shape.frame) for bucket in loader.buckets]
    work = np.concatenate([np.full(number, fit_work(frame.grid, n_dcm * frame.atoms)) for number, frame in frames])
    chosen = chosen[np.cumsum(work[chosen]) <= _LARGEST_WORK]
    first = 0
    for index, bucket in enumerate(loader.buckets):
        rows = np.sort(chosen[(chosen >= first) & (chosen < first + len(bucket))]) - first
        first += len(bucket)
        if not len(rows):
            continue
        batch = loader.read_rows(index, rows, len(rows))
        kept = batch.esp_mask.any(axis=1)
        if kept.any():
            yield map_arrays(functools.partial(_taken, rows=kept), batch)


def _taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(array)[rows]


def _spread(loader: Loader) -> dict[str, float]:
    """Return the metrics of a model that predicts the mean energy, and zero for vectors and potentials."""
    energies, forces, dipoles, quadrupoles, squares = [], _Mean(), _Mean(), _Mean(), []
    for batch in (batch for _, batch in loader.stream(loader.plan(), loader.read)):
        known, points = known_targets(batch), batch.esp_mask
        energies.append(batch.energy[known.energy])
        forces.add(np.abs(batch.forces[known.forces]))
        dipoles.add(np.abs(batch.dipole[known.dipole]))
        if batch.quadrupole is not None:
            quadrupoles.add(np.abs(batch.quadrupole[known.quadrupole]))
        counts = points.sum(axis=1)
        squares.append((np.where(points, batch.esp, 0.0) ** 2).sum(axis=1)[counts > 0] / counts[counts > 0])
    energy, esp = np.concatenate(energies), _rmse(squares)
    dipole, quadrupole = (moments.value(1.0 / DEBYE_IN_E_ANGSTROM) for moments in (dipoles, quadrupoles))
    spread = {
        ENERGY.metric: float(np.abs(energy - energy.mean()).mean()) if len(energy) else None,
        FORCES.metric: forces.value(),
        DIPOLE.metric: dipole,
        DIPOLE_DCM.metric: dipole,
        QUADRUPOLE.metric: quadrupole,
        QUADRUPOLE_DCM.metric: quadrupole,
        ESP.metric: esp,
        ESP_PHYSNET.metric: esp,
    }
    return {name: value for name, value in spread.items() if value is not None}


class _Mean:
    """A mean of values that come in parts, none of which is kept."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, values: np.ndarray) -> None:
        self._sum += float(values.sum(dtype=np.float64))
        self._count += values.size

    def value(self, factor: float = 1.0) -> float | None:
        """Return the mean times a factor; None without values."""
        return self._sum / self._count * factor if self._count else None

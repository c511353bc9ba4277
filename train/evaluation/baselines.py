"""Baselines for the errors of a split: the spread of the references, and the errors of fitted charges and multipoles.

An ESP error alone does not separate the model's part from that of the representation, a few point charges. So charges
are fitted to single molecules of a sample, each by itself: a reference that a model can come near to, and on single
points beat, because its displacements are not bounded and the fits are local optima. Multipoles on the atoms, which
are fitted likewise, show what other representations would reach.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from shared.errors import UserError
from shared.sealed import read_sealed, write_sealed
from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL
from train.data.batch import Batch, known_targets, map_arrays
from train.data.known_molecules import TRAINED_ON
from train.data.loader import BatchPlan, Loader
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
from train.evaluation.multipole_fit import DIPOLES, QUADRUPOLES, fit_multipoles
from train.run_folder import RunFolder

_SAMPLE = 32
_LARGEST_WORK = 2e11
"""Multiplications of all fits of a split: about a minute on two cores, whatever the molecules' size."""

SEEN, UNSEEN = GROUPS = ("trained_on", "unseen")
"""Molecules that were trained on, and others."""


@dataclass(frozen=True)
class Baselines:
    """Errors to compare those of a model on one split with.

    Where no molecule has a target, its spread is left out; without ESP, the errors of what is fitted are None, as are
    those of multipoles where the grid of a molecule has too few points for them.
    """

    spread: dict[str, float]  # by metric: its value for a model that always predicts the mean
    atom_centred_esp_rmse_kcal_per_mol_e: float | None
    distributed_esp_rmse_kcal_per_mol_e: float | None
    n_dcm: int
    molecules_fitted: int
    esp_by_element: dict[str, float]  # kcal/mol/e, of distributed charges on the points nearest to the element
    esp_by_shell: dict[str, float]  # and at a distance from the molecule
    # Of charges and dipoles, and quadrupoles too, on every atom.
    dipoles_esp_rmse_kcal_per_mol_e: float | None = None
    quadrupoles_esp_rmse_kcal_per_mol_e: float | None = None
    groups: dict[str, Baselines] = field(default_factory=dict)  # of those of GROUPS that the split has, if known

    def normalised_error(self, metric: str, error: float) -> float | None:
        """Return an error on the scale from that of fitted charges (0) to the spread (1); see :func:`normalise`."""
        return normalise(error, self.fitted_error(metric), self.spread.get(metric))

    def normalised_errors(self, metrics: dict[str, float]) -> dict[str, float | None]:
        """Return the normalised errors of all metrics that have a spread."""
        return {name: self.normalised_error(name, value) for name, value in metrics.items() if name in self.spread}

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


def baselines_from_json(record: dict[str, Any]) -> Baselines:
    """Return the baselines that :func:`dataclasses.asdict` turned into plain values.

    Raises:
        TypeError, AttributeError: they are of another version.
    """
    groups = {name: Baselines(**one) for name, one in record.get("groups", {}).items()}
    return Baselines(**{**record, "groups": groups})


def kept_baselines(folder: RunFolder, split: str) -> Baselines | None:
    """Return the baselines of a run's split from ``baselines-SPLIT.json``; None if they were not computed yet."""
    try:
        record = read_sealed(folder.baselines_file(split), "it is computed again")
        if "groups" not in record:
            return None  # of an earlier version
        return baselines_from_json(record)
    except (FileNotFoundError, UserError, TypeError, AttributeError):
        return None


def keep_baselines(folder: RunFolder, split: str, baselines: Baselines) -> None:
    """Write ``baselines-SPLIT.json``: later evaluations need not fit again."""
    write_sealed(folder.baselines_file(split), asdict(baselines))


def spread_alone(loader: Loader, n_dcm: int, novelty: Sequence[np.ndarray] | None = None) -> Baselines:
    """Compute the spread over the whole split and over its groups, and fit no charges.

    Args:
        loader: of the split.
        n_dcm: charges per atom.
        novelty: of its molecules, see KnownMolecules.novelty; None: not known.
    """
    parts = [_Spread() for _ in GROUPS]
    for plan, batch in loader.stream(loader.plan(), loader.read):
        unseen = np.zeros(len(batch.energy), bool)
        unseen[: len(plan.rows)] = _is_unseen(novelty, plan)
        for part, chosen in zip(parts, (~unseen, unseen), strict=True):
            part.add(batch, chosen & batch.molecule_mask)
    spreads = dict(zip(GROUPS, parts, strict=True)) if novelty is not None else {}
    groups = {name: _unfitted(one.values(), n_dcm) for name, one in spreads.items() if one.molecules}
    return replace(_unfitted(_Spread.of(parts).values(), n_dcm), groups=groups)


def _unfitted(spread: dict[str, float], n_dcm: int) -> Baselines:
    return Baselines(spread, None, None, n_dcm, 0, {}, {})


def _is_unseen(novelty: Sequence[np.ndarray] | None, plan: BatchPlan) -> np.ndarray:
    """Return which molecules of a planned batch were not trained on; none if that is not known."""
    if novelty is None:
        return np.zeros(len(plan.rows), bool)
    return np.asarray(novelty[plan.bucket][plan.rows] != TRAINED_ON)


def with_fitted_charges(
    baselines: Baselines,
    loader: Loader,
    seed: int,
    sample: int = _SAMPLE,
    quiet: bool = True,
    novelty: Sequence[np.ndarray] | None = None,
) -> Baselines:
    """Fit charges and multipoles to a seeded sample of the split's molecules, of which fewer are taken if large.

    Args:
        baselines: of the split, without fitted charges.
        loader: of the split.
        seed: of the sample and of the first displacements.
        sample: largest number of molecules with ESP; half of them were not trained on, if there are so many.
        quiet: no progress bar.
        novelty: of the molecules, as ``baselines`` were computed with.
    """
    n_dcm = baselines.n_dcm
    parts = list(_sample(loader, sample, seed, n_dcm, novelty))
    fits, squares = [], PointSquares()
    total = sum(len(part.unseen) for part in parts)
    with tqdm(total=total, desc="fit charges", unit="mol", leave=False, disable=quiet or None) as bar:
        for batch, unseen, weights in parts:
            errors = fit_charges(batch, n_dcm, seed=seed, done=bar.update)
            others = (fit_charges(batch, 1, displaced=False), *(fit_multipoles(batch, one) for one in _ORDERS))
            columns = [_mean_squares(one, batch) for one in (others[0], errors, *others[1:])]
            fits.append(np.stack([unseen, weights, *columns], axis=1))
            for points in locate_points(batch):
                squares.add(points, errors[points.molecule], weights[points.molecule])
    fitted = np.concatenate(fits) if fits else np.zeros((0, 6))
    groups = {
        name: _with_errors(one, fitted[fitted[:, 0] == GROUPS.index(name)]) for name, one in baselines.groups.items()
    }
    return replace(
        _with_errors(baselines, fitted),
        esp_by_element=squares.element_rmse(),
        esp_by_shell=squares.shell_rmse(),
        groups=groups,
    )


_ORDERS = (DIPOLES, QUADRUPOLES)


def _with_errors(baselines: Baselines, fitted: np.ndarray) -> Baselines:
    """Return baselines with the errors of fits (n, 6): unseen, weight, and mean squares of the four fits."""
    rmse = [_rmse(column, fitted[:, 1]) for column in fitted[:, 2:].T]
    return replace(
        baselines,
        atom_centred_esp_rmse_kcal_per_mol_e=rmse[0],
        distributed_esp_rmse_kcal_per_mol_e=rmse[1],
        dipoles_esp_rmse_kcal_per_mol_e=rmse[2],
        quadrupoles_esp_rmse_kcal_per_mol_e=rmse[3],
        molecules_fitted=len(fitted),
    )


def compute_baselines(loader: Loader, n_dcm: int, seed: int, sample: int = _SAMPLE) -> Baselines:
    """Compute all baselines of a split."""
    return with_fitted_charges(spread_alone(loader, n_dcm), loader, seed, sample)


def _mean_squares(errors: np.ndarray, batch: Batch) -> np.ndarray:
    """Return mean squares (B,) of errors (B, G) that are zero on points that do not count."""
    return (errors**2).sum(axis=1) / np.asarray(batch.esp_mask).sum(axis=1)


def _rmse(mean_squares: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the root of the weighted mean in kcal/mol/e; None without values, or if one of them is not known."""
    if not len(mean_squares) or np.isnan(mean_squares).any():
        return None
    return float(np.sqrt(np.average(mean_squares, weights=weights)) * HARTREE_IN_KCAL_PER_MOL)


class _Part(NamedTuple):
    """Molecules of one bucket that charges are fitted to."""

    batch: Batch
    unseen: np.ndarray  # (B,) bool
    weights: np.ndarray  # (B,) molecules of the split that each stands for


def _sample(
    loader: Loader, sample: int, seed: int, n_dcm: int, novelty: Sequence[np.ndarray] | None
) -> Iterator[_Part]:
    """Yield at most one batch of each bucket: the sample's molecules with grid points that count.

    Molecules that were trained on and others take turns until one kind is used up.
    """
    with_esp = np.concatenate([bucket.column("n_grid") > 0 for bucket in loader.buckets])
    unseen = np.zeros(len(with_esp), bool) if novelty is None else np.concatenate(list(novelty)) != TRAINED_ON
    order = np.random.default_rng(seed).permutation(np.flatnonzero(with_esp))
    turn = np.where(unseen[order], np.cumsum(unseen[order]), np.cumsum(~unseen[order]))
    chosen = order[np.argsort(turn, kind="stable")][:sample]
    frames = [(len(bucket), bucket.shape.frame) for bucket in loader.buckets]
    work = np.concatenate([np.full(number, fit_work(frame.grid, n_dcm * frame.atoms)) for number, frame in frames])
    chosen = chosen[np.cumsum(work[chosen]) <= _LARGEST_WORK]
    weights = np.zeros(len(with_esp))
    for kind in (unseen, ~unseen):
        weights[kind] = (kind & with_esp).sum() / max(kind[chosen].sum(), 1)
    first = 0
    for index, bucket in enumerate(loader.buckets):
        own = np.sort(chosen[(chosen >= first) & (chosen < first + len(bucket))])
        rows = own - first
        first += len(bucket)
        if not len(rows):
            continue
        batch = loader.read_rows(index, rows, len(rows))
        kept = batch.esp_mask.any(axis=1)
        if kept.any():
            yield _Part(map_arrays(functools.partial(_taken, rows=kept), batch), unseen[own][kept], weights[own][kept])


def _taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(array)[rows]


class _Spread:
    """The errors of a model that predicts the mean energy, and zero for vectors and potentials."""

    def __init__(self) -> None:
        self.molecules = 0
        self._energies: list[np.ndarray] = []
        self._forces, self._dipoles, self._quadrupoles, self._squares = _Mean(), _Mean(), _Mean(), _Mean()

    def add(self, batch: Batch, chosen: np.ndarray) -> None:
        """Add the chosen (B,) molecules of a batch."""
        self.molecules += int(chosen.sum())
        known, points = known_targets(batch), batch.esp_mask
        self._energies.append(batch.energy[known.energy & chosen])
        self._forces.add(np.abs(batch.forces[known.forces & chosen[:, None]]))
        self._dipoles.add(np.abs(batch.dipole[known.dipole & chosen]))
        if batch.quadrupole is not None:
            self._quadrupoles.add(np.abs(batch.quadrupole[known.quadrupole & chosen]))
        counts = points.sum(axis=1)
        own = (counts > 0) & chosen
        self._squares.add((np.where(points, batch.esp, 0.0) ** 2).sum(axis=1)[own] / counts[own])

    @classmethod
    def of(cls, parts: Iterable[_Spread]) -> _Spread:
        """Return the spread over the molecules of all parts."""
        whole = cls()
        for part in parts:
            whole.molecules += part.molecules
            whole._energies += part._energies
            for mean, other in (
                (whole._forces, part._forces),
                (whole._dipoles, part._dipoles),
                (whole._quadrupoles, part._quadrupoles),
                (whole._squares, part._squares),
            ):
                mean.join(other)
        return whole

    def values(self) -> dict[str, float]:
        """Return the metrics of which there are references."""
        energy = np.concatenate(self._energies) if self._energies else np.zeros(0)
        mean_square = self._squares.value()
        esp = None if mean_square is None else float(np.sqrt(mean_square)) * HARTREE_IN_KCAL_PER_MOL
        dipole, quadrupole = (
            moments.value(1.0 / DEBYE_IN_E_ANGSTROM) for moments in (self._dipoles, self._quadrupoles)
        )
        spread = {
            ENERGY.metric: float(np.abs(energy - energy.mean()).mean()) if len(energy) else None,
            FORCES.metric: self._forces.value(),
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

    def join(self, other: _Mean) -> None:
        self._sum += other._sum
        self._count += other._count

    def value(self, factor: float = 1.0) -> float | None:
        """Return the mean times a factor; None without values."""
        return self._sum / self._count * factor if self._count else None

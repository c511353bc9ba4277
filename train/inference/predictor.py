"""Predictions of trained models for any molecules of their elements, as :class:`ase.Atoms`, in padded batches.

Molecules are padded to size classes, so that a trajectory, or a mixture of molecules, compiles once for each class.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.digests import settings_digest
from shared.elements import MASSES, element_table
from shared.errors import UserError
from shared.input.total_charge import total_charge_of
from shared.neighbor_list import build_edges, count_edges
from train.data.batch import Batch, empty_batch
from train.data.training_facts import TrainingFacts
from train.inference.folder import Runs, load_members, validation_errors
from train.inference.guards import (
    begin_in_this_process,
    check_molecule,
    checked_points,
    finite,
    masses_of,
    require_own_process,
)
from train.inference.molecule_prediction import Derivatives, MoleculePrediction, mean_prediction, member_prediction
from train.inference.unlike_training import Domain
from train.model.arithmetic import arithmetic
from train.model.kept_programs import (
    compiler_options,
    kept_programs,
    program_digest,
    setting,
    sources_of,
    without_collection,
)
from train.model.members import over_members, stack_members
from train.model.prediction import Prediction
from train.model.saved_model import SETTINGS, TrainedModel

__all__ = ["Derivatives", "MoleculePrediction", "Precision", "Predictor", "SizeClass"]

Precision = Literal["float32", "float64"]

_GROWTH = 1.25
"""Ratio of one size class to the one below: padding costs at most this factor in atoms."""

_GRID_CHUNK = 1024
"""Grid points in one call, of a size that suits the caches, and one compilation for any grid."""


@dataclass(frozen=True, order=True)
class SizeClass:
    """Shape that molecules are padded to."""

    atoms: int
    edges: EdgeShape


class Predictor:
    """Predictor with the best weights of a run, or of the members of an ensemble, all in one program.

    Of an ensemble, predictions are means over its members, beside the deviations among them. Threads may share one,
    and so do its copies; another process that was spawned gets its own by pickling. What a molecule has that no
    training molecule had stands in its prediction, and is said once, as an :class:`UnlikeTrainingWarning`.

    Attributes:
        members: settings, reference energies and weights of each member by its folder; one of a single model.
        precision: of all arithmetic.
        domain: what they were trained on.
        compilations: programs compiled so far; one for each size class and batch size.
    """

    def __init__(self, run: Runs, precision: Precision = "float32", pad: bool = True, strict: bool = False) -> None:
        """Load a model.

        Args:
            run: folder of a run (runs/NAME), or a copy of its best/ alone; or several, which are an ensemble.
            precision: float32 as trained, or float64, in which derivatives and dynamics are smoother.
            pad: to size classes; otherwise every new number of atoms or edges compiles anew.
            strict: refuse molecules that have what no training molecule had, instead of a warning.

        Raises:
            UserError: there is no model, or it is damaged; models of different settings, or one twice; no such
                precision; strict, and a model of an older version, which does not tell what it was trained on.
        """
        if precision not in get_args(Precision):
            raise UserError(f"precision = {precision!r}: {' or '.join(map(repr, get_args(Precision)))}")
        self._prepare(load_members(run), precision, pad, strict)

    def _prepare(self, members: dict[Path, TrainedModel], precision: Precision, pad: bool, strict: bool) -> None:
        self.members = members
        self.precision: Precision = precision
        self.compilations = 0
        self.domain = Domain({folder: trained.training for folder, trained in members.items()}, strict)
        self._pad = pad
        self._lock = threading.Lock()
        begin_in_this_process()
        self._references = [element_table(trained.reference_energies_ev) for trained in members.values()]
        with self._arithmetic():
            stacked = stack_members([trained.params for trained in members.values()])
            # Cast by NumPy, to compile nothing for it.
            self._params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, self.precision)), stacked)
        self._programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __copy__(self) -> Predictor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        return self  # what changes in it does not change its predictions

    def __getstate__(self) -> dict[str, Any]:
        """Return what it was made from; compiled programs stay behind."""
        return {"members": self.members, "precision": self.precision, "pad": self._pad, "strict": self.domain.strict}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._prepare(**state)

    @property
    def trained(self) -> TrainedModel:
        """The model; of an ensemble the first member, whose settings are those of all."""
        return next(iter(self.members.values()))

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several members, and therefore deviations."""
        return len(self.members) > 1

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that the model, and each member of an ensemble, was trained on."""
        known = (trained.reference_energies_ev.keys() for trained in self.members.values())
        return sorted(set.intersection(*map(set, known)))

    def dipole_errors(self) -> tuple[float, float] | None:
        """Return the errors of PhysNet's and DCMNet's dipoles on the validation split in Debye, if they are known.

        Of an ensemble they are means over its members.
        """
        facts = [trained.training or TrainingFacts() for trained in self.members.values()]
        return _mean_pair([one.dipole_errors for one in facts])

    def validation_errors(self) -> tuple[float, float] | None:
        """Return the mean absolute errors of energies in eV and forces in eV/Å on the validation split, if known."""
        return _mean_pair([validation_errors(folder) for folder in self.members])

    def predict(
        self,
        molecules: Iterable[ase.Atoms],
        batch_size: int = 64,
        full_batches: bool = False,
        names: Sequence[str] = (),
    ) -> list[MoleculePrediction]:
        """Predict for many molecules, those of a size class together.

        Args:
            molecules: of trained elements, not periodic; all are held in memory. The total charge is
                ``info["charge"]`` (or ``"total_charge"``), else the sum of the initial charges, else 0.
            batch_size: molecules at once.
            full_batches: pad every batch to ``batch_size``, so that each size class compiles once however many calls
                a stream of molecules takes; else the last one of a class to the power of two above it.
            names: of the molecules, for messages (default: their numbers).

        Raises:
            UserError: a molecule has an element that the model was not trained on, no atoms, periodic boundaries,
                positions that are not finite, atoms closer than 0.2 Å, a total charge that is no number; strict, and
                it has what no training molecule had; or a prediction is not finite.
        """
        if isinstance(molecules, ase.Atoms):
            raise UserError("one molecule where several are expected: give a list, [atoms]")
        molecules = list(molecules)
        numbered = [f"molecule {index}" for index in range(len(molecules))] if len(molecules) > 1 else [""]
        places = [f"{name}: " if name else "" for name in names or numbered]
        outside = list(map(self._check, molecules, places))
        results: list[MoleculePrediction | None] = [None] * len(molecules)
        for size, chosen in self._by_size(molecules).items():
            for start in range(0, len(chosen), batch_size):
                rows = chosen[start : start + batch_size]
                # Not longer than what there is; a power of two, so that the last batches are few shapes.
                length = batch_size if full_batches else min(batch_size, 1 << (len(rows) - 1).bit_length())
                batch = self._batch([molecules[row] for row in rows], size, length)
                predicted = self._with_members(self._call("predict", batch))
                for index, row in enumerate(rows):
                    results[row] = self._unpack(predicted, index, molecules[row], outside[row], places[row])
        return [result for result in results if result is not None]

    def derivatives(self, molecule: ase.Atoms) -> Derivatives:
        """Return exact second derivatives of the energy and first derivatives of the dipoles.

        Raises:
            UserError: as :meth:`predict`.
        """
        outside = self._check(molecule, "")
        (size,) = self._by_size([molecule])
        predicted, slopes_of_all = self._with_members(self._call("derive", self._batch([molecule], size, 1)))
        forces, dipole, dipole_dcm = (np.mean(slopes, axis=0) for slopes in slopes_of_all)
        n = len(molecule)
        hessian = -forces[0, :n, :, 0, :n].reshape(3 * n, 3 * n)
        slopes = [np.moveaxis(one[0, :, 0, :n], 0, -1).reshape(3 * n, 3) for one in (dipole, dipole_dcm)]
        # The dipole about the centre of the molecule's own masses moves by Q times the difference of the centres.
        share = (
            MASSES[molecule.numbers] / MASSES[molecule.numbers].sum() - masses_of(molecule) / masses_of(molecule).sum()
        )
        moved = total_charge_of(molecule) * np.kron(share[:, None], np.eye(3))
        return Derivatives(
            prediction=self._unpack(predicted, 0, molecule, outside, ""),
            hessian=finite(0.5 * (hessian + hessian.T), "", "second derivatives of the energy"),
            dipole=finite(slopes[0] + moved, "", "derivatives of the dipole"),
            dipole_dcm=finite(slopes[1] + moved, "", "derivatives of the dipole"),
        )

    def potential(self, prediction: MoleculePrediction, points: np.ndarray) -> np.ndarray:
        """Return the ESP of the distributed charges at points; of an ensemble the mean over its members' charges.

        Args:
            prediction: of a molecule.
            points: (G, 3) in Å.

        Returns:
            (G,) in Hartree/e.

        Raises:
            UserError: the points have another shape, or are not finite.
        """
        return np.mean(self._potentials(prediction, points), axis=0)

    def potential_deviation(self, prediction: MoleculePrediction, points: np.ndarray) -> np.ndarray:
        """Return the standard deviation (G,) of the ESP in Hartree/e among an ensemble's members at points (G, 3) in Å.

        Raises:
            UserError: a single model; or as :meth:`potential`.
        """
        if not prediction.members:
            raise UserError(f"{next(iter(self.members))}: a single model, and only ensembles have deviations")
        return np.std(self._potentials(prediction, points), axis=0, ddof=1)

    def _potentials(self, prediction: MoleculePrediction, points: np.ndarray) -> list[np.ndarray]:
        return [
            self.potential_of(one.dcm_charges.ravel(), one.dcm_sites.reshape(-1, 3), points)
            for one in prediction.members or (prediction,)
        ]

    def potential_of(self, charges: np.ndarray, sites: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the ESP (G,) in Hartree/e of point charges (K,) in e at sites (K, 3) in Å at points (G, 3) in Å.

        Raises:
            UserError: the points have another shape, or are not finite.
        """
        points = checked_points(points)
        center = np.mean(sites, axis=0)
        sites, points = sites - center, points - center  # before they are cast
        result = np.empty(len(points))
        # Charges of zero beyond the real ones, so that the number of atoms is not part of the shape.
        padded = _next_class(len(charges)) if self._pad else len(charges)
        charges = np.pad(charges, (0, padded - len(charges)))[None]
        sites = np.pad(sites, ((0, padded - sites.shape[0]), (0, 0)))[None]
        for start in range(0, len(points), _GRID_CHUNK):
            part = points[start : start + _GRID_CHUNK]
            # Far away, where no charge is; not used.
            grid = np.full((1, _GRID_CHUNK, 3), 1e3)
            grid[0, : len(part)] = part
            values = self._call("potential", charges, sites, grid)
            result[start : start + len(part)] = np.asarray(values)[0, : len(part)]
        return finite(result, "", "potential")

    @cached_property
    def _functions(self) -> dict[str, Callable[..., Any]]:
        # Slow to import, and not needed where programs were kept.
        from train.model.electrostatics import electrostatic_potential
        from train.model.joint import build_model

        model = build_model(self.trained.config)

        def derive(params: Any, batch: Batch) -> tuple[Prediction, tuple[jax.Array, ...]]:
            def outputs(positions: jax.Array) -> tuple[tuple[jax.Array, ...], Prediction]:
                predicted = model.apply_off_grid(params, batch._replace(positions=positions))
                return (predicted.forces, predicted.dipole, predicted.dipole_dcm), predicted

            jacobian, predicted = jax.jacfwd(outputs, has_aux=True)(batch.positions)
            return predicted, jacobian

        def of_all(function: Callable[..., Any]) -> Callable[..., Any]:
            return over_members(function, len(self.members), jax.default_backend())

        return {"predict": of_all(model.apply_off_grid), "derive": of_all(derive), "potential": electrostatic_potential}

    def _with_members(self, arrays: Any) -> Any:
        """Return results with a leading axis of members, also those of a single model."""
        return arrays if self.is_ensemble else jax.tree.map(lambda x: np.asarray(x)[None], arrays)

    def _call(self, name: str, *arguments: Any) -> Any:
        require_own_process()
        with self._arithmetic():
            cast = [jax.tree.map(self._cast, argument) for argument in arguments]
            weights = () if name == "potential" else (self._params,)
            leaves, tree = jax.tree.flatten((*weights, *cast))
            outputs = self._program(name, leaves, tree)(*leaves)
            return jax.tree.unflatten(_RESULTS[name], jax.device_get(outputs))

    def _program(self, name: str, leaves: list[Any], tree: Any) -> Callable[..., Any]:
        """Return the program for these shapes, of and to flat lists of arrays: a kept one, or traced and kept."""
        platform = _platform()
        key = (name, platform, *(leaf.shape for leaf in leaves))
        with self._lock:
            if key not in self._programs:

                def flat(*leaves: Any) -> list[Any]:
                    return jax.tree.leaves(self._functions[name](*jax.tree.unflatten(tree, leaves)))

                kept = kept_programs(self._digest())
                function: Callable[..., Any] = flat
                if kept:
                    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
                    with without_collection():
                        function = kept.traced(settings_digest({"key": list(map(str, key))}), flat, shapes, platform)
                self._programs[key] = jax.jit(function, compiler_options=compiler_options(platform))
                self.compilations += 1
            return self._programs[key]

    def _digest(self) -> str:
        settings = {name: getattr(self.trained.config, name) for name in SETTINGS}
        settings |= {"members": len(self.members), "precision": self.precision, "devices": jax.default_backend()}
        return program_digest(settings, [*sources_of("data", "model"), Path(__file__)])

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.precision) if np.issubdtype(array.dtype, np.floating) else array

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        return arithmetic(self.precision == "float64")

    def _by_size(self, molecules: Sequence[ase.Atoms]) -> dict[SizeClass, list[int]]:
        config = self.trained.config
        sizes: dict[SizeClass, list[int]] = {}
        for row, molecule in enumerate(molecules):
            atoms = _next_class(len(molecule)) if self._pad else len(molecule)
            edges = []
            for cutoff in (config.physnet_cutoff, config.dcmnet_cutoff):
                number = int(count_edges(molecule.positions[None], np.array([len(molecule)]), cutoff)[0])
                # All pairs where they are few; else a class of its own, which a trajectory rarely leaves.
                edges.append(min(_next_class(number + 1), atoms * (atoms - 1)) if self._pad else number)
                if self._pad and atoms <= _ALL_PAIRS_UP_TO:
                    edges[-1] = atoms * (atoms - 1)
            sizes.setdefault(SizeClass(atoms, EdgeShape(*edges)), []).append(row)
        return sizes

    def _batch(self, molecules: Sequence[ase.Atoms], size: SizeClass, places: int) -> Batch:
        config = self.trained.config
        batch = empty_batch(BucketShape(FrameShape(size.atoms, 1), size.edges), places)
        positions = np.zeros((places, size.atoms, 3))
        total_charge = np.zeros(places)
        for place, molecule in enumerate(molecules):
            batch.molecule_mask[place] = True
            batch.atomic_numbers[place, : len(molecule)] = molecule.numbers
            # Before they are cast to single precision, which resolves little far from the origin.
            positions[place, : len(molecule)] = molecule.positions - molecule.positions.mean(axis=0)
            total_charge[place] = total_charge_of(molecule)
        n_atoms = np.array([*map(len, molecules), *[0] * (places - len(molecules))])
        physnet = build_edges(positions, n_atoms, config.physnet_cutoff, size.edges.physnet_edges)
        dcmnet = build_edges(positions, n_atoms, config.dcmnet_cutoff, size.edges.dcmnet_edges)
        return batch._replace(
            positions=positions,
            total_charge=total_charge,
            physnet_dst=physnet.dst,
            physnet_src=physnet.src,
            physnet_n_edges=physnet.n_edges,
            dcmnet_dst=dcmnet.dst,
            dcmnet_src=dcmnet.src,
            dcmnet_n_edges=dcmnet.n_edges,
        )

    def _unpack(
        self, predicted: Prediction, place: int, molecule: ase.Atoms, outside: tuple[str, ...], where: str
    ) -> MoleculePrediction:
        members = []
        for member, references in enumerate(self._references):
            whose = f"{where}member {member}: " if self.is_ensemble else where
            members.append(member_prediction(predicted, (member, place), molecule, references, whose))
        return mean_prediction(members, outside)

    def _check(self, molecule: ase.Atoms, where: str) -> tuple[str, ...]:
        """Return what the molecule has that no training molecule had."""
        return self.domain.outside(molecule, check_molecule(molecule, self.elements, where), where)


_PREDICTION: Any = Prediction._fields
_RESULTS = {
    "predict": jax.tree.structure(Prediction(*_PREDICTION)),
    "derive": jax.tree.structure((Prediction(*_PREDICTION), (0, 0, 0))),
    "potential": jax.tree.structure(0),
}
"""Trees of what the programs return."""


def _platform() -> str:
    """Return the platform that a function runs on here, in the words of programs that are exported."""
    chosen = setting("jax_default_device")
    platform = chosen if chosen is None or isinstance(chosen, str) else chosen.platform
    return str(export.default_export_platform()) if platform in (None, jax.default_backend()) else platform


def _mean_pair(pairs: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [pair for pair in pairs if pair]
    if len(known) < len(pairs):
        return None
    first, second = np.mean(known, axis=0).tolist()
    return first, second


_ALL_PAIRS_UP_TO = 24
"""Most atoms for which all pairs have a place in the edge list, so that no motion changes its shape."""


def _next_class(number: int) -> int:
    """Return the smallest size class that holds ``number``: 1 … 4, then each a quarter larger."""
    size = 1
    while size < number:
        size = max(size + 1, int(size * _GROWTH))
    return size

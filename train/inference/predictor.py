"""Predictions of a trained model for any molecules of its elements, as :class:`ase.Atoms`, in padded batches.

Molecules are padded to size classes, so that a trajectory, or a mixture of molecules, compiles once for each class.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ase
import jax
import jax.numpy as jnp
import numpy as np

from shared.buckets import BucketShape, EdgeShape, FrameShape
from shared.elements import MASSES, centers_of_mass, element_table
from shared.input.total_charge import total_charge_of
from shared.multipoles import moved_quadrupoles
from shared.neighbor_list import build_edges, count_edges
from train.data.batch import Batch, empty_batch
from train.inference.folder import best_folder, load_with_errors
from train.inference.guards import (
    begin_in_this_process,
    check_molecule,
    checked_points,
    finite,
    masses_of,
    require_own_process,
)
from train.inference.unlike_training import UnlikeTrainingWarning, notes_on
from train.model.arithmetic import arithmetic
from train.model.electrostatics import electrostatic_potential
from train.model.joint import build_model
from train.model.prediction import Prediction
from train.model.saved_model import TrainedModel

Precision = Literal["float32", "float64"]

_GROWTH = 1.25
"""Ratio of one size class to the one below: padding costs at most this factor in atoms."""

_GRID_CHUNK = 1024
"""Grid points in one call, of a size that suits the caches, and one compilation for any grid."""


@dataclass(frozen=True)
class MoleculePrediction:
    """Predictions for one molecule of N atoms."""

    energy: float  # eV, reference energies included
    forces: np.ndarray  # (N, 3) eV/Å, exactly -dE/dR
    charges: np.ndarray  # (N,) e, PhysNet's
    dipole: np.ndarray  # (3,) e·Å, of PhysNet's charges about the centre of mass
    dcm_charges: np.ndarray  # (N, n_dcm) e
    dcm_sites: np.ndarray  # (N, n_dcm, 3) Å
    dipole_dcm: np.ndarray  # (3,) e·Å, of the distributed charges about the centre of mass
    quadrupole: np.ndarray  # (3, 3) e·Å², traceless, of PhysNet's charges about the centre of mass
    quadrupole_dcm: np.ndarray  # (3, 3) e·Å², traceless, of the distributed charges about the centre of mass


@dataclass(frozen=True)
class Derivatives:
    """Second derivatives of the energy, and first ones of the dipoles, of one molecule of N atoms."""

    prediction: MoleculePrediction
    hessian: np.ndarray  # (3 N, 3 N) eV/Å², symmetric
    dipole: np.ndarray  # (3 N, 3) e, d(dipole of PhysNet's charges)/dR
    dipole_dcm: np.ndarray  # (3 N, 3) e, d(dipole of the distributed charges)/dR


@dataclass(frozen=True, order=True)
class SizeClass:
    """Shape that molecules are padded to."""

    atoms: int
    edges: EdgeShape


class Predictor:
    """Predictor with the best weights of a run.

    Threads may share one, and so do its copies; another process that was spawned gets its own by pickling.
    What a molecule has that no training molecule had is said once, as an :class:`UnlikeTrainingWarning`.

    Attributes:
        trained: settings, reference energies and weights.
        precision: of all arithmetic.
        compilations: programs compiled so far; one for each size class and batch size.
    """

    def __init__(self, run: str | Path, precision: Precision = "float32", pad: bool = True) -> None:
        """Load a model.

        Args:
            run: folder of a run (runs/NAME), or a copy of its best/ alone.
            precision: float32 as trained, or float64, in which derivatives and dynamics are smoother.
            pad: to size classes; otherwise every new number of atoms or edges compiles anew.

        Raises:
            UserError: there is no model, or it is damaged.
        """
        folder = best_folder(run)
        self._prepare(folder, load_with_errors(folder), precision, pad)

    def _prepare(self, folder: Path, trained: TrainedModel, precision: Precision, pad: bool) -> None:
        self.folder = folder
        self.trained = trained
        self.precision: Precision = precision
        self.compilations = 0
        self._pad = pad
        self._lock = threading.Lock()
        self._said: set[tuple[object, ...]] = set()
        begin_in_this_process()
        self._model = build_model(self.trained.config)
        self._references = element_table(self.trained.reference_energies_ev)
        with self._arithmetic():
            self._params = jax.tree.map(lambda x: jnp.asarray(x, precision), self.trained.params)
        self._functions: dict[str, Callable[..., Any]] = {
            "predict": jax.jit(self._model.apply_off_grid),
            "derive": jax.jit(self._derivatives),
            "potential": jax.jit(electrostatic_potential),
        }
        self._shapes: set[tuple[Any, ...]] = set()

    def __copy__(self) -> Predictor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        return self  # what changes in it does not change its predictions

    def __getstate__(self) -> dict[str, Any]:
        """Return what it was made from; compiled programs stay behind."""
        return {"folder": self.folder, "trained": self.trained, "precision": self.precision, "pad": self._pad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._prepare(**state)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that the model was trained on."""
        return sorted(self.trained.reference_energies_ev)

    def dipole_errors(self) -> tuple[float, float] | None:
        """Return the errors of PhysNet's and DCMNet's dipoles on the validation split in Debye, if they are known."""
        facts = self.trained.training
        return facts.dipole_errors if facts else None

    def predict(
        self, molecules: Sequence[ase.Atoms], batch_size: int = 64, full_batches: bool = False
    ) -> list[MoleculePrediction]:
        """Predict for many molecules, those of a size class together.

        Args:
            molecules: of trained elements, not periodic. The total charge is ``info["charge"]`` (or
                ``"total_charge"``), else the sum of the initial charges, else 0.
            batch_size: molecules at once.
            full_batches: pad every batch to ``batch_size``, so that each size class compiles once however many calls
                a stream of molecules takes; else the last one of a class to the power of two above it.

        Raises:
            UserError: a molecule has an element that the model was not trained on, no atoms, periodic boundaries,
                positions that are not finite, atoms closer than 0.2 Å, a total charge that is no number; or a
                prediction is not finite.
        """
        for index, molecule in enumerate(molecules):
            self._check(molecule, self._place(index, len(molecules)))
        results: list[MoleculePrediction | None] = [None] * len(molecules)
        for size, chosen in self._by_size(molecules).items():
            for start in range(0, len(chosen), batch_size):
                rows = chosen[start : start + batch_size]
                # Not longer than what there is; a power of two, so that the last batches are few shapes.
                places = batch_size if full_batches else min(batch_size, 1 << (len(rows) - 1).bit_length())
                batch = self._batch([molecules[row] for row in rows], size, places)
                predicted = self._call("predict", batch)
                for place, row in enumerate(rows):
                    where = self._place(row, len(molecules))
                    results[row] = self._unpack(predicted, place, molecules[row], where)
        return [result for result in results if result is not None]

    def derivatives(self, molecule: ase.Atoms) -> Derivatives:
        """Return exact second derivatives of the energy and first derivatives of the dipoles.

        Raises:
            UserError: as :meth:`predict`.
        """
        self._check(molecule, "")
        (size,) = self._by_size([molecule])
        predicted, (forces, dipole, dipole_dcm) = self._call("derive", self._batch([molecule], size, 1))
        n = len(molecule)
        hessian = -np.asarray(forces)[0, :n, :, 0, :n].reshape(3 * n, 3 * n)
        slopes = [np.moveaxis(np.asarray(one)[0, :, 0, :n], 0, -1).reshape(3 * n, 3) for one in (dipole, dipole_dcm)]
        # The dipole about the centre of the molecule's own masses moves by Q times the difference of the centres.
        share = (
            MASSES[molecule.numbers] / MASSES[molecule.numbers].sum() - masses_of(molecule) / masses_of(molecule).sum()
        )
        moved = total_charge_of(molecule) * np.kron(share[:, None], np.eye(3))
        return Derivatives(
            prediction=self._unpack(predicted, 0, molecule, ""),
            hessian=finite(0.5 * (hessian + hessian.T), "", "second derivatives of the energy"),
            dipole=finite(slopes[0] + moved, "", "derivatives of the dipole"),
            dipole_dcm=finite(slopes[1] + moved, "", "derivatives of the dipole"),
        )

    def potential(self, prediction: MoleculePrediction, points: np.ndarray) -> np.ndarray:
        """Return the ESP of the distributed charges at points.

        Args:
            prediction: of a molecule.
            points: (G, 3) in Å.

        Returns:
            (G,) in Hartree/e.

        Raises:
            UserError: the points have another shape, or are not finite.
        """
        return self.potential_of(prediction.dcm_charges.ravel(), prediction.dcm_sites.reshape(-1, 3), points)

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

    def _derivatives(self, params: Any, batch: Batch) -> tuple[Prediction, tuple[jax.Array, ...]]:
        def outputs(positions: jax.Array) -> tuple[tuple[jax.Array, ...], Prediction]:
            predicted = self._model.apply_off_grid(params, batch._replace(positions=positions))
            return (predicted.forces, predicted.dipole, predicted.dipole_dcm), predicted

        jacobian, predicted = jax.jacfwd(outputs, has_aux=True)(batch.positions)
        return predicted, jacobian

    def _call(self, name: str, *arguments: Any) -> Any:
        require_own_process()
        with self._arithmetic():
            cast = [jax.tree.map(self._cast, argument) for argument in arguments]
            shape = (name, *(leaf.shape for leaf in jax.tree.leaves(cast)))
            with self._lock:
                self.compilations += shape not in self._shapes
                self._shapes.add(shape)
            weights = () if name == "potential" else (self._params,)
            return jax.device_get(self._functions[name](*weights, *cast))

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
            positions[place, : len(molecule)] = molecule.positions - _center(molecule)
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

    def _unpack(self, predicted: Prediction, place: int, molecule: ase.Atoms, where: str) -> MoleculePrediction:
        n = len(molecule)

        def of_molecule(name: str, *rows: slice) -> np.ndarray:
            return finite(np.asarray(getattr(predicted, name)[(place, *rows)], np.float64), where, name)

        # The model's origin is the centre of the elements' standard masses.
        centers = centers_of_mass(molecule.positions[None], molecule.numbers[None])[0], molecule.get_center_of_mass()
        charge, shift = total_charge_of(molecule), centers[1] - centers[0]
        moved = -charge * shift

        def moved_quadrupole(of: Literal["", "_dcm"]) -> np.ndarray:
            moments = (of_molecule(f"quadrupole{of}")[None], of_molecule(f"dipole{of}")[None])
            return moved_quadrupoles(*moments, np.array([charge]), shift[None])[0]

        # The reference energies are thousands of eV: added in float64.
        return MoleculePrediction(
            energy=float(of_molecule("energy")) + float(self._references[molecule.numbers].sum()),
            forces=of_molecule("forces", slice(n)),
            charges=of_molecule("charges", slice(n)),
            dipole=of_molecule("dipole") + moved,
            dcm_charges=of_molecule("dcm_charges", slice(n)),
            dcm_sites=of_molecule("dcm_sites", slice(n)) + _center(molecule),
            dipole_dcm=of_molecule("dipole_dcm") + moved,
            quadrupole=moved_quadrupole(""),
            quadrupole_dcm=moved_quadrupole("_dcm"),
        )

    def _place(self, index: int, molecules: int) -> str:
        return f"molecule {index}: " if molecules > 1 else ""

    def _check(self, molecule: ase.Atoms, where: str) -> None:
        total_charge = check_molecule(molecule, self.elements, where)
        for note in notes_on(molecule, total_charge, self.trained.training):
            with self._lock:
                new = note.kind not in self._said
                self._said.add(note.kind)
            if new:
                warnings.warn(f"{where}{note.text}", UnlikeTrainingWarning, stacklevel=4)


def _center(molecule: ase.Atoms) -> np.ndarray:
    return np.asarray(molecule.positions.mean(axis=0))


_ALL_PAIRS_UP_TO = 24
"""Most atoms for which all pairs have a place in the edge list, so that no motion changes its shape."""


def _next_class(number: int) -> int:
    """Return the smallest size class that holds ``number``: 1 … 4, then each a quarter larger."""
    size = 1
    while size < number:
        size = max(size + 1, int(size * _GROWTH))
    return size

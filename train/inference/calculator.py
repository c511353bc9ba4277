"""A trained model, or an ensemble, as a calculator of ASE: ``JointCalculator("runs/NAME")``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs

from shared.errors import UserError
from shared.input.total_charge import total_charge_of
from train.inference.folder import Runs
from train.inference.molecule_prediction import MoleculePrediction
from train.inference.predictor import Precision, Predictor
from train.inference.watch import OutsideDomain, Watch

__all__ = ["DipoleSource", "JointCalculator", "OutsideDomain", "PointCharges", "Watch", "better_dipole"]

DipoleSource = Literal["physnet", "dcmnet"]


_DEVIATIONS = ("energy_std", "forces_std", "charges_std", "dipole_std")
"""Results of ensembles alone."""


class PointCharges(NamedTuple):
    """Distributed charges of a molecule of N atoms."""

    values: np.ndarray  # (N, n_dcm) e
    positions: np.ndarray  # (N, n_dcm, 3) Å


class JointCalculator(Calculator):
    """Calculator for ASE: energy, forces and charges of PhysNet, a dipole, and the distributed charges of DCMNet.

    The energy is the total one (eV), reference energies included; forces are exactly its negative gradient; charges
    are PhysNet's. The dipole, about the centre of mass, is that of PhysNet's charges or of DCMNet's
    (:attr:`dipole_source`), also in ASE's Infrared. ``results`` has the traceless quadrupoles too, (3, 3) in e·Å² about
    the centre of mass: ``quadrupole`` of PhysNet's charges, ``quadrupole_dcm`` of the distributed ones; and
    ``outside``, a text for each thing that no training molecule had. The total charge of a molecule is
    ``atoms.info["charge"]`` (or ``"total_charge"``), else the sum of its initial charges. It works with all of ASE that
    takes a calculator: optimizers, Vibrations, Infrared, molecular dynamics.

    Of an ensemble all results are means over its members, whose standard deviations are ``energy_std``, ``forces_std``
    (N, 3), ``charges_std`` (N,) and ``dipole_std`` (3,); the forces are the gradient of the mean energy. The potential
    is the mean over the members' distributed charges, which are given of one member at a time.

    It can be copied and pickled, and threads and the images of a NEB may share one: each thread has results of its own.

    Attributes:
        predictor: the model.
        dipole_source: "physnet" or "dcmnet".
    """

    implemented_properties: list[str] = [  # noqa: RUF012 (ASE has it so)
        *("energy", "free_energy", "forces", "dipole", "charges", "quadrupole", "quadrupole_dcm")
    ]

    def __init__(
        self,
        run: Runs,
        precision: Precision = "float64",
        pad: bool = True,
        dipole: DipoleSource | None = None,
        strict: bool = False,
        **parameters: Any,
    ) -> None:
        """Load a model.

        Args:
            run: folder of a run (runs/NAME), or a copy of its best/ alone; or several, which are an ensemble.
            precision: float64 keeps optimizers and finite differences smooth; float32 is faster on a GPU.
            pad: to size classes, so that few shapes are compiled.
            dipole: charges whose dipole is returned; None for those with the smaller error on the validation split
                (PhysNet's where the errors are not known).
            strict: refuse molecules that have what no training molecule had, instead of a warning.
            parameters: of ASE's Calculator.

        Raises:
            UserError: there is no model, or it is damaged; models of different settings, or one twice; no such dipole;
                strict, and a model of an older version, which does not tell what it was trained on.
        """
        self._of_thread = _OfThread()
        super().__init__(**parameters)
        if dipole not in (None, "physnet", "dcmnet"):
            raise UserError(f'dipole = {dipole!r}: "physnet" or "dcmnet"')
        self.predictor = Predictor(run, precision, pad, strict)
        if self.predictor.is_ensemble:
            self.implemented_properties = [*self.implemented_properties, *_DEVIATIONS]
        self.dipole_source: DipoleSource = dipole or better_dipole(self.predictor)
        self.parameters["dipole"] = self.dipole_source  # as ASE writes it with its results

    @property
    def atoms(self) -> ase.Atoms | None:
        """Molecule of this thread's last calculation."""
        return self._of_thread.atoms

    @atoms.setter
    def atoms(self, atoms: ase.Atoms | None) -> None:
        self._of_thread.atoms = atoms

    @property
    def results(self) -> dict[str, Any]:
        """Results of this thread's last calculation."""
        return self._of_thread.results

    @results.setter
    def results(self, results: dict[str, Any]) -> None:
        self._of_thread.results = results

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the results, which a copy calculates again."""
        return {name: value for name, value in vars(self).items() if name != "_of_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _of_thread=_OfThread())

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, charge and masses included, which ASE itself ignores."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None and self.results and not changes:
            if self._of_thread.charge != total_charge_of(atoms):
                changes.append("initial_charges")
            if not np.array_equal(self.atoms.get_masses(), atoms.get_masses()):
                changes.append("masses")
        return changes

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Calculate everything at once.

        Raises:
            UserError: an element that the model was not trained on, periodic boundaries, positions not finite, atoms
                at one place, a total charge that is no number; strict, and something that no training molecule had; a
                result that is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise UserError("no molecule: give one, calculator.calculate(atoms)")
        (prediction,) = self.predictor.predict([self.atoms], batch_size=1)
        self._of_thread.charge, self._of_thread.prediction = total_charge_of(self.atoms), prediction
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.forces,
            "dipole": prediction.dipole if self.dipole_source == "physnet" else prediction.dipole_dcm,
            "charges": prediction.charges,
            "quadrupole": prediction.quadrupole,
            "quadrupole_dcm": prediction.quadrupole_dcm,
            "outside": list(prediction.outside),
        }
        if deviations := prediction.deviations:
            dipole = deviations.dipole if self.dipole_source == "physnet" else deviations.dipole_dcm
            values = (deviations.energy, deviations.forces, deviations.charges, dipole)
            self.results |= dict(zip(_DEVIATIONS, values, strict=True))

    def export_properties(self) -> Properties:
        """Return the results that ASE knows; the others, such as quadrupoles, it would refuse."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def get_distributed_charges(self, atoms: ase.Atoms | None = None, member: int = 0) -> PointCharges:
        """Return DCMNet's charges (N, n_dcm) in e and their positions (N, n_dcm, 3) in Å.

        Args:
            atoms: a molecule (default: the last one).
            member: that of an ensemble, counted from 0.

        Raises:
            UserError: no such member.
        """
        prediction = self._predicted(atoms)
        members = prediction.members or (prediction,)
        if not 0 <= member < len(members):
            raise UserError(f"member = {member}: of {len(members)}, counted from 0")
        return PointCharges(members[member].dcm_charges, members[member].dcm_sites)

    def get_physnet_dipole(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the dipole (3,) of PhysNet's charges in e·Å, about the centre of mass."""
        return self._predicted(atoms).dipole

    def get_distributed_dipole(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the dipole (3,) of the distributed charges in e·Å, about the centre of mass."""
        return self._predicted(atoms).dipole_dcm

    def get_physnet_quadrupole(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the traceless quadrupole (3, 3) of PhysNet's charges in e·Å², about the centre of mass."""
        return self._predicted(atoms).quadrupole

    def get_distributed_quadrupole(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the traceless quadrupole (3, 3) of the distributed charges in e·Å², about the centre of mass."""
        return self._predicted(atoms).quadrupole_dcm

    def get_potential(self, points: np.ndarray, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the ESP (G,) of the distributed charges in Hartree/e at points (G, 3) in Å.

        Of an ensemble it is the mean over its members' charges.
        """
        return self.predictor.potential(self._predicted(atoms), points)

    def get_potential_std(self, points: np.ndarray, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the standard deviation (G,) of the ESP in Hartree/e among an ensemble's members.

        Raises:
            UserError: a single model.
        """
        return self.predictor.potential_deviation(self._predicted(atoms), points)

    def get_hessian(self, atoms: ase.Atoms) -> np.ndarray:
        """Return the exact second derivatives (3 N, 3 N) of the energy in eV/Å²."""
        return self.predictor.derivatives(atoms).hessian

    def _predicted(self, atoms: ase.Atoms | None) -> MoleculePrediction:
        atoms = atoms if atoms is not None else self.atoms
        if atoms is None:
            raise UserError("no molecule yet: give one as atoms=, or calculate its energy first")
        # Through ASE's own cache, which calculates where the atoms have changed.
        self.get_potential_energy(atoms)
        prediction = self._of_thread.prediction
        assert prediction is not None
        return prediction


class _OfThread(threading.local):
    """Last molecule and its results, of each thread."""

    def __init__(self) -> None:
        self.atoms: ase.Atoms | None = None
        self.results: dict[str, Any] = {}
        self.charge: float | None = None
        self.prediction: MoleculePrediction | None = None


def better_dipole(predictor: Predictor) -> DipoleSource:
    """Return the charges whose dipole has the smaller error on the validation split; PhysNet's if it is not known."""
    errors = predictor.dipole_errors()
    return "dcmnet" if errors is not None and errors[1] < errors[0] else "physnet"

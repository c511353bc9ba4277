"""The trained model as a calculator of ASE: ``JointCalculator("runs/NAME")``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from train.inference.predictor import MoleculePrediction, Precision, Predictor, total_charge_of


class PointCharges(NamedTuple):
    """Distributed charges of a molecule of N atoms."""

    values: np.ndarray  # (N, n_dcm) e
    positions: np.ndarray  # (N, n_dcm, 3) Å


class JointCalculator(Calculator):
    """Calculator for ASE: energy, forces, dipole and charges of PhysNet, and the distributed charges of DCMNet.

    The energy is the total one (eV), reference energies included; forces are exactly its negative gradient; charges
    and dipole (about the centre of mass) are PhysNet's. The total charge of a molecule is ``atoms.info["charge"]``,
    else the sum of its initial charges. It works with all of ASE that takes a calculator: optimizers, Vibrations,
    Infrared, molecular dynamics.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "dipole", "charges"]  # noqa: RUF012 (ASE has it so)

    def __init__(self, run: str | Path, precision: Precision = "float64", pad: bool = True, **parameters: Any) -> None:
        """Load a model.

        Args:
            run: folder of a run (runs/NAME), or a copy of its best/ alone.
            precision: float64 keeps optimizers and finite differences smooth; float32 is faster on a GPU.
            pad: to size classes, so that few shapes are compiled.
            parameters: of ASE's Calculator.

        Raises:
            UserError: there is no model, or it is damaged.
        """
        super().__init__(**parameters)
        self.predictor = Predictor(run, precision, pad)
        self._charge: float | None = None
        self._prediction: MoleculePrediction | None = None

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, ``atoms.info`` included, which ASE itself ignores."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self._charge is not None and self._charge != total_charge_of(atoms) and not changes:
            changes.append("initial_charges")
        return changes

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Calculate everything at once.

        Raises:
            UserError: an element that the model was not trained on, periodic boundaries, or positions not finite.
        """
        super().calculate(atoms, properties, system_changes)
        (prediction,) = self.predictor.predict([self.atoms], batch_size=1)
        self._charge, self._prediction = total_charge_of(self.atoms), prediction
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.forces,
            "dipole": prediction.dipole,
            "charges": prediction.charges,
        }

    def get_distributed_charges(self, atoms: ase.Atoms | None = None) -> PointCharges:
        """Return DCMNet's charges (N, n_dcm) in e and their positions (N, n_dcm, 3) in Å."""
        prediction = self._predicted(atoms)
        return PointCharges(prediction.dcm_charges, prediction.dcm_sites)

    def get_distributed_dipole(self, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the dipole (3,) of the distributed charges in e·Å, about the centre of mass."""
        return self._predicted(atoms).dipole_dcm

    def get_potential(self, points: np.ndarray, atoms: ase.Atoms | None = None) -> np.ndarray:
        """Return the ESP (G,) of the distributed charges in Hartree/e at points (G, 3) in Å."""
        return self.predictor.potential(self._predicted(atoms), points)

    def get_hessian(self, atoms: ase.Atoms) -> np.ndarray:
        """Return the exact second derivatives (3 N, 3 N) of the energy in eV/Å²."""
        return self.predictor.derivatives(atoms).hessian

    def _predicted(self, atoms: ase.Atoms | None) -> MoleculePrediction:
        # Through ASE's own cache, which calculates where the atoms have changed.
        self.get_potential_energy(atoms if atoms is not None else self.atoms)
        assert self._prediction is not None
        return self._prediction

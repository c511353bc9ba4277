"""Errors of predictions for molecules with labels, summed molecule by molecule in float64."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from shared.input.labels import LabelledMolecule
from shared.units import DEBYE_IN_E_ANGSTROM
from train.data.quantities import DIPOLE, DIPOLE_DCM, ENERGY, FORCES, QUADRUPOLE, QUADRUPOLE_DCM, Quantity
from train.inference.molecule_prediction import MoleculePrediction

_ENERGY_PER_ATOM = replace(ENERGY, key="energy_per_atom", label="energy per atom", metric="energy_per_atom_mae_ev")
_QUANTITIES = (ENERGY, _ENERGY_PER_ATOM, FORCES, DIPOLE, DIPOLE_DCM, QUADRUPOLE, QUADRUPOLE_DCM)


class LabelErrors:
    """Mean absolute and root-mean-square errors; vectors count by component, as in ``train.evaluate``."""

    def __init__(self) -> None:
        self._absolute: defaultdict[str, float] = defaultdict(float)
        self._squared: defaultdict[str, float] = defaultdict(float)
        self._values: defaultdict[str, int] = defaultdict(int)
        self._molecules: defaultdict[str, int] = defaultdict(int)
        self._charged_dipoles = 0

    def add(self, molecule: LabelledMolecule, prediction: MoleculePrediction) -> None:
        """Add one molecule, in the quantities that it has labels of."""
        if not np.isnan(molecule.energy):
            error = np.array([prediction.energy - molecule.energy])
            self._add("energy", error)
            self._add("energy_per_atom", error / len(molecule.numbers))
        if molecule.forces is not None:
            self._add("forces", prediction.forces - molecule.forces)
        if molecule.dipole is not None:
            self._charged_dipoles += abs(molecule.charge) > 1e-6
            self._add("dipole", (prediction.dipole - molecule.dipole) / DEBYE_IN_E_ANGSTROM)
            self._add("dipole_dcm", (prediction.dipole_dcm - molecule.dipole) / DEBYE_IN_E_ANGSTROM)
        if molecule.quadrupole is not None:
            self._add("quadrupole", (prediction.quadrupole - molecule.quadrupole) / DEBYE_IN_E_ANGSTROM)
            self._add("quadrupole_dcm", (prediction.quadrupole_dcm - molecule.quadrupole) / DEBYE_IN_E_ANGSTROM)

    def _add(self, target: str, error: np.ndarray) -> None:
        self._absolute[target] += float(np.abs(error).sum())
        self._squared[target] += float((error**2).sum())
        self._values[target] += error.size
        self._molecules[target] += 1

    def metrics(self) -> dict[str, float]:
        """Return every error under a name with its unit; none where no molecule has a label."""
        named = {}
        for one in _QUANTITIES:
            if values := self._values.get(one.key, 0):
                named[one.metric] = self._absolute[one.key] / values
                named[_rmse(one)] = (self._squared[one.key] / values) ** 0.5
        return named

    def molecules(self) -> dict[str, int]:
        """Return how many molecules have a label of each quantity."""
        return {target: self._molecules[target] for target in ("energy", "forces", "dipole", "quadrupole")}

    def describe(self) -> str:
        """Return a table of the errors for the console."""
        metrics = self.metrics()
        if not metrics:
            return "no labels in the data, so no errors"
        lines = [f"{'errors':<42}{'MAE':>10}{'RMSE':>10}"]
        for one in _QUANTITIES:
            if one.key in self._values:
                mae, rmse = (metrics[name] * one.error_factor for name in (one.metric, _rmse(one)))
                count = self._molecules[one.key]
                lines.append(f"  {one.label:<40}{mae:>10.4g}{rmse:>10.4g} {one.error_unit:<6} {count:>9,} molecules")
        if self._charged_dipoles:
            lines.append(
                f"  {self._charged_dipoles:,} dipoles are of ions, whose dipole depends on the origin: "
                "taken to be about the centre of mass"
            )
        return "\n".join(lines)


def _rmse(quantity: Quantity) -> str:
    return quantity.metric.replace("_mae_", "_rmse_")

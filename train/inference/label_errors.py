"""Errors of predictions where the molecules have labels, summed up molecule by molecule in float64."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from shared.input.labels import LabelledMolecule
from shared.units import DEBYE_IN_E_ANGSTROM
from train.inference.predictor import MoleculePrediction

_NAMES = {
    "energy": ("energy_{}_ev", "energy", 1000.0, "meV"),
    "energy_per_atom": ("energy_per_atom_{}_ev", "energy per atom", 1000.0, "meV"),
    "forces": ("forces_{}_ev_per_angstrom", "forces", 1000.0, "meV/Å"),
    "dipole": ("dipole_{}_debye", "dipole of PhysNet's charges", 1.0, "D"),
    "dipole_dcm": ("dipole_dcm_{}_debye", "dipole of the distributed charges", 1.0, "D"),
}
"""Target: metric, label, factor to the unit that is shown, that unit."""


class LabelErrors:
    """Mean absolute and root-mean-square errors; vectors count by component, as in ``train.evaluate``."""

    def __init__(self) -> None:
        self._absolute: defaultdict[str, float] = defaultdict(float)
        self._squared: defaultdict[str, float] = defaultdict(float)
        self._values: defaultdict[str, int] = defaultdict(int)
        self._molecules: defaultdict[str, int] = defaultdict(int)
        self._charged_dipoles = 0

    def add(self, molecule: LabelledMolecule, prediction: MoleculePrediction) -> None:
        """Count one molecule, in the quantities that it has labels of."""
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

    def _add(self, target: str, error: np.ndarray) -> None:
        self._absolute[target] += float(np.abs(error).sum())
        self._squared[target] += float((error**2).sum())
        self._values[target] += error.size
        self._molecules[target] += 1

    def metrics(self) -> dict[str, float]:
        """Every error under a name with its unit; none where no molecule has a label."""
        named = {}
        for target, values in self._values.items():
            name = _NAMES[target][0]
            named[name.format("mae")] = self._absolute[target] / values
            named[name.format("rmse")] = (self._squared[target] / values) ** 0.5
        return named

    def molecules(self) -> dict[str, int]:
        """How many molecules have a label of each quantity."""
        return {target: self._molecules[target] for target in ("energy", "forces", "dipole")}

    def describe(self) -> str:
        """A table for people."""
        metrics = self.metrics()
        if not metrics:
            return "no labels in the data, so no errors"
        lines = [f"{'errors':<42}{'MAE':>10}{'RMSE':>10}"]
        for target, (name, label, factor, unit) in _NAMES.items():
            if target in self._values:
                mae, rmse = (metrics[name.format(kind)] * factor for kind in ("mae", "rmse"))
                count = self._molecules[target]
                lines.append(f"  {label:<40}{mae:>10.4g}{rmse:>10.4g} {unit:<6} {count:>9,} molecules")
        if self._charged_dipoles:
            lines.append(
                f"  {self._charged_dipoles:,} dipoles are of ions, whose dipole depends on the origin: "
                "taken to be about the centre of mass"
            )
        return "\n".join(lines)

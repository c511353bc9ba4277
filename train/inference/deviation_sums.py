"""Deviations among the members of an ensemble over many molecules, to be compared with the errors."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from shared.units import DEBYE_IN_E_ANGSTROM
from train.data.quantities import DIPOLE, DIPOLE_DCM, ENERGY, FORCES
from train.inference.molecule_prediction import MoleculePrediction

_QUANTITIES = (ENERGY, FORCES, DIPOLE, DIPOLE_DCM)


class DeviationSums:
    """Root mean squares, which stand beside the errors of the same kind, and largest values; vectors by component."""

    def __init__(self) -> None:
        self._squared: defaultdict[str, float] = defaultdict(float)
        self._largest: defaultdict[str, float] = defaultdict(float)
        self._values: defaultdict[str, int] = defaultdict(int)

    def add(self, prediction: MoleculePrediction) -> None:
        """Add one molecule; nothing for a single model."""
        if deviations := prediction.deviations:
            self._add("energy", np.array([deviations.energy]))
            self._add("forces", deviations.forces)
            self._add("dipole", deviations.dipole / DEBYE_IN_E_ANGSTROM)
            self._add("dipole_dcm", deviations.dipole_dcm / DEBYE_IN_E_ANGSTROM)

    def _add(self, target: str, deviation: np.ndarray) -> None:
        self._squared[target] += float((deviation**2).sum())
        self._largest[target] = max(self._largest[target], float(deviation.max()))
        self._values[target] += deviation.size

    def metrics(self) -> dict[str, float]:
        """Return both of each quantity under a name with its unit."""
        named = {}
        for one in _QUANTITIES:
            if values := self._values.get(one.key, 0):
                named[one.metric.replace("_mae_", "_std_rms_")] = (self._squared[one.key] / values) ** 0.5
                named[one.metric.replace("_mae_", "_std_max_")] = self._largest[one.key]
        return named

    def describe(self, members: int) -> str:
        """Return a table for the console."""
        metrics = self.metrics()
        lines = [f"{f'deviations among {members} members':<42}{'RMS':>10}{'largest':>10}"]
        for one in _QUANTITIES:
            if one.key in self._values:
                names = (one.metric.replace("_mae_", f"_std_{kind}_") for kind in ("rms", "max"))
                rms, largest = (metrics[name] * one.error_factor for name in names)
                lines.append(f"  {one.label:<40}{rms:>10.4g}{largest:>10.4g} {one.error_unit}")
        return "\n".join(lines)

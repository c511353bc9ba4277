"""The quantities that are predicted and compared: their names, units and errors in tables, pictures and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.units import DEBYE_IN_E_ANGSTROM, HARTREE_IN_KCAL_PER_MOL


@dataclass(frozen=True)
class Quantity:
    """A predicted quantity, and its error over a split."""

    key: str
    """Name in predictions: ``forces``."""

    label: str
    """Name in tables and pictures."""

    unit: str
    """Unit in which values are shown."""

    factor: float
    """Factor from the project's unit to ``unit``."""

    error: str
    """Kind of error: MAE or RMSE."""

    metric: str
    """Name of the error in metrics.jsonl and evaluation-SPLIT.json, with its unit."""

    error_unit: str
    """Unit in which the error is shown."""

    error_factor: float
    """Factor from the metric's unit to ``error_unit``."""

    @property
    def error_label(self) -> str:
        """Name of the error in tables: ``forces, MAE``."""
        return f"{self.label}, {self.error}"

    @property
    def error_axis(self) -> str:
        """Name of an axis of errors: ``MAE, meV/Å``."""
        return f"{self.error}, {self.error_unit}"

    def error_in(self, metrics: Mapping[str, float]) -> float | None:
        """Return the error among some metrics in ``error_unit``; None where it is not among them."""
        return metrics[self.metric] * self.error_factor if self.metric in metrics else None


_DEBYE = ("D", 1.0 / DEBYE_IN_E_ANGSTROM)
_KCAL = ("kcal/mol/e", HARTREE_IN_KCAL_PER_MOL)

ENERGY = Quantity("energy", "energy", "eV", 1.0, "MAE", "energy_mae_ev", "meV", 1000.0)
FORCES = Quantity("forces", "forces", "eV/Å", 1.0, "MAE", "forces_mae_ev_per_angstrom", "meV/Å", 1000.0)
DIPOLE = Quantity("dipole", "dipole of PhysNet's charges", *_DEBYE, "MAE", "dipole_mae_debye", "D", 1.0)
DIPOLE_DCM = Quantity(
    "dipole_dcm", "dipole of the distributed charges", *_DEBYE, "MAE", "dipole_dcm_mae_debye", "D", 1.0
)
_DEBYE_ANGSTROM = ("D·Å", 1.0 / DEBYE_IN_E_ANGSTROM)
QUADRUPOLE = Quantity(
    *("quadrupole", "quadrupole of PhysNet's charges", *_DEBYE_ANGSTROM, "MAE"),
    *("quadrupole_mae_debye_angstrom", "D·Å", 1.0),
)
QUADRUPOLE_DCM = Quantity(
    *("quadrupole_dcm", "quadrupole of distributed charges", *_DEBYE_ANGSTROM, "MAE"),
    *("quadrupole_dcm_mae_debye_angstrom", "D·Å", 1.0),
)
ESP = Quantity("esp", "ESP of the distributed charges", *_KCAL, "RMSE", "esp_rmse_kcal_per_mol_e", "kcal/mol/e", 1.0)
ESP_PHYSNET = Quantity(
    *("esp_point_charges", "ESP of PhysNet's charges", *_KCAL, "RMSE"),
    *("esp_rmse_point_charges_kcal_per_mol_e", "kcal/mol/e", 1.0),
)
MONOPOLE = Quantity("monopole", "monopole difference", "e", 1.0, "MAE", "monopole_mae_e", "e", 1.0)
CHARGE_SUM = Quantity("charge_sum", "sum of the uncorrected charges", "e", 1.0, "MAE", "charge_sum_mae_e", "e", 1.0)

QUANTITIES = (ENERGY, FORCES, DIPOLE, DIPOLE_DCM, QUADRUPOLE, QUADRUPOLE_DCM, ESP, ESP_PHYSNET, MONOPOLE, CHARGE_SUM)
"""All quantities, in the order in which they are shown."""

RARE = (QUADRUPOLE, QUADRUPOLE_DCM)
"""Quantities of which most data hold no references: without any, tables leave them out."""

TARGETS = (ENERGY, FORCES, DIPOLE, DIPOLE_DCM, ESP)
"""Quantities with references in most data."""

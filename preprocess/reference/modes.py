"""Relaxation of molecules, and their harmonic modes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase import units as ase_units
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS

from preprocess.reference.method import Level
from preprocess.reference.molecules import Molecule
from preprocess.reference.single_point import LeftOut, converge, forces
from shared import units
from shared.normal_modes import normal_modes

_LARGEST_FORCE = 1e-3
"""Largest force of a relaxed geometry, eV/Å."""

_LARGEST_STEPS = 300


class Modes(NamedTuple):
    """Vibrations of a molecule of n atoms about its relaxed geometry."""

    positions: np.ndarray  # (n, 3), Å, relaxed
    vectors: np.ndarray  # (modes, n, 3), u^-1/2: displacement in Å for one Å·u^1/2 along the mode
    quanta: np.ndarray  # (modes,), ħω in eV, ascending

    @property
    def wavenumbers(self) -> np.ndarray:
        """Return the wavenumbers (modes,) in 1/cm."""
        return self.quanta / ase_units.invcm


def find_modes(molecule: Molecule, level: Level) -> Modes:
    """Relax a molecule and find its modes.

    Raises:
        LeftOut: it does not relax, or to a saddle point, or PySCF has no second derivatives for it.
    """
    relaxed = molecule.at(relax(molecule, level))
    derivatives = converge(relaxed, level).Hessian()
    if level.density_fit:
        # The fitting functions move with the atoms; before version 2.13 PySCF neglects the second order of it.
        derivatives.auxbasis_response = 2
    try:
        hessian = np.asarray(derivatives.kernel())  # (n, n, 3, 3), Hartree/Bohr²
    # Of one electron, or of several that have one spin; and, before version 2.14, of open shells at a pure functional
    # that are fitted.
    except (ValueError, UnboundLocalError) as error:
        raise LeftOut("PySCF finds no second derivatives of its energy; take --sampling displacement") from error
    hessian = hessian.transpose(0, 2, 1, 3).reshape(3 * len(molecule), 3 * len(molecule))
    return harmonic_modes(relaxed, hessian * units.CODATA_2018_HARTREE_IN_EV / units.BOHR_IN_ANGSTROM**2)


def relax(molecule: Molecule, level: Level) -> np.ndarray:
    """Return the relaxed positions (n, 3) in Å, at which no force is above 1e-3 eV/Å.

    Raises:
        LeftOut: they are not found.
    """
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions, calculator=_Forces(molecule, level))
    if not BFGS(atoms, logfile=None).run(fmax=_LARGEST_FORCE, steps=_LARGEST_STEPS):
        raise LeftOut(f"does not relax to {_LARGEST_FORCE:g} eV/Å in {_LARGEST_STEPS} steps")
    return atoms.get_positions()


def harmonic_modes(molecule: Molecule, hessian: np.ndarray) -> Modes:
    """Return the modes of a Hessian, (3n, 3n) in eV/Å², of a relaxed geometry.

    Raises:
        LeftOut: the geometry is a saddle point.
    """
    modes = normal_modes(molecule.positions, molecule.masses, hessian)
    if len(modes.quanta) and modes.quanta[0] <= 0.0:
        raise LeftOut(
            f"relaxes to a saddle point (a mode of {-modes.wavenumbers[0]:.0f}i/cm); begin with a less symmetric "
            "geometry, or take --sampling displacement"
        )
    return Modes(molecule.positions, modes.displacements, modes.quanta)


class _Forces(Calculator):
    """A calculator of energies and forces for ASE's optimisers."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  # so declared in ASE

    def __init__(self, molecule: Molecule, level: Level) -> None:
        super().__init__()
        self._molecule, self._level = molecule, level

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        field = converge(self._molecule.at(self.atoms.get_positions()), self._level)
        self.results = {"energy": float(field.e_tot) * units.CODATA_2018_HARTREE_IN_EV, "forces": forces(field)}

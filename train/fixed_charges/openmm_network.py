"""The trained network in OpenMM: energy and forces of one molecule, as a PythonForce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ase
import numpy as np

from shared.errors import UserError
from shared.units import KJ_PER_MOL_IN_EV
from train.fixed_charges.topology import ANGSTROM_IN_NM
from train.inference.predictor import Predictor

if TYPE_CHECKING:
    import openmm


def network_force(predictor: Predictor, atoms: ase.Atoms, particles: Sequence[int]) -> openmm.PythonForce:
    """Return a force of OpenMM that is the network's, on one molecule of a system.

    Its energy is that of the whole molecule (kJ/mol, reference energies included), so nothing else may act between
    these atoms: no bonded terms, constraints or unexcluded pairs. Between molecules it does not act.

    Args:
        predictor: the model; in "float64" energies are conserved best.
        atoms: the molecule of N atoms, with its total charge; positions are those of the simulation, where it is whole.
        particles: the N particles of its atoms, in the same order; sites of charges are not among them.

    Raises:
        UserError: OpenMM is not installed or too old, or the numbers of atoms and particles differ.
    """
    try:
        from openmm import PythonForce

        set_particles = PythonForce.setParticles
    except (ImportError, AttributeError) as error:
        raise UserError('OpenMM 8.6 or later is needed: pip install -e ".[openmm]"') from error
    if len(particles) != len(atoms):
        raise UserError(f"{len(particles)} particles for a molecule of {len(atoms)} atoms")

    def compute(state: openmm.State) -> tuple[float, np.ndarray]:
        moved = atoms.copy()
        moved.positions = state.getPositions(asNumpy=True)._value / ANGSTROM_IN_NM
        (prediction,) = predictor.predict([moved], batch_size=1)
        per_nm = KJ_PER_MOL_IN_EV * ANGSTROM_IN_NM
        return prediction.energy / KJ_PER_MOL_IN_EV, prediction.forces / per_nm

    force = PythonForce(compute)
    force.setName("network")
    set_particles(force, list(map(int, particles)))
    return force

"""Predictions of molecules as frames of extended XYZ, beside the labels that their file had."""

from __future__ import annotations

import ase
import numpy as np

from shared.input.labels import LabelledMolecule
from shared.text import escaped
from train.inference.molecule_prediction import MoleculePrediction

UNITS = (
    "positions Angstrom, energy eV, forces eV/Angstrom, charges e, dipoles e*Angstrom and traceless quadrupoles "
    "e*Angstrom^2 about the centre of mass (dipole, quadrupole: of charges; dipole_dcm, quadrupole_dcm: of dcm_charges "
    "at dcm_sites)"
)

_UNITS_OF_ENSEMBLE = f"{UNITS}; means over the members, _std standard deviations, dcm_charges of the first member alone"

OF_MOLECULE = (
    *("energy", "dipole", "dipole_dcm", "quadrupole", "quadrupole_dcm", "charge", "name", "units"),
    *("energy_std", "dipole_std", "dipole_dcm_std", "outside"),
    *("REF_energy", "REF_dipole", "REF_quadrupole"),
)
OF_ATOMS = ("forces", "charges", "dcm_charges", "dcm_sites", "forces_std", "charges_std", "REF_forces")
"""Names that a frame may have; others of the input's are kept beside them."""


def as_atoms(molecule: LabelledMolecule) -> ase.Atoms:
    """Return the molecule as the predictor takes it."""
    atoms = ase.Atoms(molecule.numbers, molecule.positions)
    atoms.info["charge"] = molecule.charge
    if molecule.masses is not None:
        atoms.set_masses(molecule.masses)
    return atoms


def predicted_frame(molecule: LabelledMolecule, prediction: MoleculePrediction) -> ase.Atoms:
    """Return the N atoms of a molecule with its predictions, so that ASE reads the frame back as this molecule.

    Per molecule: ``energy``, ``dipole`` and ``quadrupole`` (of PhysNet's charges), ``dipole_dcm`` and
    ``quadrupole_dcm`` (of the distributed ones), the total ``charge``. Per atom: ``forces``, ``charges`` (PhysNet's),
    ``dcm_charges`` (n_dcm) and their positions ``dcm_sites`` (3 n_dcm: x, y, z of the first, then of the second ...).
    Of an ensemble, these are means over its members, ``energy_std``, ``forces_std`` and so on the deviations among
    them, and the distributed charges those of the first alone. ``outside`` is what no training molecule had. Labels are
    ``REF_energy``, ``REF_forces``, ``REF_dipole``, ``REF_quadrupole``.
    """
    atoms = as_atoms(molecule)
    n = len(atoms)
    known = {*OF_MOLECULE, *OF_ATOMS}
    atoms.info = {key: value for key, value in molecule.info.items() if key not in known}
    atoms.info |= {"name": molecule.name} if molecule.name else {}
    # A line feed would end the frame's line.
    atoms.info = {key: escaped(value) if isinstance(value, str) else value for key, value in atoms.info.items()}
    units = _UNITS_OF_ENSEMBLE if prediction.deviations else UNITS
    atoms.info |= {"charge": molecule.charge, "energy": prediction.energy, "units": units}
    atoms.info |= {"dipole": prediction.dipole, "dipole_dcm": prediction.dipole_dcm}
    atoms.info |= {"quadrupole": prediction.quadrupole, "quadrupole_dcm": prediction.quadrupole_dcm}
    arrays = {
        "forces": prediction.forces,
        "charges": prediction.charges,
        "dcm_charges": prediction.dcm_charges,
        "dcm_sites": prediction.dcm_sites.reshape(n, -1),
    }
    if deviations := prediction.deviations:
        atoms.info |= {"energy_std": deviations.energy, "dipole_std": deviations.dipole}
        atoms.info["dipole_dcm_std"] = deviations.dipole_dcm
        arrays |= {"forces_std": deviations.forces, "charges_std": deviations.charges}
    if prediction.outside:
        atoms.info["outside"] = "; ".join(prediction.outside)
    if not np.isnan(molecule.energy):
        atoms.info["REF_energy"] = molecule.energy
    if molecule.dipole is not None:
        atoms.info["REF_dipole"] = molecule.dipole
    if molecule.quadrupole is not None:
        atoms.info["REF_quadrupole"] = molecule.quadrupole
    if molecule.forces is not None:
        arrays["REF_forces"] = molecule.forces
    atoms.arrays |= arrays
    return atoms

"""Files of a charge model for simulation programs, as many as can be written."""

from __future__ import annotations

from pathlib import Path

from shared.errors import UserError
from shared.log import log
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.charmm_files import charmm_dcm, charmm_kernel, charmm_rtf, kernel_departure
from train.fixed_charges.gromacs_files import gromacs_itp
from train.fixed_charges.openmm_files import molecule_pdb, openmm_xml
from train.fixed_charges.parameters import Bonded, read_bonded, read_lennard_jones
from train.fixed_charges.topology import rigid_constraints


def simulation_files(
    model: ChargeModel,
    residue: str,
    lennard_jones: str | Path | None = None,
    bonded: str | Path | None = None,
) -> dict[str, str]:
    """Return the texts of the files for OpenMM, GROMACS and CHARMM by name.

    Args:
        model: of a molecule.
        residue: name of its residue, at most eight letters and digits.
        lennard_jones: file of its Lennard-Jones parameters; None for zero.
        bonded: file of its harmonic bonds and angles; None for constraints, if they keep the molecule rigid, else
            nothing.

    Raises:
        UserError: one of the two files cannot be used.
    """
    parameters = read_lennard_jones(lennard_jones, model, residue) if lennard_jones is not None else None
    terms: Bonded = None
    if bonded is not None:
        terms = read_bonded(bonded, model)
    elif rigid_constraints(model) is not None:
        terms = "rigid"
    texts = {
        "openmm.xml": openmm_xml(model, residue, parameters, terms),
        "molecule.pdb": molecule_pdb(model, residue),
        "gromacs.itp": gromacs_itp(model, residue, parameters, terms),
    }
    try:
        texts |= {"charmm.dcm": charmm_dcm(model, residue), "charmm.rtf": charmm_rtf(model, residue)}
        if model.kernel is not None:
            texts |= charmm_kernel(model)
            departure = kernel_departure(model)
            log.info(f"note: CHARMM's kernel has the charges within {departure:.1g} Å of the model's")
    except UserError as error:
        log.info(f"note: no files for CHARMM: {error}")
    return texts

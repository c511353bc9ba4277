"""Files of a charge model for simulation programs, as many as can be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.log import log
from train.fixed_charges import charmm_files, gromacs_files, openmm_files
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.parameters import Bonded, LennardJones, read_bonded, read_lennard_jones
from train.fixed_charges.topology import rigid_constraints


def read_parameters(
    model: ChargeModel, residue: str, lennard_jones: str | Path | None = None, bonded: str | Path | None = None
) -> tuple[LennardJones | None, Bonded]:
    """Return the parameters in two files, None of one that is not given.

    Raises:
        UserError: one of them cannot be used.
    """
    return (
        read_lennard_jones(lennard_jones, model, residue) if lennard_jones is not None else None,
        read_bonded(bonded, model) if bonded is not None else None,
    )


def kernel_files(model: ChargeModel, residue: str) -> dict[str, str]:
    """Return the texts of the files of a model with a kernel, for CHARMM alone, by name."""
    charges = {
        "charmm.dcm": charmm_files.charmm_dcm(model, residue),
        "charmm.rtf": charmm_files.charmm_rtf(model, residue),
    }
    return charges | charmm_files.charmm_kernel(model)


def simulation_files(
    model: ChargeModel,
    residue: str,
    lennard_jones: LennardJones | None = None,
    bonded: Bonded = None,
    geometries: np.ndarray | None = None,
) -> dict[str, str]:
    """Return the texts of the files for OpenMM, GROMACS and CHARMM by name.

    Args:
        model: of a molecule of N atoms.
        residue: name of its residue, at most eight letters and digits.
        lennard_jones: its Lennard-Jones parameters; None for zero.
        bonded: its harmonic bonds and angles; None for constraints, if they keep the molecule rigid, else nothing.
        geometries: (G, N, 3) in Å, at which the charges of the files are compared with those of the model, which is
            logged; None for those of the model's kernel.
    """
    terms: Bonded = "rigid" if bonded is None and rigid_constraints(model) is not None else bonded
    texts = {
        "openmm.xml": openmm_files.openmm_xml(model, residue, lennard_jones, terms),
        "molecule.pdb": openmm_files.molecule_pdb(model, residue),
        "gromacs.itp": gromacs_files.gromacs_itp(model, residue, lennard_jones, terms),
        "charmm.dcm": charmm_files.charmm_dcm(model, residue),
        "charmm.rtf": charmm_files.charmm_rtf(model, residue),
    }
    if model.kernel is not None:
        texts |= charmm_files.charmm_kernel(model)
        geometries = charmm_files.kernel_geometries(model) if geometries is None else geometries
    if geometries is not None:
        departures = [
            f"{program.largest_departure(model, geometries):.2g} Å in {name}"
            for program, name in ((openmm_files, "OpenMM"), (gromacs_files, "GROMACS"), (charmm_files, "CHARMM"))
        ]
        log.info(f"note: at {len(geometries)} geometries a charge leaves its place by at most {', '.join(departures)}")
    return texts

"""Files of a charge model for simulation programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    """Return the texts of the files of a model with a kernel, for CHARMM alone, by name.

    Raises:
        UserError: it has none.
    """
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
) -> dict[str, str]:
    """Return the texts of the files for OpenMM, GROMACS and CHARMM by name, without a kernel's (:func:`kernel_files`).

    Args:
        model: of the molecule.
        residue: name of its residue, at most eight letters and digits.
        lennard_jones: its Lennard-Jones parameters; None for zero.
        bonded: its harmonic bonds and angles; None for constraints, if they keep the molecule rigid, else nothing.
    """
    terms: Bonded = "rigid" if bonded is None and rigid_constraints(model) is not None else bonded
    return {
        "openmm.xml": openmm_files.openmm_xml(model, residue, lennard_jones, terms),
        "molecule.pdb": openmm_files.molecule_pdb(model, residue),
        "gromacs.itp": gromacs_files.gromacs_itp(model, residue, lennard_jones, terms),
        "charmm.dcm": charmm_files.charmm_dcm(model, residue),
        "charmm.rtf": charmm_files.charmm_rtf(model, residue),
    }


def describe_departures(model: ChargeModel, kernel_model: ChargeModel | None, geometries: np.ndarray) -> str:
    """Return how far the charges of the files are from those of their models at most, at geometries (G, N, 3) in Å."""
    files = [
        (openmm_files.largest_departure, model, "OpenMM"),
        (gromacs_files.largest_departure, model, "GROMACS"),
        (charmm_files.largest_departure, model, "CHARMM"),
        (charmm_files.largest_departure, kernel_model, "CHARMM's kernel"),
    ]
    found = [(measure(of, geometries), name) for measure, of, name in files if of is not None]
    departures = [f"{round(distance, 6):.2g} Å in {name}" for distance, name in found]
    return f"note: at {len(geometries)} geometries a charge leaves its place by at most {', '.join(departures)}"

"""Calculation of one geometry by PySCF: energy, forces, dipole, quadrupole and electrostatic potential."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pyscf import dft, gto, scf
from pyscf.scf import hf

from preprocess.reference.method import Level, core_potentials, without_advice
from preprocess.reference.molecules import Molecule
from shared import units
from shared.elements import centers_of_mass, symbol
from shared.multipoles import traceless

_BLOCK_BYTES = 64 << 20
"""Bytes of the integrals of the potential held at a time."""

FORCE_UNIT = units.CODATA_2018_HARTREE_IN_EV / units.BOHR_IN_ANGSTROM
"""One Hartree/Bohr in eV/Å."""


class LeftOut(Exception):
    """A geometry cannot be computed; the message says why."""


class Reference(NamedTuple):
    """The results for one geometry."""

    energy: float  # eV, total
    forces: np.ndarray  # (atoms, 3), eV/Å
    dipole: np.ndarray  # (3,), Debye; about the origin, of ions about the centre of mass
    quadrupole: np.ndarray  # (3, 3), e·Å², traceless; about the centre of mass
    esp: np.ndarray  # (points,), Hartree/e


def compute(molecule: Molecule, level: Level, grid: np.ndarray) -> Reference:
    """Compute energy, forces, moments and the potential at ``grid``, (points, 3) in Å.

    Raises:
        LeftOut: the SCF does not converge.
    """
    field = converge(molecule, level)
    density = np.asarray(field.make_rdm1())
    density = density.sum(axis=0) if density.ndim == 3 else density
    return Reference(
        energy=float(field.e_tot) * units.CODATA_2018_HARTREE_IN_EV,
        forces=forces(field),
        dipole=_dipole(molecule, field.mol, density),
        quadrupole=_quadrupole(molecule, field.mol, density),
        esp=potential(field.mol, density, grid / units.BOHR_IN_ANGSTROM),
    )


def converge(molecule: Molecule, level: Level) -> Any:
    """Return PySCF's converged mean field of the molecule.

    Raises:
        LeftOut: it does not converge.
    """
    symbols = [symbol(number) for number in molecule.atomic_numbers]
    mol = gto.M(
        atom=list(zip(symbols, molecule.positions / units.BOHR_IN_ANGSTROM, strict=True)),
        unit="Bohr",
        charge=molecule.charge,
        spin=molecule.multiplicity - 1,
        basis=level.basis,
        ecp=core_potentials(level.basis, symbols),
        max_memory=level.memory_mib,
        verbose=0,
    )
    restricted = molecule.multiplicity == 1
    if level.method == "hf":
        field = (scf.RHF if restricted else scf.UHF)(mol)
    else:
        field = (dft.RKS if restricted else dft.UKS)(mol, xc=level.method)
        field.grids.level = level.xc_grid_level
    if level.density_fit:
        field = field.density_fit()
    field.conv_tol, field.max_cycle, field.chkfile = level.conv_tol, level.max_cycles, None
    with without_advice():  # on fitting bases
        field.kernel()
    if not field.converged:
        raise LeftOut(f"the SCF does not converge to {level.conv_tol:g} Hartree in {level.max_cycles} cycles")
    return field


def forces(field: Any) -> np.ndarray:
    """Return minus the gradient of the energy, (atoms, 3) in eV/Å."""
    gradients = field.nuc_grad_method()
    if isinstance(field, dft.rks.KohnShamDFT):
        # The points of the functional's grid move with the atoms: without their share the forces are not the gradient
        # of the energy, and do not add up to zero, by 1e-4 to 1e-2 eV/Å.
        gradients.grid_response = True
    return -np.asarray(gradients.kernel()) * FORCE_UNIT


def potential(mol: Any, density: np.ndarray, points_bohr: np.ndarray) -> np.ndarray:
    """Return the electrostatic potential of the nuclei and of an electron density.

    Args:
        mol: PySCF's molecule, with a orbitals.
        density: (a, a), density matrix of all electrons.
        points_bohr: (points, 3) in Bohr.

    Returns:
        (points,) in Hartree/e.
    """
    distances = np.linalg.norm(points_bohr[:, None] - mol.atom_coords(), axis=-1)
    nuclei = (mol.atom_charges() / distances).sum(axis=1)
    step = max(1, _BLOCK_BYTES // (8 * density.size))
    electrons = [
        np.einsum("pij,ij->p", mol.intor("int1e_grids", hermi=1, grids=points_bohr[start : start + step]), density)
        for start in range(0, len(points_bohr), step)
    ]
    return nuclei - np.concatenate([*electrons, np.zeros(0)])


def _dipole(molecule: Molecule, mol: Any, density: np.ndarray) -> np.ndarray:
    """Return the dipole (3,) in Debye about the origin; for ions, where that matters, about the centre of mass."""
    origin = _center_bohr(molecule) if molecule.charge else np.zeros(3)
    moment = hf.dip_moment(mol, density, unit="au", origin=origin, verbose=0)
    return np.asarray(moment) * units.E_BOHR_IN_E_ANGSTROM / units.DEBYE_IN_E_ANGSTROM


def _quadrupole(molecule: Molecule, mol: Any, density: np.ndarray) -> np.ndarray:
    """Return the quadrupole ½ Σ q (3 x xᵀ - |x|² 1), (3, 3) in e·Å², about the centre of mass."""
    moment = hf.quad_moment(mol, density, unit="au", origin=_center_bohr(molecule), verbose=0)
    return traceless(moment) * units.BOHR_IN_ANGSTROM**2


def _center_bohr(molecule: Molecule) -> np.ndarray:
    """Return the centre of mass (3,) in Bohr, of the elements' masses: files in the input format state no others."""
    return centers_of_mass(molecule.positions[None], molecule.atomic_numbers[None])[0] / units.BOHR_IN_ANGSTROM

"""A charge model for GROMACS: an include topology (.itp) of one molecule type.

Charges in frames of two atoms are virtual sites 2fd (since GROMACS 2020), at a fixed distance on the line of a and b.
Charges in frames of three atoms are sites 3out, r_a + α r_ab + β r_ac + γ r_ab × r_ac: in a fixed local frame at the
reference geometry only (:func:`largest_departure`). All pairs of particles of one molecule are excluded.
"""

from __future__ import annotations

import numpy as np

from shared.elements import MASSES
from train.fixed_charges.charge_model import ChargeModel, frame_axes
from train.fixed_charges.parameters import Bonded, BondedTerms, LennardJones, no_lennard_jones
from train.fixed_charges.topology import (
    ANGSTROM_IN_NM,
    atom_names,
    nuclear_charges,
    required_constraints,
    site_names,
    without_kernel,
)


def gromacs_itp(
    model: ChargeModel, residue: str, lennard_jones: LennardJones | None = None, bonded: Bonded = None
) -> str:
    """Return a molecule type with its atom types, to be included after ``[ defaults ]`` and before other molecules.

    Args:
        model: a kernel's shifts are left out: its sites are those of the reference geometry.
        residue: name of the residue and of the molecule type.
        lennard_jones: of the atoms; None for zero. Sigma and epsilon, as of combination rules 2 and 3.
        bonded: what holds the atoms together.

    Raises:
        UserError: constraints of bonds and angles do not make this molecule rigid.
    """
    model = without_kernel(model)
    atoms, sites = atom_names(model), site_names(model)
    masses = MASSES[model.atomic_numbers]
    sigma, epsilon, *_ = lennard_jones or no_lennard_jones(model)
    types = [f"{residue}_{name}" for name in atoms]
    lines = ["[ atomtypes ]", "; name  at.num  mass  charge  ptype  sigma(nm)  epsilon(kJ/mol)"]
    for kind, number, mass, length, depth in zip(types, model.atomic_numbers, masses, sigma, epsilon, strict=True):
        lines.append(f"{kind:12} {number:4d} {mass:10.5f}  0.0  A  {length:.10g}  {depth:.10g}")
    lines.append(f"{f'{residue}_X':12}    0    0.00000  0.0  V  1  0")
    lines += ["", "[ moleculetype ]", "; name  nrexcl", f"{residue}  3", ""]
    lines += ["[ atoms ]", "; nr  type  resnr  residue  atom  cgnr  charge(e)  mass"]
    particles = [*zip(types, atoms, nuclear_charges(model), masses, strict=True)]
    particles += [(f"{residue}_X", name, model.charges[k], 0.0) for k, name in sites.items()]
    for number, (kind, name, charge, mass) in enumerate(particles, start=1):
        lines.append(f"{number:5d} {kind:12} 1 {residue:8} {name:6} {number:5d} {charge:15.10f} {mass:10.5f}")
    lines += _bonded_lines(model, residue, bonded)
    two = [(number, k) for number, k in enumerate(sites, start=len(atoms) + 1) if len(model.frames[k]) == 2]
    if two:
        lines += ["", "[ virtual_sites2 ]", "; site  a  b  2fd  distance(nm)"]
        for number, k in two:
            lines.append(f"{number:5d} {_numbers(model, k)} 2 {model.local[k, 0] * ANGSTROM_IN_NM:16.12f}")
    three = [(number, k) for number, k in enumerate(sites, start=len(atoms) + 1) if len(model.frames[k]) == 3]
    if three:
        lines += ["", "[ virtual_sites3 ]", "; site  a  b  c  3out  alpha  beta  gamma(1/nm)"]
        for number, k in three:
            alpha, beta, gamma = coefficients_3out(model, k)
            gamma /= ANGSTROM_IN_NM
            lines.append(f"{number:5d} {_numbers(model, k)} 4 {alpha:18.12f} {beta:18.12f} {gamma:18.12f}")
    if len(particles) > 1:
        lines += ["", "[ exclusions ]", "; all pairs of the molecule"]
        everything = range(1, len(particles) + 1)
        lines += [" ".join(map(str, [first, *everything[first:]])) for first in everything[:-1]]
    return "\n".join(lines) + "\n"


def coefficients_3out(model: ChargeModel, k: int) -> np.ndarray:
    """Return α, β (no unit) and γ (1/Å) of a charge in a frame of three atoms, at the reference geometry."""
    a, b, c = model.positions[list(model.frames[k])]
    columns = np.stack([b - a, c - a, np.cross(b - a, c - a)], axis=1)
    return np.linalg.solve(columns, model.local[k] @ frame_axes(model.positions, model.frames[k]))


def largest_departure(model: ChargeModel, geometries: np.ndarray) -> float:
    """Return how far (Å) a site of the file is from that of the model at most, at geometries (G, N, 3) in Å."""
    file_model = without_kernel(model)
    sites = model.sites(geometries)
    largest = 0.0
    for k, frame in enumerate(model.frames):
        if len(frame) == 3:
            alpha, beta, gamma = coefficients_3out(file_model, k)
            a, b, c = (geometries[..., atom, :] for atom in frame)
            own = a + alpha * (b - a) + beta * (c - a) + gamma * np.cross(b - a, c - a)
        else:
            axes = frame_axes(geometries, frame)
            own = geometries[..., frame[0], :] + np.einsum("i,...ix->...x", file_model.local[k], axes)
        largest = max(largest, float(np.linalg.norm(own - sites[..., k, :], axis=-1).max()))
    return largest


def _bonded_lines(model: ChargeModel, residue: str, bonded: Bonded) -> list[str]:
    lines: list[str] = []
    if isinstance(bonded, BondedTerms):
        lines += ["", "[ bonds ]", "; i  j  harmonic  length(nm)  k(kJ/mol/nm2)"]
        lines += [f"{i + 1:5d} {j + 1:5d} 1 {length:.10g} {constant:.10g}" for i, j, length, constant in bonded.bonds]
        if bonded.angles:
            lines += ["", "[ angles ]", "; i  j  k  harmonic  angle(degrees)  k(kJ/mol/rad2)"]
            for i, j, k, degrees, constant in bonded.angles:
                lines.append(f"{i + 1:5d} {j + 1:5d} {k + 1:5d} 1 {degrees:.10g} {constant:.10g}")
    elif bonded == "rigid":
        lines += ["", "[ constraints ]", "; i  j  type  distance(nm); angles among them: constraint-algorithm = shake"]
        lines += [f"{i + 1:5d} {j + 1:5d} 1 {distance:.10f}" for i, j, distance in required_constraints(model, residue)]
    elif len(model.atomic_numbers) > 1:
        # GROMACS takes exclusions after bonds, constraints or settles alone.
        lines += ["", "[ bonds ]", "; i  j  connected, without an interaction"]
        lines += [f"{i + 1:5d} {j + 1:5d} 5" for i, j in model.bonds.tolist()]
    return lines


def _numbers(model: ChargeModel, k: int) -> str:
    return " ".join(f"{atom + 1:5d}" for atom in model.frames[k])

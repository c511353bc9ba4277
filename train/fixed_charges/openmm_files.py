"""A charge model for OpenMM: a ForceField file (XML) of one residue, and a PDB file of its atoms.

Charges in frames of two or three atoms are virtual sites of the kind ``localCoords``, whose axes are those of the
model: x along b - a, z = x × (c - a), y = z × x; with two atoms y and z are zero. Charges in frames of one atom are on
the nucleus. All pairs of particles of one molecule are excluded, as the charges are fitted to the potential outside.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np

from shared.elements import MASSES, symbol
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.parameters import Bonded, BondedTerms, LennardJones, no_lennard_jones
from train.fixed_charges.topology import (
    ANGSTROM_IN_NM,
    atom_names,
    nuclear_charges,
    required_constraints,
    site_names,
    without_kernel,
)

# A residue cannot state exclusions; scripts see the variables of createSystem.
_EXCLUSIONS = """
import itertools, openmm
for own, template in templateForResidue.items():
    if template.name == {residue!r}:
        for force in sys.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for pair in itertools.combinations([atom.index for atom in own.atoms()], 2):
                    force.addException(*pair, 0.0, 1.0, 0.0, True)
"""


def openmm_xml(
    model: ChargeModel, residue: str, lennard_jones: LennardJones | None = None, bonded: Bonded = None
) -> str:
    """Return a force field of one residue.

    Args:
        model: a kernel's shifts are left out: its sites are those of the reference geometry.
        residue: its name.
        lennard_jones: of the atoms; None for zero.
        bonded: what holds the atoms together.

    Raises:
        UserError: constraints of bonds and angles do not make this molecule rigid.
    """
    model = without_kernel(model)
    atoms, sites = atom_names(model), site_names(model)
    parameters = lennard_jones or no_lennard_jones(model)
    root = ET.Element("ForceField")
    types, residues = ET.SubElement(root, "AtomTypes"), ET.SubElement(root, "Residues")
    template = ET.SubElement(residues, "Residue", name=residue)
    for name, number, charge in zip(atoms, model.atomic_numbers.tolist(), nuclear_charges(model), strict=True):
        kind = {"name": f"{residue}-{name}", "class": f"{residue}-{name}"}
        ET.SubElement(types, "Type", kind, element=symbol(number), mass=f"{MASSES[number]:.6f}")
        ET.SubElement(template, "Atom", name=name, type=kind["name"], charge=f"{charge:.10f}")
    ET.SubElement(types, "Type", {"name": f"{residue}-X", "class": f"{residue}-X"}, mass="0")
    for k, name in sites.items():
        ET.SubElement(template, "Atom", name=name, type=f"{residue}-X", charge=f"{model.charges[k]:.10f}")
    for k, name in sites.items():
        ET.SubElement(template, "VirtualSite", _site(model, k, name, atoms))
    for first, second in model.bonds.tolist():
        ET.SubElement(template, "Bond", atomName1=atoms[first], atomName2=atoms[second])
    if bonded == "rigid":
        for i, j, distance in required_constraints(model, residue):
            names = {"atomName1": atoms[i], "atomName2": atoms[j]}
            ET.SubElement(template, "Constraint", names, distance=f"{distance:.10f}")
    elif bonded is not None:
        _add_terms(root, bonded, [f"{residue}-{name}" for name in atoms])
    nonbonded = ET.SubElement(
        root,
        "NonbondedForce",
        coulomb14scale=f"{parameters.coulomb_14:.9g}",
        lj14scale=f"{parameters.lj_14:.9g}",
    )
    ET.SubElement(nonbonded, "UseAttributeFromResidue", name="charge")
    values = [*zip(atoms, parameters.sigma, parameters.epsilon, strict=True), ("X", 1.0, 0.0)]
    for name, sigma, epsilon in values:
        ET.SubElement(nonbonded, "Atom", type=f"{residue}-{name}", sigma=f"{sigma:.10g}", epsilon=f"{epsilon:.10g}")
    ET.SubElement(root, "Script").text = _EXCLUSIONS.format(residue=residue)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def molecule_pdb(model: ChargeModel, residue: str) -> str:
    """Return a PDB file of the atoms at the reference geometry; ``Modeller.addExtraParticles`` adds the sites."""
    lines = [
        f"HETATM{index:5d} {name if len(name) > 3 else f' {name:<3}'} {residue[:3]:>3} A   1    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {symbol(number):>2}"
        for index, (name, number, (x, y, z)) in enumerate(
            zip(atom_names(model), model.atomic_numbers.tolist(), model.positions, strict=True), start=1
        )
    ]
    for pair in model.bonds.tolist():
        lines += [f"CONECT{first + 1:5d}{second + 1:5d}" for first, second in itertools.permutations(pair)]
    return "\n".join([*lines, "END"]) + "\n"


def largest_departure(model: ChargeModel, geometries: np.ndarray) -> float:
    """Return how far (Å) a site of the file is from that of the model at most, at geometries (G, N, 3) in Å."""
    shifts = without_kernel(model).sites(geometries) - model.sites(geometries)
    return float(np.linalg.norm(shifts, axis=-1).max())


def _site(model: ChargeModel, k: int, name: str, atoms: list[str]) -> dict[str, str]:
    frame = model.frames[k]
    attributes = {"type": "localCoords", "siteName": name}
    attributes |= {f"atomName{place}": atoms[atom] for place, atom in enumerate(frame, start=1)}
    weights = {"wo": (1, 0, 0), "wx": (-1, 1, 0), "wy": (-1, 0, 1) if len(frame) == 3 else (0, 0, 0)}
    for kind, values in weights.items():
        attributes |= {f"{kind}{place + 1}": str(values[place]) for place in range(len(frame))}
    local = model.local[k] * ANGSTROM_IN_NM if len(frame) == 3 else (model.local[k, 0] * ANGSTROM_IN_NM, 0.0, 0.0)
    return attributes | {f"p{axis}": f"{value:.12f}" for axis, value in enumerate(local, start=1)}


def _add_terms(root: ET.Element, bonded: BondedTerms, types: list[str]) -> None:
    bonds = ET.SubElement(root, "HarmonicBondForce")
    for i, j, length, constant in bonded.bonds:
        ET.SubElement(bonds, "Bond", type1=types[i], type2=types[j], length=f"{length:.10g}", k=f"{constant:.10g}")
    angles = ET.SubElement(root, "HarmonicAngleForce")
    for i, j, k, degrees, constant in bonded.angles:
        kinds = {f"type{place}": types[atom] for place, atom in enumerate((i, j, k), start=1)}
        ET.SubElement(angles, "Angle", kinds, angle=f"{math.radians(degrees):.12f}", k=f"{constant:.10g}")

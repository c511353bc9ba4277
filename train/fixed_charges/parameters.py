"""What a charge model does not have and a simulation needs: Lennard-Jones parameters and harmonic bonded terms."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from pydantic import ConfigDict, TypeAdapter, ValidationError

from shared.elements import symbol
from shared.errors import UserError
from train.fixed_charges.charge_model import ChargeModel
from train.fixed_charges.topology import atom_names


class LennardJones(NamedTuple):
    """Parameters of N atoms, and the factors of 1-4 pairs of the force field that they belong to."""

    sigma: np.ndarray  # (N,) nm
    epsilon: np.ndarray  # (N,) kJ/mol
    coulomb_14: float = 1.0 / 1.2  # those of AMBER and of OpenMM's files of water
    lj_14: float = 0.5


class Bond(NamedTuple):
    """Energy ½ k (r - r0)² of two atoms."""

    first: int
    second: int
    length: float  # nm
    constant: float  # kJ/mol/nm²


class Angle(NamedTuple):
    """Energy ½ k (θ - θ0)² of three atoms."""

    first: int
    middle: int
    last: int
    angle: float  # degrees
    constant: float  # kJ/mol/rad²


@dataclass(frozen=True)
class BondedTerms:
    """Harmonic bonds and angles of a molecule, its atoms counted from 0."""

    bonds: tuple[Bond, ...]
    angles: tuple[Angle, ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


Bonded = BondedTerms | Literal["rigid"] | None
"""Harmonic terms, constraints of a rigid molecule, or nothing (from elsewhere: another file, or the network)."""


def no_lennard_jones(model: ChargeModel) -> LennardJones:
    """Return parameters that are zero."""
    n = len(model.atomic_numbers)
    return LennardJones(np.ones(n), np.zeros(n))


def read_lennard_jones(path: str | Path, model: ChargeModel, residue: str) -> LennardJones:
    """Read the parameters of a model's atoms.

    Args:
        path: a force field of OpenMM (``.xml``) with a residue of this name, whose atoms have the model's names or its
            order; or a text with a line for each atom or element: name, sigma in nm, epsilon in kJ/mol.
        model: of the molecule.
        residue: its name.

    Raises:
        UserError: the file cannot be read, or lacks an atom.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lennard-jones {path}: {getattr(error, 'strerror', error)}") from error
    if Path(path).suffix.lower() == ".xml":
        return _of_force_field(text, model, residue, f"--lennard-jones {path}")
    return _of_table(text, model, f"--lennard-jones {path}")


def read_bonded(path: str | Path, model: ChargeModel) -> BondedTerms:
    """Read harmonic terms: JSON, ``{"bonds": [[0, 1, nm, kJ/mol/nm²]], "angles": [[0, 1, 2, degrees, kJ/mol/rad²]]}``.

    Raises:
        UserError: the file is none, its terms are not those of the model's bonds, or a value cannot be.
    """
    try:
        terms = TypeAdapter(BondedTerms).validate_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"--bonded {path}: {error.strerror}") from error
    except ValidationError as error:
        found = error.errors()[0]
        raise UserError(f"--bonded {path}: {'.'.join(map(str, found['loc']))}: {found['msg']}") from error
    bonded = {frozenset(bond) for bond in model.bonds.tolist()}
    given = [frozenset(bond[:2]) for bond in terms.bonds]
    for bond in given:
        if bond not in bonded or given.count(bond) > 1:
            raise UserError(f"--bonded {path}: bonds: atoms {sorted(bond)} are not bonded in the model, or given twice")
    for bond in bonded.difference(given):
        raise UserError(f"--bonded {path}: bonds: the bond of atoms {sorted(bond)} is missing")
    known = set()
    for first, middle, last, *_ in terms.angles:
        if first == last or not {frozenset((first, middle)), frozenset((middle, last))} <= bonded:
            raise UserError(f"--bonded {path}: angles: atoms {[first, middle, last]} are no angle of the model's bonds")
        if (middle, frozenset((first, last))) in known:
            raise UserError(f"--bonded {path}: angles: atoms {[first, middle, last]} are given twice")
        known.add((middle, frozenset((first, last))))
    for bond_or_angle in (*terms.bonds, *terms.angles):
        *_, least, constant = bond_or_angle
        if least <= 0.0 or constant < 0.0 or (isinstance(bond_or_angle, Angle) and least > 180.0):
            raise UserError(
                f"--bonded {path}: {list(bond_or_angle)}: lengths and angles are positive, angles at most 180 degrees, "
                "and constants not negative"
            )
    return terms


def _of_table(text: str, model: ChargeModel, where: str) -> LennardJones:
    names = atom_names(model)
    table: dict[str, list[float]] = {}
    for row, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            name, sigma, epsilon = words[0], *map(float, words[1:])
        except ValueError as error:
            raise UserError(
                f"{where}, line {row}: {line.strip()!r} is not an atom, sigma in nm and epsilon in kJ/mol"
            ) from error
        if name in table:
            raise UserError(f"{where}, line {row}: {name} is given twice")
        if name not in names and name not in chemical_symbols:
            raise UserError(
                f"{where}, line {row}: {name} is no element and no atom of the molecule ({' '.join(names)})"
            )
        table[name] = [sigma, epsilon]
    elements = map(symbol, model.atomic_numbers.tolist())
    values = [table.get(name, table.get(element)) for name, element in zip(names, elements, strict=True)]
    return _checked(values, model, where)


def _of_force_field(text: str, model: ChargeModel, residue: str, where: str) -> LennardJones:
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise UserError(f"{where}: this is no XML: {error}") from error
    types = {entry.get("name"): entry for entry in root.iterfind("AtomTypes/Type")}
    template = next((entry for entry in root.iterfind("Residues/Residue") if entry.get("name") == residue), None)
    nonbonded = root.find("NonbondedForce")
    if template is None or nonbonded is None:
        missing = f"residue {residue}" if template is None else "NonbondedForce"
        raise UserError(f"{where}: it has no {missing}; name a residue of it with --residue, or write a table")
    # Sites of charges have no element.
    kinds = {atom: types.get(atom.get("type"), atom) for atom in template.iterfind("Atom")}
    atoms = [atom for atom, kind in kinds.items() if "element" in kind.attrib]
    by_name = {atom.get("name"): atom for atom in atoms}
    if by_name.keys() == set(atom_names(model)):
        atoms = [by_name[name] for name in atom_names(model)]
    elements = [kinds[atom].get("element") for atom in atoms]
    if elements != [symbol(number) for number in model.atomic_numbers.tolist()]:
        raise UserError(f"{where}: residue {residue} has the elements {elements}, in another order than the model")
    force = root.find("LennardJonesForce")
    force = nonbonded if force is None else force
    of_residue = {entry.get("name") for entry in force.iterfind("UseAttributeFromResidue")}
    entries = {(key, entry.get(key)): entry for entry in force.iterfind("Atom") for key in ("type", "class")}

    def parameters(atom: ET.Element) -> list[float] | None:
        names = (("type", kinds[atom].get("name")), ("class", kinds[atom].get("class")))
        entry = next((entries[name] for name in names if name in entries and name[1]), atom)
        values = [(atom if name in of_residue else entry).get(name) for name in ("sigma", "epsilon")]
        return None if None in values else [float(str(value)) for value in values]

    try:
        scales = float(nonbonded.get("coulomb14scale", 1.0)), float(force.get("lj14scale", 1.0))
        values = list(map(parameters, atoms))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return _checked(values, model, where)._replace(coulomb_14=scales[0], lj_14=scales[1])


def _checked(values: Sequence[list[float] | None], model: ChargeModel, where: str) -> LennardJones:
    rows = []
    for name, row in zip(atom_names(model), values, strict=True):
        if row is None:
            raise UserError(f"{where}: it has no sigma and epsilon of atom {name}")
        if not np.isfinite(row).all() or min(row) < 0.0:
            raise UserError(f"{where}: {name}: sigma {row[0]:g} nm, epsilon {row[1]:g} kJ/mol; neither can be negative")
        rows.append(row)
    sigma, epsilon = np.array(rows).T
    return LennardJones(sigma, epsilon)

"""Molecules of SMILES files, with geometries made by RDKit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from tqdm import tqdm

from preprocess.reference.extras import installed_version
from shared.elements import MASSES
from shared.errors import UserError
from shared.text import shown

_LARGEST_STEPS = 10_000
"""Steps of the force field's minimisation."""

_DECIMALS = 4
"""Of the positions in Å, as in a molfile: processors that round differently make the same geometry."""

_INSTEAD = "give its geometry in an extended XYZ file: --geometries FILE.xyz"


class Embedded(NamedTuple):
    """A molecule with the geometry that was made for it."""

    where: str
    """File, line and SMILES, for messages."""
    name: str
    atoms: Atoms
    charge: int
    multiplicity: int


class _Line(NamedTuple):
    where: str
    name: str
    molecule: Any  # RDKit's, without hydrogens


def rdkit_version() -> str:
    """Return the version of RDKit that is installed.

    Raises:
        UserError: RDKit is not installed.
    """
    return installed_version("RDKit", "--smiles: SMILES are read by", make="reference-data SMILES=FILE", extra="smiles")


def embed_files(paths: Sequence[str], seed: int) -> list[Embedded]:
    """Read files of one SMILES a line, with a name after a blank, and make a geometry for each.

    Blank lines, and those that begin with #, are skipped. The name is the canonical SMILES where there is none.

    Args:
        paths: the files.
        seed: of the geometries.

    Raises:
        UserError: RDKit is not installed, a line cannot be read or is there twice, or no geometry is found.
    """
    if not paths:
        return []
    rdkit_version()
    lines = _read(paths)
    bar = tqdm(lines, desc="geometries of SMILES", unit="molecule", delay=1, disable=None)
    return [_embed(line, seed) for line in bar]


def _read(paths: Sequence[str]) -> list[_Line]:
    from rdkit import Chem, rdBase

    lines, mistakes = [], []
    before: dict[str, str] = {}
    for path in paths:
        for number, content in _lines(Path(path)):
            smiles, *rest = content.split(maxsplit=1)
            where = f"{path}, line {number}"
            with rdBase.BlockLogs():
                molecule = Chem.MolFromSmiles(smiles)
                wrong = "" if molecule is not None and molecule.GetNumAtoms() else _describe_mistake(smiles)
            if not wrong:
                canonical = Chem.MolToSmiles(molecule)
                if "." in canonical:
                    wrong = f"is of several parts, which RDKit puts on each other; {_INSTEAD}"
                elif canonical in before:
                    wrong = f"is the same molecule as {before[canonical]}"
                before.setdefault(canonical, where)
                lines.append(_Line(f"{where}: {shown(smiles)}", rest[0] if rest else canonical, molecule))
            if wrong:
                mistakes.append(f"{where}: {shown(smiles)} {wrong}")
    if mistakes:
        more = f" (and {len(mistakes) - 1} more lines)" if len(mistakes) > 1 else ""
        raise UserError(f"{mistakes[0]}{more}; correct the line, or remove it")
    return lines


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the content of every line that holds a SMILES.

    Raises:
        UserError: the file cannot be read, or there is none.
    """
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if (content := line.strip()) and not content.startswith("#"):
                    empty = False
                    yield number, content
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; --smiles names files with one SMILES a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8; --smiles names files with one SMILES a line") from error
    if empty:
        raise UserError(f"{path}: holds no SMILES")


def _describe_mistake(smiles: str) -> str:
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None or not molecule.GetNumAtoms():
        return "is no SMILES that RDKit can read"
    try:
        Chem.SanitizeMol(molecule)
    except ValueError as error:
        return f"is no molecule: {str(error).splitlines()[0]}"
    return "is no molecule that RDKit can read"


def _embed(line: _Line, seed: int) -> Embedded:
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(line.molecule)
    parameters: Any = rdDistGeom.ETKDGv3()
    # A C int: negative numbers mean a random seed, and 0 the same as 1.
    parameters.randomSeed = seed % (2**31 - 1) + 1
    with rdBase.BlockLogs():
        if rdDistGeom.EmbedMolecule(molecule, parameters) < 0:
            parameters.useRandomCoords = True  # slower, and finds the geometries of cages and large rings
            if rdDistGeom.EmbedMolecule(molecule, parameters) < 0:
                raise UserError(f"{line.where}: RDKit finds no geometry (ETKDGv3); {_INSTEAD}")
        if molecule.GetNumAtoms() > 1:
            _relax(molecule, line.where)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    atoms = Atoms(numbers, np.round(molecule.GetConformer().GetPositions(), _DECIMALS))
    if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
        isotopes = [atom.GetMass() if atom.GetIsotope() else 0.0 for atom in molecule.GetAtoms()]
        atoms.set_masses(np.where(isotopes, isotopes, MASSES[numbers]))
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    return Embedded(line.where, line.name, atoms, Chem.GetFormalCharge(molecule), unpaired + 1)


def _relax(molecule: Any, where: str) -> None:
    """Move RDKit's molecule to the minimum of MMFF94, or of UFF where MMFF94 has no parameters.

    Raises:
        UserError: neither has, or the minimum is not found.
    """
    from rdkit.Chem import rdForceFieldHelpers as fields

    if fields.MMFFHasAllMoleculeParams(molecule):
        name, left = "MMFF94", fields.MMFFOptimizeMolecule(molecule, maxIters=_LARGEST_STEPS)
    elif fields.UFFHasAllMoleculeParams(molecule):
        name, left = "UFF", fields.UFFOptimizeMolecule(molecule, maxIters=_LARGEST_STEPS)
    else:
        raise UserError(f"{where}: neither MMFF94 nor UFF has parameters for it; {_INSTEAD}")
    if left:
        raise UserError(f"{where}: does not relax in {_LARGEST_STEPS:,} steps of {name}; {_INSTEAD}")

"""Molecules to compute: by their names in ASE's collection, frames of extended XYZ files, or SMILES."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule as build_molecule
from ase.build.molecule import extra
from ase.collections import g2
from ase.io.extxyz import XYZError

from preprocess.reference.smiles import embed_files
from shared.digests import settings_digest
from shared.elements import MASSES, MAX_ATOMIC_NUMBER
from shared.errors import UserError
from shared.geometry import describe_close_atoms
from shared.input.isotopes import with_masses
from shared.input.total_charge import total_charge_of


@dataclass(frozen=True, eq=False)
class Molecule:
    """One geometry with its charge and spin."""

    name: str
    atomic_numbers: np.ndarray  # (atoms,) int
    positions: np.ndarray  # (atoms, 3) float64, Å
    charge: int  # e
    multiplicity: int  # 2S + 1
    own_masses: np.ndarray | None = None  # (atoms,) u, where the file states them

    @property
    def masses(self) -> np.ndarray:
        """Return the masses (atoms,) in u."""
        return MASSES[self.atomic_numbers] if self.own_masses is None else self.own_masses

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def at(self, positions: np.ndarray) -> Molecule:
        """Return the molecule at other positions (atoms, 3) in Å."""
        return replace(self, positions=positions)

    @property
    def digest(self) -> str:
        """Return the digest of all that the calculation depends on, without the name."""
        return settings_digest(
            {
                "atomic_numbers": self.atomic_numbers.tolist(),
                "positions": self.positions.tolist(),
                "charge": self.charge,
                "multiplicity": self.multiplicity,
            }
            | ({} if self.own_masses is None else {"masses": self.own_masses.tolist()})
        )


def collect(
    names: Sequence[str], paths: Sequence[str], smiles_paths: Sequence[str] = (), seed: int = 0
) -> list[Molecule]:
    """Collect all molecules: the named ones first, those of SMILES last.

    Args:
        names: in ASE's collection.
        paths: extended XYZ files.
        smiles_paths: files of SMILES.
        seed: of the geometries made from SMILES.

    Raises:
        UserError: an unknown name, a file that cannot be read, an impossible molecule.
    """
    molecules = [_from_name(name) for name in names]
    for path in paths:
        molecules += _from_file(Path(path))
    remedy = "write charges and unpaired electrons into the SMILES: [NH4+], [CH3]"
    molecules += [_checked(*embedded, remedy) for embedded in embed_files(smiles_paths, seed)]
    seen: dict[str, str] = {}
    for molecule in molecules:
        if molecule.digest in seen:
            raise UserError(f"{molecule.name}: the same geometry is given twice (before as {seen[molecule.digest]})")
        seen[molecule.digest] = molecule.name
    return molecules


def _from_name(name: str) -> Molecule:
    try:
        atoms = build_molecule(name)
    except KeyError as error:
        known = {other.lower(): other for other in [*g2.names, *extra]}
        near = [known[word] for word in difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)]
        raise UserError(
            f"--molecules {name}: not in ASE's collection (did you mean {near[0]!r}?); other molecules go into an "
            "extended XYZ file: --geometries FILE.xyz"
        ) from error
    unpaired = round(abs(float(atoms.get_initial_magnetic_moments().sum())))
    return _checked(f"--molecules {name}", name, atoms, 0, unpaired + 1)


def _from_file(path: Path) -> list[Molecule]:
    try:
        with path.open(encoding="utf-8") as stream:
            frames = ase.io.read(with_masses(stream), index=":", format="extxyz")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; --geometries names extended XYZ files") from error
    # What ASE's reader raises for lines that are no extended XYZ, here and below.
    except KeyError as error:
        raise UserError(f"{path}: not a readable extended XYZ file: {error} is no element, or a missing key") from error
    except (XYZError, ValueError, IndexError, StopIteration) as error:
        raise UserError(f"{path}: not a readable extended XYZ file: {str(error) or type(error).__name__}") from error
    if not frames:
        raise UserError(f"{path}: holds no frame")
    molecules = []
    for number, atoms in enumerate(frames):
        where = f"{path}, frame {number}"
        name = str(atoms.info.get("name", atoms.get_chemical_formula()))
        charge, multiplicity = _charge_and_multiplicity(where, atoms)
        molecules.append(_checked(where, name, atoms, charge, multiplicity))
    return molecules


def _charge_and_multiplicity(where: str, atoms: Atoms) -> tuple[int, int]:
    """Return both as the frame states them: ``charge`` (``total_charge`` ...) and ``multiplicity``, or ``spin`` = 2S.

    Raises:
        UserError: they are no whole numbers, or contradict each other.
    """
    try:
        charge = _integer(where, "charge", total_charge_of(atoms))
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    info = {key.lower(): value for key, value in atoms.info.items()}
    multiplicity = _integer(where, "multiplicity", info["multiplicity"]) if "multiplicity" in info else None
    if "spin" in info:
        from_spin = _integer(where, "spin", info["spin"]) + 1
        if multiplicity not in (None, from_spin):
            raise UserError(f"{where}: spin={info['spin']} (2S) and multiplicity={multiplicity} (2S + 1) contradict")
        multiplicity = from_spin
    return charge, 1 if multiplicity is None else multiplicity


def _integer(where: str, key: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise UserError(f"{where}: {key}={value}: not a whole number")
    if value != round(value):
        raise UserError(f"{where}: {key}={value}: not a whole number")
    return round(value)


_IN_FRAME = "give charge= and multiplicity= in the frame's comment line of an extended XYZ file"


def _checked(where: str, name: str, atoms: Atoms, charge: int, multiplicity: int, remedy: str = _IN_FRAME) -> Molecule:
    """Return the molecule after a check of its atoms and electrons.

    Raises:
        UserError: they are impossible.
    """
    numbers, positions = np.asarray(atoms.numbers, np.int64), np.asarray(atoms.positions, np.float64)
    if not len(numbers):
        raise UserError(f"{where}: holds no atom")
    if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
        raise UserError(f"{where}: an atom of no element (X)")
    if not np.isfinite(positions).all():
        raise UserError(f"{where}: a position is not finite")
    if wrong := describe_close_atoms(numbers, positions):
        raise UserError(f"{where}: {wrong}; is the file in Å?")
    if atoms.pbc.any():
        raise UserError(f"{where}: is periodic (Lattice=...); only molecules can be computed: remove the lattice")
    electrons = int(numbers.sum()) - charge
    if electrons < 1 or not 1 <= multiplicity <= electrons + 1 or (electrons - multiplicity) % 2 == 0:
        raise UserError(f"{where}: {electrons} electron(s) cannot have multiplicity {multiplicity}; {remedy}")
    return Molecule(name, numbers, positions, charge, multiplicity, atoms.get_masses() if atoms.has("masses") else None)

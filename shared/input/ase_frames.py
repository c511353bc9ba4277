"""Molecules with their labels (energy, forces, moments, charge), under any recognised names, from files that ASE reads.

One pass, one frame in memory. The units of such files are ASE's (eV, eV/Å, e·Å, e·Å²) unless a database states others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ase
import numpy as np

from shared.elements import COVALENT_RADII, symbol
from shared.errors import UserError
from shared.geometry import BOND_FACTOR
from shared.input.ase_files import database_metadata, describe_no_element, read_frames
from shared.input.labels import RECOGNISED, FrameKeys, LabelledMolecule, Quantity, Summary, looks_like
from shared.input.total_charge import INITIAL_CHARGE_DECIMALS, describe_spin

ASE_UNITS = {
    "R": "angstrom",
    "E": "ev",
    "F": "ev_angstrom",
    "Dxyz": "e_angstrom",
    "esp": "hartree_per_e",
    "vdw_surface": "angstrom",
}
"""Record of units of a file that does not state them, and has no quadrupoles."""

_QUADRUPOLE_UNIT = "e_angstrom2"

_ARRAY_OF = {"energy": "E", "forces": "F", "dipole": "Dxyz", "quadrupole": "quadrupole"}
"""Quantity -> its array in the record of units."""

_OWN_ARRAYS = ("numbers", "positions", "tags", "masses", "momenta", "initial_charges", "initial_magmoms")
"""Arrays of ase.Atoms that are not results."""

_PLAIN = (str, int, float, np.bool_, np.integer, np.floating)
"""Types of other information that is kept."""

_OF_ASE = ("free_energy", "energies", "stress", "stresses", "magmom", "magmoms", "charges", "spin", "unique_id")
"""Further names that ASE and its users write beside the quantities."""

_INITIAL_CHARGES = "initial charges"

_LISTED = 30
"""Most names that a message lists."""


class AseSource:
    """The labelled molecules of one file; ``summary`` is complete once they have been iterated over.

    The name of each quantity is the same in all frames: where a later frame would be read under another name than the
    first ones, the file is refused, since the two may be of different methods. A frame that has it under no name
    lacks it.
    """

    def __init__(self, name: str, keys: FrameKeys) -> None:
        """Find the file.

        Args:
            name: ``FILE`` or ``FILE@0:10``.
            keys: names of the quantities.

        Raises:
            UserError: no such file.
        """
        self.name = name
        self.summary = Summary(units=dict(ASE_UNITS), units_from="ASE's convention")
        metadata = database_metadata(name)
        stated = metadata.get("_property_unit_dict", {})
        self._stated: dict[str, str] = stated if isinstance(stated, dict) else {}
        if "_distance_unit" in metadata:
            self._record("R", metadata["_distance_unit"])
        self._named: dict[Quantity, str] = {
            "energy": keys.energy,
            "forces": keys.forces,
            "dipole": keys.dipole,
            "quadrupole": keys.quadrupole,
            "charge": keys.charge,
        }
        self._seen: set[str] = set()
        self._periodic = self._open_shell = 0
        self._spin = ""
        self._misshapen: dict[str, str] = {}

    def __iter__(self) -> Iterator[LabelledMolecule]:
        """Yield every molecule, in the file's units.

        Raises:
            UserError: a frame cannot be read, holds no atoms or values that are not numbers, or its quantities go by
                other names than those of the frames before; a name that was asked for is in no frame.
        """
        summary, without_quadrupole = self.summary, 0
        for where, atoms in read_frames(self.name):
            molecule = self._molecule(where, atoms)
            summary.frames += 1
            for quantity, value in (("forces", molecule.forces), ("dipole", molecule.dipole)):
                summary.lacking[quantity] = summary.lacking.get(quantity, 0) + (value is None)
            without_quadrupole += molecule.quadrupole is None
            summary.lacking["energy"] = summary.lacking.get("energy", 0) + bool(np.isnan(molecule.energy))
            yield molecule
        if "quadrupole" in summary.keys:
            summary.lacking["quadrupole"] = without_quadrupole
        for quantity, name in self._named.items():
            if name and quantity not in summary.keys:
                raise UserError(f"{self.name}: --{quantity}-key {name}: no frame holds it; {self._held()}")
        if self._periodic:
            summary.notes.append(
                f"{self._periodic} of {summary.frames} frames are periodic; each is taken for one molecule by itself"
            )
        if self._open_shell:
            summary.notes.append(
                f"{self._open_shell} of {summary.frames} frames state unpaired electrons ({self._spin}); the model "
                "does not know spins"
            )
        summary.notes += [f"{name!r} left alone: {why}" for name, why in sorted(self._misshapen.items())]
        others = self._left_alone()
        if others:
            summary.notes.append(f"left alone: {_listed(others)} (names that are not known)")
        wanted: tuple[Quantity, ...] = ("energy", "forces", "dipole")
        for quantity in wanted:
            alike = [name for name in others if looks_like(quantity, name)]
            if alike and quantity not in summary.keys:
                summary.alike[quantity] = alike

    def _molecule(self, where: str, atoms: ase.Atoms) -> LabelledMolecule:
        if len(atoms) == 0:
            raise UserError(f"{where}: no atoms")
        if (atoms.numbers < 1).any():
            raise UserError(f"{where}: {describe_no_element(atoms)}")
        _require_finite(where, "the position", atoms.positions)
        self._periodic += bool(atoms.pbc.any())
        if cut := _describe_cut(atoms):
            raise UserError(f"{where}: {cut}")
        spin = describe_spin(atoms)
        self._open_shell += bool(spin)
        self._spin = self._spin or spin
        # Not by get_forces, which would set those of constrained atoms to zero.
        results = atoms.calc.results if atoms.calc is not None else {}
        of_molecule = {**results, **atoms.info}
        of_atoms = {**of_molecule, **{key: value for key, value in atoms.arrays.items() if key not in _OWN_ARRAYS}}
        self._seen |= of_atoms.keys()
        n = len(atoms)
        energy = self._take("energy", where, of_molecule, (), "one number")
        forces = self._take("forces", where, of_atoms, (n, 3), "three numbers for each atom")
        dipole = self._take("dipole", where, of_molecule, (3,), "a vector of three numbers (a length is not enough)")
        quadrupole = self._take("quadrupole", where, of_molecule, (3, 3), "a tensor of nine numbers")
        return LabelledMolecule(
            where=where,
            numbers=np.asarray(atoms.numbers, np.int64),
            positions=np.asarray(atoms.positions, np.float64),
            energy=np.nan if energy is None else float(energy),
            forces=forces,
            dipole=dipole,
            quadrupole=quadrupole,
            charge=self._charge(where, atoms, of_molecule),
            masses=atoms.get_masses() if atoms.has("masses") else None,
            name=_one_line(atoms.info.get("name", "")),
            info=self._others(atoms.info),
        )

    def _charge(self, where: str, atoms: ase.Atoms, values: dict[str, Any]) -> float:
        found = self._take("charge", where, values, (), "one number")
        if found is not None:
            return float(found)
        if self._named["charge"]:
            return 0.0
        initial = round(float(atoms.get_initial_charges().sum()), INITIAL_CHARGE_DECIMALS)
        if initial:
            self._settle("charge", where, _INITIAL_CHARGES)
            _require_finite(where, f"charge = {initial}", np.array(initial))
        return initial

    def _take(
        self, quantity: Quantity, where: str, values: dict[str, Any], shape: tuple[int, ...], wanted: str
    ) -> np.ndarray | None:
        """Return the quantity of one frame, (*shape) float64; None if the frame lacks it or it is NaN."""
        named = self._named[quantity]
        found = [name for name in ((named,) if named else RECOGNISED[quantity]) if name in values]
        fitting = [name for name in found if np.size(values[name]) == np.prod(shape, dtype=int)]
        for name in set(found) - set(fitting):
            if named:
                raise UserError(f"{where}: --{quantity}-key {name}: has shape {np.shape(values[name])}, not {wanted}")
            self._misshapen[name] = f"it has shape {np.shape(values[name])}, and {quantity} needs {wanted}"
        if not fitting:
            return None
        self._settle(quantity, where, fitting[0])
        if fitting[1:]:
            others = self.summary.also.setdefault(quantity, [])
            others += [name for name in fitting[1:] if name not in others]
        value = np.asarray(values[fitting[0]])
        if value.dtype.kind not in "iuf":
            raise UserError(f"{where}: {fitting[0]} = {values[fitting[0]]!r} is not {wanted}")
        value = value.astype(np.float64).reshape(shape)
        if np.isnan(value).all() and quantity != "charge":
            return None
        _require_finite(where, f"{fitting[0]} = {value}" if not shape else fitting[0], value)
        return value

    def _settle(self, quantity: Quantity, where: str, name: str) -> None:
        taken = self.summary.keys.setdefault(quantity, name)
        if taken != name:
            raise UserError(
                f"{where}: holds {name!r}, but the {quantity} of frames before it was {taken!r}; name the one to read "
                f"with --{quantity}-key (frames without it then lack the {quantity})"
            )
        if quantity == "quadrupole":
            self.summary.units.setdefault("quadrupole", _QUADRUPOLE_UNIT)
        if quantity in _ARRAY_OF and name in self._stated:
            self._record(_ARRAY_OF[quantity], self._stated[name])

    def _record(self, array: str, unit: object) -> None:
        # As written: it is parsed where values are converted, and refused there unless a flag overrides it.
        self.summary.units[array] = str(unit)
        self.summary.units_from = "the database's metadata"

    def _others(self, info: dict[str, Any]) -> dict[str, Any]:
        known = {"name", *self.summary.keys.values(), *(name for names in RECOGNISED.values() for name in names)}
        return {
            key: _one_line(value) if isinstance(value, str) else value
            for key, value in info.items()
            # Without empty texts: ASE writes them so that it reads the next value in their place.
            if key not in known and isinstance(value, _PLAIN) and value != ""
        }

    def _left_alone(self) -> list[str]:
        """Return the names in the file that are no quantity's."""
        known = {"name", *self.summary.keys.values(), *self._misshapen, *_OF_ASE}
        return sorted(self._seen - known.union(*RECOGNISED.values()))

    def _held(self) -> str:
        return f"the file holds {_listed(sorted(self._seen))}" if self._seen else "the file holds positions alone"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _describe_cut(atoms: ase.Atoms) -> str:
    """Return what is wrong if a periodic cell cuts a molecule, else an empty text: only images of atoms are bonded."""
    if not atoms.pbc.any() or not atoms.cell.lengths()[atoms.pbc].all():
        return ""
    radii = COVALENT_RADII[atoms.numbers]
    reach = BOND_FACTOR * (radii[:, None] + radii)
    cut = (atoms.get_all_distances(mic=True) < reach) & (atoms.get_all_distances() > reach)
    if not cut.any():
        return ""
    first, second = np.argwhere(cut)[0].tolist()
    return (
        f"atoms {first} ({symbol(int(atoms.numbers[first]))}) and {second} ({symbol(int(atoms.numbers[second]))}) are "
        "bonded across the cell's boundary, and each frame is taken for one molecule without its images; unwrap the "
        "molecules, or, if it is no crystal and they only touch, set pbc to F F F"
    )


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _require_finite(where: str, what: str, values: np.ndarray) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    rows = f" of atom {int(np.argmin(finite.all(axis=1)))}" if values.ndim == 2 else ""
    raise UserError(f"{where}: {what}{rows} is not finite")

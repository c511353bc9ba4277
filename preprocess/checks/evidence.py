"""What goes into the checks, what they keep of each molecule, and what they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from shared.input.unit_choice import InputUnits
from shared.schema import Split

Severity = Literal["error", "warning"]

CANDIDATES = ("times bohr", "over bohr", "as stored", "plus mass", "plus centroid", "plus atom", "centred")
"""Changes of the grid that undo a mistake: times 0.529; times 1/0.529; without the shift of --grid-frame; plus the
atoms' centre of mass, plus their centroid, plus the first atom's position; and moved so that its own centre is at the
atoms' centroid."""

TOO_FEW_POINTS = 2.0
"""Marks, in place of a residual, too few grid points outside the atoms for a fit (a fit's residual is at most 1)."""

MOLECULE = np.dtype(
    [
        ("file", "i4"),  # index into Evidence.files
        ("row", "i4"),  # in that file
        ("composition", "i4"),  # index into Evidence.compositions
        ("n_atoms", "i4"),
        ("n_grid", "i4"),
        ("charge", "f4"),  # e, as given
        ("energy", "f8"),  # eV, as given
        ("force", "f4"),  # eV/Å, the largest |F| of an atom
        ("net_force", "f2"),  # |Σ F| / Σ |F|
        ("torque", "f2"),  # |Σ r × F| / Σ |r| |F| about the centroid
        ("lengths", "f4", (5,)),  # Å, see measure.lengths_and_bonds: what two copies of a geometry share
        ("bond", "f4"),  # distance to the nearest neighbour over the sum of covalent radii, median over the atoms
        ("dipole", "f4"),  # e·Å, |D| as given
        ("fitted_dipole", "f4"),  # e·Å, of the multipoles fitted to the ESP, about the centre of mass; NaN if inexact
        ("dipole_product", "f4"),  # (e·Å)², given · fitted
        ("quadrupole", "f4"),  # e·Å², norm as given; NaN if there is none
        ("fitted_quadrupole", "f4"),  # e·Å², norm of the fitted one about the centre of mass; NaN if inexact
        ("quadrupole_product", "f4"),  # (e·Å²)², given · fitted
        ("quadrupole_cosines", "f2", (2,)),  # of given and fitted, about the origin read and about the other
        ("cosine", "f2"),  # between the dipoles, for ions about the better of two origins
        ("cosine_tried", "f2", (len(CANDIDATES),)),  # the same on each candidate
        ("origin_gain", "f2"),  # for ions: by how much D fits better about the origin, over |Q| |centre of mass|
        ("fitted_charge", "f4"),  # e, sum of the fitted monopoles
        ("charge_error", "f4"),  # e, its standard error
        ("largest_charge", "f4"),  # e, of a fit with charges alone
        ("polarity", "f2"),  # correlation of those charges with electronegativity: negative if electrons draw charge
        ("esp", "f4"),  # Hartree/e, root mean square
        ("largest_esp", "f4"),  # Hartree/e, greatest |ESP| of all points
        ("inside", "f4"),  # share of the grid points inside an atom
        ("nowhere", "f4"),  # share of the grid points that are padding, although the file counts them
        ("force_step", "f4"),  # eV/Å, of which all components of F are multiples; 0: of none, NaN: no F
        ("dipole_step", "f4"),  # e·Å
        ("esp_step", "f4"),  # Hartree/e
        ("integer_grid", "?"),  # all coordinates of the grid are whole numbers
        ("residual", "f2"),  # of the multipole fit, relative; NaN = not fitted
        (
            "tried",
            "f2",
            (len(CANDIDATES),),
        ),  # residual on each candidate, at the points outside the atoms of both grids
        ("gain", "f2", (len(CANDIDATES),)),  # that over the residual of the grid as given at the same points
        ("dipole_over_bohr", "f4"),  # fitted dipole over D on the candidate "over bohr"
        ("nuclei", "f2", (2,)),  # size of the ESP with its nuclei moved from Å to Bohr; the grid in Å, in Bohr
        ("axes", "i1"),  # the exchange or reversal of the grid's axes that fits best; -1 = not tried
        ("axes_residual", "f2"),
        ("axes_better", "f2"),  # share of those exchanges and reversals that fit better than the grid as given
    ]
)
"""One molecule, 196 bytes. Numbers that could not be computed are NaN."""

PAIR = np.dtype([("file", "i4"), ("energy", "f4"), ("work", "f4"), ("apart", "f4")])
"""A pair of near frames of a molecule: E_b - E_a (eV), -½(F_a + F_b)·ΔR (eV), largest displacement of an atom (Å)."""


class CheckedFile(NamedTuple):
    """A pair of files and how it is read; divided files have one for each split."""

    split: Split
    efd: str  # the files' names, for messages
    esp: str
    units: InputUnits = InputUnits()
    grid_frame: str = "given"
    quadrupole_origin: str = "mass"
    has_origin: bool = False  # the file keeps the origins of its cubes
    paired_by_row: bool = False  # the ESP file has no geometries of its own
    energy_dtype: str = "float64"
    force_dtype: str = "float64"
    dipole_dtype: str = "float64"
    esp_dtype: str = "float64"
    divided: bool = False  # its rows are in several splits


@dataclass(frozen=True)
class CheckInput:
    """The n molecules of a pair of files, in the project's units; padding may hold anything.

    The user's unit flags have been applied. What a molecule lacks is NaN.
    """

    file: CheckedFile
    rows: np.ndarray  # (n,) row in the files
    atomic_numbers: np.ndarray  # (n, A) int, 0 = padding
    n_atoms: np.ndarray  # (n,) int
    positions: np.ndarray  # (n, A, 3) Å
    energy: np.ndarray  # (n,) eV
    forces: np.ndarray  # (n, A, 3) eV/Å
    dipole: np.ndarray  # (n, 3) e·Å; of ions about the centre of mass
    total_charge: np.ndarray  # (n,) e
    n_grid: np.ndarray  # (n,) int
    grid: np.ndarray  # (n, G, 3) Å
    esp_values: np.ndarray  # (n, G) Hartree/e
    quadrupole: np.ndarray | None = None  # (n, 3, 3) e·Å² about the centre of mass
    split: np.ndarray | None = None  # (n,) index into SPLITS, where the rows of the file are divided
    grid_shift: np.ndarray | None = None  # (n, 3) Å, by which ``grid`` was moved
    nowhere: np.ndarray | None = None  # (n,) share of the points that the file counts, but that no grid holds


@dataclass(frozen=True)
class Finding:
    """A mistake in the data, or a sign of one."""

    check: str  # short stable identifier, such as "grid-unit"
    severity: Severity  # error: the data contradict themselves; warning: look at it
    confidence: float  # share of the molecules (pairs of frames) examined that agree; 1 for facts about single rows
    what: str  # one line with numbers
    remedy: str  # the flag or the action that corrects it
    rows: tuple[tuple[str, str, int], ...] = ()  # up to 10 examples: split, file, row


@dataclass(frozen=True)
class Evidence:
    """The numbers kept of the molecules examined: about 215 bytes for each (196, and its pairs); picklable."""

    files: tuple[CheckedFile, ...]
    compositions: tuple[bytes, ...]  # sorted atomic numbers, one byte per atom
    molecules: np.ndarray  # of MOLECULE
    pairs: np.ndarray  # of PAIR


def merge(evidence: Sequence[Evidence]) -> Evidence:
    """Merge the evidence of several parts."""
    files = tuple(dict.fromkeys(file for part in evidence for file in part.files))
    compositions = tuple(dict.fromkeys(one for part in evidence for one in part.compositions))
    file_index = {file: index for index, file in enumerate(files)}
    composition_index = {one: index for index, one in enumerate(compositions)}
    molecules, pairs = [np.empty(0, MOLECULE)], [np.empty(0, PAIR)]
    for part in evidence:
        to_file = np.array([file_index[file] for file in part.files], dtype=np.int32)
        to_composition = np.array([composition_index[one] for one in part.compositions], dtype=np.int32)
        molecules.append(part.molecules.copy())
        molecules[-1]["file"] = to_file[part.molecules["file"]]
        molecules[-1]["composition"] = to_composition[part.molecules["composition"]]
        pairs.append(part.pairs.copy())
        pairs[-1]["file"] = to_file[part.pairs["file"]]
    return Evidence(files, compositions, np.concatenate(molecules), np.concatenate(pairs))

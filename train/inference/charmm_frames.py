"""Charges in local frames of atom triplets, in the file format of the DCM module of CHARMM.

The format is that of CHARMM's documentation (dcm) and of the public converters and tests of its authors (MMunibas/MDCM
and MMunibas/DCM-CHARMM-Test-Suite on GitHub). A frame of type BO is a triplet of atoms a, b, c, with

    z_a = z_b = (r_a - r_b)/|r_a - r_b|,  z_c = (r_c - r_b)/|r_c - r_b|,
    y_a = y_b = y_c = z_a × z_c, normalised,  x = z × y of each atom (a left-handed system).

Method: M. Devereux et al., J. Chem. Theory Comput. 2014, 10, 4229; O. T. Unke et al., J. Chem. Phys. 2017, 147,
161712. One file has the charges of one conformer: they move with their frames, and do not change otherwise.
"""

from __future__ import annotations

import io
import itertools

import ase
import numpy as np
from ase.neighborlist import build_neighbor_list, natural_cutoffs

from shared.errors import UserError

Frame = tuple[int | None, ...]
"""Three atoms of a frame; None beyond the last atom of a molecule of one or two."""

_BENT = 0.2
"""Smallest sine of a frame's angle, if there is a choice: near a line, slight bending turns a frame's plane."""

_LINE = 1e-3
"""Sine below which a frame has no plane."""

_ON_THE_AXIS = 1e-3
"""Largest distance of a linear molecule's charge from the axis, Å."""


def local_frames_text(atoms: ase.Atoms, charges: np.ndarray, sites: np.ndarray, residue: str) -> str:
    """Return the text of a .dcm file of one residue.

    Args:
        atoms: a molecule of N atoms, in the order of the residue's atoms in CHARMM's topology.
        charges: (N, n_dcm) in e.
        sites: (N, n_dcm, 3) in Å.
        residue: name in CHARMM's topology.

    Raises:
        UserError: all atoms lie on a line, and charges beside it.
    """
    frames = choose_frames(atoms)
    text = io.StringIO()
    text.write("1 0          ! residue types, residues with flexible charges\n\n")
    text.write(f"{residue}       ! residue\n{len(frames)}          ! frames\n")
    written: set[int] = set()
    for number, frame in enumerate(frames, start=1):
        indices = [0 if atom is None else atom + 1 for atom in frame]
        text.write("{:4d} {:4d} {:4d} BO  ! atoms of frame {}\n".format(*indices, number))
        axes = frame_axes(atoms.positions, frame)
        for atom, own, index in zip(frame, axes, indices, strict=True):
            if atom is None or atom in written:
                text.write(f"0 0          ! atom {index}: " + ("none\n" if atom is None else "see above\n"))
                continue
            written.add(atom)
            text.write(f"{charges.shape[1]} 0          ! charges and polarisable sites of atom {index}\n")
            displacements = sites[atom] - atoms.positions[atom]
            local = displacements @ own.T
            lost = np.abs(local @ own - displacements).max()
            if lost > _ON_THE_AXIS:
                raise UserError(
                    f"--local-frames: a charge of atom {atom} lies {lost:.2g} Å beside the line of the "
                    "molecule's atoms, where no frame reaches; bend the molecule a little"
                )
            for place, charge in zip(local, charges[atom], strict=True):
                text.write("".join(f"{value:18.10f}" for value in (*place, charge)) + "\n")
    text.write("\n")
    return text.getvalue()


def frame_axes(positions: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the axes of the three atoms of a frame.

    Args:
        positions: (N, 3) in Å.
        frame: atoms a, b, c.

    Returns:
        (3, 3, 3): of each atom its x, y, z; zero where they do not exist (on a line only z does).
    """
    axes = np.zeros((3, 3, 3))
    first, middle, last = frame
    if first is None or middle is None:
        return axes
    axes[:2, 2] = _unit(positions[first] - positions[middle])
    if last is None:
        return axes
    axes[2, 2] = _unit(positions[last] - positions[middle])
    normal = np.cross(axes[0, 2], axes[2, 2])
    if np.linalg.norm(normal) < _LINE:
        return axes
    axes[:, 1] = _unit(normal)
    axes[:, 0] = np.cross(axes[:, 2], axes[:, 1])
    return axes


def choose_frames(atoms: ase.Atoms) -> list[Frame]:
    """Return triplets that together hold every atom: bonded ones, as few and as far from linear as possible."""
    n = len(atoms)
    if n < 3:
        return [(*range(n), *[None] * (3 - n))]
    missing = set(range(n))
    frames: list[Frame] = []
    bent = [(triplet, sine) for triplet in _bonded(atoms) if (sine := _sine(atoms.positions, triplet)) >= _BENT]
    while missing and bent:
        best, _ = max(bent, key=lambda entry: (len(missing.intersection(entry[0])), round(entry[1], 2)))
        if not missing.intersection(best):
            break
        frames.append(best)
        missing.difference_update(best)
    for least in (_BENT, _LINE):
        for atom in range(n):
            nearest = _nearest(atoms, atom, least) if atom in missing else None
            if nearest:
                frames.append(nearest)
                missing.difference_update(nearest)
    if missing:
        # A linear molecule, of whose axes only the one along the line is used.
        order = np.argsort(_along_the_line(atoms.positions)).tolist()
        starts = [*range(0, n - 2, 3), *([n - 3] if n % 3 else [])]
        frames = [tuple(order[start : start + 3]) for start in starts]
    return frames


def completed_frame(positions: np.ndarray, atoms: tuple[int, ...]) -> Frame:
    """Return a frame of one to three atoms and, for those that lack, near ones; not in line if any is beside it."""
    frame = list(atoms)
    while len(frame) < min(3, len(positions)):
        distances = np.linalg.norm(positions - positions[frame[0]], axis=1).round(3)
        others = [atom for atom in np.argsort(distances, kind="stable").tolist() if atom not in frame]
        if len(frame) == 2:
            others.sort(key=lambda atom: _sine(positions, (frame[0], frame[1], atom)) < _BENT)
        frame.append(others[0])
    return (*frame, *[None] * (3 - len(frame)))


def _bonded(atoms: ase.Atoms) -> list[tuple[int, int, int]]:
    neighbours = build_neighbor_list(
        atoms, natural_cutoffs(atoms, mult=1.2), skin=0.0, self_interaction=False, bothways=True
    )
    triplets = []
    for middle in range(len(atoms)):
        bonded = sorted(neighbours.get_neighbors(middle)[0].tolist())
        triplets += [(first, middle, last) for first, last in itertools.combinations(bonded, 2)]
    return triplets


def _nearest(atoms: ase.Atoms, atom: int, least: float) -> tuple[int, int, int] | None:
    """Return the atom, its nearest one, and the next nearest that is not in line with both; None if all are."""
    distances = np.linalg.norm(atoms.positions - atoms.positions[atom], axis=1)
    _, middle, *others = np.argsort(distances, kind="stable").tolist()
    triplets = ((atom, middle, last) for last in others)
    return next((triplet for triplet in triplets if _sine(atoms.positions, triplet) >= least), None)


def _sine(positions: np.ndarray, triplet: tuple[int, int, int]) -> float:
    first, middle, last = triplet
    normal = np.cross(_unit(positions[first] - positions[middle]), _unit(positions[last] - positions[middle]))
    return float(np.linalg.norm(normal))


def _along_the_line(positions: np.ndarray) -> np.ndarray:
    """Return coordinates (N,) in Å along the line from the first atom to the farthest one."""
    from_first = positions - positions[0]
    farthest = np.linalg.norm(from_first, axis=1).round(6).argmax()
    return np.asarray(from_first @ _unit(from_first[farthest]))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))

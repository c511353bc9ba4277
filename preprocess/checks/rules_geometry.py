"""Rules about positions: their unit, atoms that coincide, geometries that occur twice."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import Evidence, Finding
from preprocess.checks.molecule_groups import FEWEST, FEWEST_ALL_AGREE, MoleculeGroup, examples
from shared.geometry import SHORTEST_DISTANCE

_IN_BOHR = (1.32, 2.4)
"""Range of bond lengths in Bohr over the sum of covalent radii in Å: 1.89 times 0.7 (N2, CO2) to 1.2 (H2)."""
_SHRUNK = (0.33, 0.65)
_SAME_ANGSTROM = 2e-5
"""Å, rounding of float32 positions and of text; a vibration moves atoms a hundred times farther."""
_NEIGHBOURS_COMPARED = 128
_SPLIT_ORDER = {"train": 0, "valid": 1, "test": 2}


def positions_unit(group: MoleculeGroup) -> list[Finding]:
    """Find R in Bohr, or divided by 0.529 once too often: 80 % of the molecules have bonds of such lengths."""
    bond = group.molecules["bond"]
    known = np.isfinite(bond)
    few = known.sum() < FEWEST
    if known.sum() < FEWEST_ALL_AGREE:
        return []
    for (low, high), name, remedy in (
        (_IN_BOHR, "Bohr taken for Å", "--position-unit bohr"),
        (_SHRUNK, "Å divided by 1.89", "give R of both files in Å: they were converted from Bohr once too often"),
    ):
        fits = known & (bond > low) & (bond < high)
        # Few molecules may be stretched geometries: half of them have to be clear.
        clear = not few or 1.1 * low < np.median(bond[known]) < 0.9 * high
        if clear and fits.sum() >= 0.8 * known.sum():
            if group.units.position_unit != "angstrom":
                remedy = "--position-unit angstrom" if name.startswith("Å") else "look at the unit of R"
            what = f"bonds are {np.median(bond[known]):.2f} times as long as the elements' usual ones: R is {name}"
            return [group.find("positions-unit", "error", fits, what, remedy, known)]
    return []


def close_atoms(group: MoleculeGroup) -> list[Finding]:
    """Find atoms within 0.4 Å of each other: no molecule has these."""
    shortest = group.molecules["lengths"][:, 2]
    bad = (group.molecules["n_atoms"] > 1) & (shortest < SHORTEST_DISTANCE)
    if not bad.any():
        return []
    what = f"{bad.sum()} of {len(bad)} molecules have atoms within {SHORTEST_DISTANCE} Å ({shortest[bad].min():.3g} Å)"
    remedy = "remove these molecules from both files or correct R (padding within N, R of another unit?)"
    return [group.find("close-atoms", "error", bad, what, remedy)]


def repeated_geometries(evidence: Evidence) -> list[Finding]:
    """Find the same geometry (in any frame and order of atoms, up to 2e-5 Å) twice in one split, or in two.

    Only the molecules examined are compared: in a sample of 5 % of two splits, a pair of copies is seen with a chance
    of 0.25 %, so that one copy in a sample indicates many. Molecules of one or two atoms are left out: a single
    distance recurs by chance. Mirror images count as copies, and so do frames that differ by an exchange of like atoms.

    These are warnings, since no value is wrong: within a split copies count twice, across splits they make the
    validation or test error too small.
    """
    known = evidence.molecules[evidence.molecules["n_atoms"] > 2]
    splits = np.array([_SPLIT_ORDER[file[0]] for file in evidence.files], dtype=np.int64)[known["file"]]
    twin = _same_geometry(known)
    findings = []
    for split, number in _SPLIT_ORDER.items():
        member = splits == number
        repeats = np.zeros(len(known), dtype=bool)
        repeats[[max(i, j) for i, j in twin if member[i] and member[j]]] = True
        if repeats.any():
            findings.append(_duplicates(evidence, known, repeats, split, int(member.sum())))
        leaked = np.zeros(len(known), dtype=bool)
        leaked[[j for i, j in twin if member[j] and splits[i] < number]] = True
        leaked[[i for i, j in twin if member[i] and splits[j] < number]] = True
        if leaked.any():
            findings.append(_leak(evidence, known, leaked, split, int(member.sum())))
    return findings


def _same_geometry(molecules: np.ndarray) -> np.ndarray:
    """Return the indices (pairs, 2) of molecules of one composition and charge whose lengths agree."""
    lengths = molecules["lengths"].astype(np.float64)
    charge = np.rint(molecules["charge"])
    order = np.lexsort((lengths[:, 0], charge, molecules["composition"]))
    lengths, charge, composition = lengths[order], charge[order], molecules["composition"][order]
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, min(_NEIGHBOURS_COMPARED, len(order) - 1) + 1):
        alike = (composition[step:] == composition[:-step]) & (charge[step:] == charge[:-step])
        near = alike & (lengths[step:, 0] - lengths[:-step, 0] < _SAME_ANGSTROM)
        if not near.any():
            break
        first = np.flatnonzero(near)
        same = (np.abs(lengths[first + step] - lengths[first]) < _SAME_ANGSTROM).all(axis=1)
        found.append(np.stack([order[first[same]], order[first[same] + step]], axis=1))
    return np.concatenate(found)


def _duplicates(evidence: Evidence, known: np.ndarray, repeats: np.ndarray, split: str, count: int) -> Finding:
    share = repeats.sum() / count
    return Finding(
        check="duplicate",
        severity="warning",
        confidence=1.0,
        what=f"{split}: {repeats.sum()} of the {count} molecules compared ({share:.2%}) repeat the geometry of another",
        remedy=f"remove the copies from the {split} files, unless they are meant to weigh double",
        rows=examples(evidence, known[repeats]),
    )


def _leak(evidence: Evidence, known: np.ndarray, leaked: np.ndarray, split: str, count: int) -> Finding:
    share = leaked.sum() / count
    return Finding(
        check="leak",
        severity="warning",
        confidence=1.0,
        what=f"{split}: {leaked.sum()} of {count} molecules compared ({share:.2%}) have a geometry of another split",
        remedy=f"remove them from the {split} files (or from the other split): its errors would be too good",
        rows=examples(evidence, known[leaked]),
    )

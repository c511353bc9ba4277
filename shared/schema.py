"""The table of array names: what each array of the cache holds, its shape, dtype, unit and padding.

Shapes leave out the leading sample axis and use the names of a bucket's sizes. A molecule with two atoms, three grid
points and two edges in a bucket of (4 atoms, 5 grid points, 3 edges)::

    atomic_numbers   [ 6, 8, 0, 0 ]              0 marks a padded atom
    positions        [ r0, r1, 0, 0 ]
    grid             [ g0, g1, g2, 0, 0 ]        only the first n_grid points are real
    esp              [ v0, v1, v2, 0, 0 ]
    physnet_dst      [ 0, 1, 3 ]                 only the first physnet_n_edges pairs are real;
    physnet_src      [ 1, 0, 3 ]                 padding points from the last atom to itself, which keeps
                                                 every index in range and dst sorted

The pair (dst, src) points from src to dst: dst receives the message. Every directed pair of distinct atoms closer
than the cutoff is listed once; lists are sorted by dst, then src. Indices count the atoms of one molecule.

A molecule may lack targets, which then take no part in their loss and their errors: an unknown energy, unknown forces
(of all its real atoms together), an unknown dipole and an unknown quadrupole are NaN, and a molecule without ESP has
n_grid = 0. Padding is the same whether a target is known or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 2
"""Part of every stage's digest: a change of layout makes new folders instead of misreading old ones."""

Axis = Literal["atoms", "grid", "physnet_edges", "dcmnet_edges", "xyz"]


@dataclass(frozen=True)
class ArraySpec:
    """One array of the cache: shape after the sample axis, dtype, unit, padding value and meaning."""

    axes: tuple[Axis, ...]
    dtype: str
    unit: str
    padding: str
    meaning: str


FRAME_ARRAYS: dict[str, ArraySpec] = {
    "atomic_numbers": ArraySpec(("atoms",), "int32", "-", "0", "atomic numbers Z"),
    "positions": ArraySpec(("atoms", "xyz"), "float32", "Å", "0", "relative to the centre of mass"),
    "total_charge": ArraySpec((), "float32", "e", "-", "total charge Q of the molecule"),
    "energy": ArraySpec((), "float32", "eV", "-", "E minus the sum of per-element reference energies; NaN: unknown"),
    "forces": ArraySpec(("atoms", "xyz"), "float32", "eV/Å", "0", "F = -dE/dR; NaN of all real atoms: unknown"),
    "dipole": ArraySpec(("xyz",), "float32", "e·Å", "-", "about the centre of mass; NaN: unknown"),
    "n_grid": ArraySpec((), "int32", "-", "-", "number of real grid points; 0: no ESP"),
    "grid": ArraySpec(("grid", "xyz"), "float32", "Å", "0", "relative to the centre of mass"),
    "esp": ArraySpec(("grid",), "float32", "Hartree/e", "0", "electrostatic potential at the grid points"),
    "row": ArraySpec((), "int64", "-", "-", "row in the split's input files, counted through them in order"),
}

OPTIONAL_FRAME_ARRAYS: dict[str, ArraySpec] = {
    "quadrupole": ArraySpec(
        ("xyz", "xyz"), "float32", "e·Å²", "-", "½ Σ q (3 x xᵀ - |x|² 1) about the centre of mass; NaN: unknown"
    ),
}
"""Arrays of all shards of a stage, or of none: only frames of files that hold the quantity have them."""

_EDGE_AXES: tuple[tuple[str, Axis], ...] = (("physnet", "physnet_edges"), ("dcmnet", "dcmnet_edges"))

EDGE_ARRAYS: dict[str, ArraySpec] = {
    f"{network}_{name}": spec
    for network, axis in _EDGE_AXES
    for name, spec in {
        "dst": ArraySpec((axis,), "int32", "-", "atoms - 1", "receiving atom"),
        "src": ArraySpec((axis,), "int32", "-", "atoms - 1", "sending atom"),
        "n_edges": ArraySpec((), "int32", "-", "-", "number of real edges"),
    }.items()
}

NAME_ARRAY = "name"
"""Array beside FRAME_ARRAYS: UTF-8 bytes of fixed length, the molecule's name for reports (empty if not given)."""

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

"""A clean pair of files rewritten as each kind that groups have on disk (docs/from-train-joint.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shared.units import BOHR_IN_ANGSTROM, DEBYE_IN_E_ANGSTROM, HARTREE_IN_EV

Arrays = dict[str, np.ndarray]
Kind = Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]


def widened(values: np.ndarray, width: int) -> np.ndarray:
    """Axis 1 filled up with zeros."""
    return np.pad(values, [(0, 0), (0, width - values.shape[1])] + [(0, 0)] * (values.ndim - 2))


def filled(efd: Arrays, esp: Arrays, width: int, point: float, value: float) -> tuple[np.ndarray, np.ndarray]:
    """Grid and ESP with so many points, those that are not real at ``point`` with ``value``."""
    grid, values = widened(esp["vdw_surface"], width), widened(esp["esp"], width)
    padding = np.arange(width) >= esp["n_grid"][:, None]
    return np.where(padding[..., None], point, grid).astype(grid.dtype), np.where(padding, value, values)


def seed(efd: Arrays, esp: Arrays, shift: np.ndarray | None = None) -> tuple[Arrays, Arrays]:
    """Sixty atoms wide, equally many points of every molecule, nothing else; perhaps in another frame."""
    count = int(esp["n_grid"].min())
    geometry = {"R": widened(efd["R"], 60).astype(np.float64), "Z": widened(efd["Z"], 60).astype(np.int64)}
    geometry["N"] = efd["N"].astype(np.int64)
    grid = esp["vdw_surface"][:, :count]
    grid = grid if shift is None else grid - grid.min(axis=1, keepdims=True)
    targets = {"E": efd["E"], "F": widened(efd["F"], 60), "Dxyz": efd["Dxyz"]}
    return {**geometry, **targets}, {**geometry, "vdw_surface": grid, "esp": esp["esp"][:, :count]}


def today(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """3,000 points, filled up at 1e6 with 0; dipoles in e·Å; a record of units; copies of the grid."""
    record = {"R": "angstrom", "E": "ev", "F": "ev_angstrom", "Dxyz": "e_angstrom", "esp": "hartree_per_e"}
    text = np.str_(json.dumps({**record, "vdw_surface": "angstrom"}))
    grid, values = filled(efd, esp, 3000, 1e6, 0.0)
    dipole = (efd["Dxyz"] * DEBYE_IN_E_ANGSTROM).astype(np.float64)
    geometry = {key: efd[key] for key in ("R", "Z", "N")}
    return (
        {**geometry, "E": efd["E"], "F": efd["F"], "Dxyz": dipole, "_mmml_units": text},
        {**geometry, "vdw_surface": grid, "vdw_grid": grid, "esp": values, "Dxyz": dipole, "_mmml_units": text},
    )


def today_hartree(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """The same with the units of the quantum-chemistry program kept."""
    ours, theirs = today(efd, esp)
    record = {"R": "angstrom", "E": "hartree", "F": "hartree_bohr", "Dxyz": "debye", "vdw_surface": "bohr"}
    text = np.str_(json.dumps({**record, "esp": "hartree_per_e"}))
    grid = np.where(theirs["vdw_surface"] < 1e5, theirs["vdw_surface"] / BOHR_IN_ANGSTROM, 1e6)
    forces = efd["F"].astype(np.float64) / HARTREE_IN_EV * BOHR_IN_ANGSTROM
    ours |= {"E": efd["E"] / HARTREE_IN_EV, "F": forces, "Dxyz": efd["Dxyz"], "_mmml_units": text}
    return ours, {**theirs, "vdw_surface": grid, "vdw_grid": grid, "Dxyz": efd["Dxyz"], "_mmml_units": text}


def molpro_metadata(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """Pickled metadata, a mask of points, and other quantities."""
    extra: dict[str, Any] = {
        "metadata": np.array([{"program": "molpro"}], dtype=object),
        "com": np.zeros((len(efd["E"]), 3)),
        "mono": np.zeros(efd["Z"].shape),
        "quadrupole": np.zeros((len(efd["E"]), 3, 3)),
        "id": np.arange(len(efd["E"])),
    }
    mask = np.arange(esp["esp"].shape[1]) < esp["n_grid"][:, None]
    grids = {key: esp[key] for key in ("R", "Z", "N", "esp", "vdw_surface")}
    return {**efd, **extra}, {**grids, **extra, "espMask": mask}


def molpro_bare(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """No counts, no geometries beside the ESP; grids filled with zeros."""
    grid, values = filled(efd, esp, esp["esp"].shape[1] + 7, 0.0, 0.0)
    return {key: efd[key] for key in ("R", "Z", "E", "F", "Dxyz")}, {"vdw_surface": grid, "esp": values}


def q_is_quadrupole(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """``Q`` of nine numbers."""
    return {**efd, "Q": np.ones((len(efd["E"]), 3, 3))}, esp


def esp_grid_name(efd: Arrays, esp: Arrays) -> tuple[Arrays, Arrays]:
    """The DCMNet loader's names and columns."""
    column = {"N": efd["N"][:, None]}
    grids = {"R": efd["R"], "Z": efd["Z"], **column, "esp": esp["esp"], "n_grid": esp["n_grid"][:, None]}
    ours = {key: efd[key] for key in ("R", "Z", "F")} | column | {"E": efd["E"][:, None], "D": efd["Dxyz"]}
    return ours, {**grids, "esp_grid": esp["vdw_surface"]}


PAIRS: dict[str, Kind] = {
    "seed-same-frame": seed,
    "seed-other-frame": lambda efd, esp: seed(efd, esp, np.zeros(3)),
    "today": today,
    "today-hartree": today_hartree,
    "molpro-metadata": molpro_metadata,
    "molpro-bare": molpro_bare,
    "q-is-quadrupole": q_is_quadrupole,
    "esp_grid-name": esp_grid_name,
}


def evaluated(efd: Arrays, esp: Arrays) -> Arrays:
    """One file with everything, of one molecule, in atomic units without a record."""
    assert (efd["Z"] == efd["Z"][0]).all()
    grid, values = filled(efd, esp, 3000, 1e6, 0.0)
    n = int(efd["N"][0])
    return {
        "R": efd["R"][:, :n],
        "Z": efd["Z"][0, :n],
        "N": np.int64(n),  # type: ignore[dict-item]
        "E": efd["E"] / HARTREE_IN_EV,
        "F": efd["F"][:, :n].astype(np.float64) / HARTREE_IN_EV * BOHR_IN_ANGSTROM,
        "Dxyz": efd["Dxyz"],
        "Ef": np.zeros((len(efd["E"]), 3)),
        "esp": values,
        "esp_grid": np.where(grid < 1e5, grid / BOHR_IN_ANGSTROM, 1e6),
    }


def write_kind(kind: str, folder: Path, stem: str, efd: Arrays, esp: Arrays) -> tuple[str, str]:
    """Write a pair of this kind, compressed as all of them are; the names of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{stem}-efd.npz", folder / f"{stem}-esp.npz"
    for path, arrays in zip(paths, PAIRS[kind](efd, esp), strict=True):
        np.savez_compressed(path, **arrays)
    return str(paths[0]), str(paths[1])

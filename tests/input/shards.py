"""Molecules of a cache, unpadded, and the same molecules of a clean pair of files: for comparing the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses
from scipy.spatial import KDTree

from shared.schema import FRAME_ARRAYS, SPLITS
from shared.units import DEBYE_IN_E_ANGSTROM
from train.data.dataset import open_cache

Molecule = dict[str, Any]


def read_shards(cache_dir: Path) -> list[Molecule]:
    """Every molecule of the current frames; energies are totals."""
    cache = open_cache(cache_dir, 6.0, 10.0)
    found = []
    for split in SPLITS:
        for bucket in cache.load_split(split) if cache.has_split(split) else []:
            columns = {name: bucket.column(name) for name in FRAME_ARRAYS}
            for i in range(len(bucket)):
                numbers = columns["atomic_numbers"][i]
                real = numbers > 0
                found.append(
                    {
                        "split": split,
                        "row": int(columns["row"][i]),
                        "numbers": numbers[real],
                        "positions": columns["positions"][i][real],
                        "forces": columns["forces"][i][real],
                        "energy": float(columns["energy"][i])
                        + sum(cache.reference_energies_ev[int(z)] for z in numbers[real]),
                        "dipole": columns["dipole"][i],
                        "grid": columns["grid"][i][: columns["n_grid"][i]],
                        "esp": columns["esp"][i][: columns["n_grid"][i]],
                    }
                )
    return found


def read_clean(efd: Path | dict[str, np.ndarray], esp: Path | dict[str, np.ndarray]) -> list[Molecule]:
    """The molecules of a pair in the documented format, about their centre of mass, in the project's units."""
    targets = dict(np.load(efd, allow_pickle=False)) if isinstance(efd, Path) else efd
    grids = dict(np.load(esp, allow_pickle=False)) if isinstance(esp, Path) else esp
    found = []
    for i, n in enumerate(targets["N"]):
        numbers, positions = targets["Z"][i, :n], targets["R"][i, :n].astype(np.float64)
        mass = atomic_masses[numbers]
        center = (mass[:, None] * positions).sum(axis=0) / mass.sum()
        points = grids["n_grid"][i]
        found.append(
            {
                "row": i,
                "numbers": numbers,
                "positions": positions - center,
                "forces": targets["F"][i, :n],
                "energy": float(targets["E"][i]),
                "dipole": targets["Dxyz"][i] * DEBYE_IN_E_ANGSTROM,
                "grid": grids["vdw_surface"][i, :points] - center,
                "esp": grids["esp"][i, :points],
            }
        )
    return found


def assert_same(found: list[Molecule], clean: list[Molecule], frame: float = 1e-5) -> None:
    """Every molecule found is the one of its row; its grid may be a part of the clean one.

    Args:
        found: of a cache.
        clean: by row.
        frame: Å, how far the grid may lie off.
    """
    assert found
    for ours in found:
        theirs = clean[ours["row"]]
        np.testing.assert_array_equal(ours["numbers"], theirs["numbers"])
        np.testing.assert_allclose(ours["positions"], theirs["positions"], atol=1e-5)
        # float32 resolves 5e-4 eV of what is left of a total energy after its reference is subtracted.
        assert abs(ours["energy"] - theirs["energy"]) < 1e-3
        np.testing.assert_allclose(ours["forces"], theirs["forces"], atol=2e-5, rtol=1e-6)
        np.testing.assert_allclose(ours["dipole"], theirs["dipole"], atol=1e-6)
        assert_same_grid(ours, theirs, frame)


def assert_same_grid(ours: Molecule, theirs: Molecule, frame: float) -> None:
    """The points of ours are points of theirs, and their potentials are equal to float32."""
    assert 0 < len(ours["esp"]) <= len(theirs["esp"])
    near = KDTree(ours["grid"]).sparse_distance_matrix(KDTree(theirs["grid"]), frame, output_type="ndarray")
    value = ours["esp"][near["i"]]
    alike = np.abs(theirs["esp"][near["j"]] - value) <= 1e-6 * np.abs(value)
    missing = np.setdiff1d(np.arange(len(ours["esp"])), near["i"][alike])
    assert not len(missing), f"row {ours['row']}: no such point as {missing[0]}"

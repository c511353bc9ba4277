"""Measure each molecule for the checks: geometry, targets, ESP fits, pairs of near frames."""

from __future__ import annotations

import numpy as np

from preprocess.checks.evidence import MOLECULE, CheckedFile, CheckInput, Evidence
from preprocess.checks.measure_esp import examine_esp
from preprocess.checks.measure_frame_pairs import near_frames
from preprocess.checks.physical_constants import DIPOLE_UNITS, ESP_UNITS, FORCE_UNITS, NOBLE_GASES
from preprocess.checks.steps import steps_of_rows
from shared.elements import COVALENT_RADII, MASSES
from shared.schema import SPLITS

_DISTANCES_AT_ONCE = 4_000_000


def measure(molecules: CheckInput) -> Evidence:
    """Measure n molecules of one pair of files; ``merge`` joins the evidence of several chunks.

    The work per molecule is bounded: at most 512 of its grid points are read, the wrong grids are tried on 24
    molecules of a call, and the pairs of near frames are found among the molecules of one call. A call with a few
    hundred molecules of a file is therefore enough for every check but the duplicates.
    """
    # Values up to float32's largest are accepted and may overflow here.
    with np.errstate(all="ignore"):
        return _measure(molecules)


def _measure(molecules: CheckInput) -> Evidence:
    width = int(molecules.n_atoms.max(initial=1))
    real = np.arange(width) < molecules.n_atoms[:, None]
    numbers = np.where(real, molecules.atomic_numbers[:, :width], 0)
    positions = np.where(real[..., None], molecules.positions[:, :width], 0.0).astype(np.float64)
    forces = np.where(real[..., None], molecules.forces[:, :width], 0.0).astype(np.float64)
    found = np.zeros(len(real), MOLECULE)
    compositions, found["composition"] = _compositions(numbers)
    for name, values in (
        ("row", molecules.rows),
        ("n_atoms", molecules.n_atoms),
        ("n_grid", molecules.n_grid),
        ("charge", molecules.total_charge),
        ("energy", molecules.energy),
        ("dipole", np.linalg.norm(molecules.dipole, axis=1)),
    ):
        found[name] = values
    found["quadrupole"] = np.nan
    if molecules.quadrupole is not None:
        found["quadrupole"] = np.linalg.norm(molecules.quadrupole, axis=(1, 2))
    files: tuple[CheckedFile, ...] = (molecules.file,)
    if molecules.split is not None:
        present, found["file"] = np.unique(molecules.split, return_inverse=True)
        files = tuple(molecules.file._replace(split=SPLITS[number]) for number in present)
    found["lengths"], found["bond"] = lengths_and_bonds(numbers, positions, real)
    found["force"], found["net_force"], found["torque"] = _force_sums(positions, forces, real)
    found["force_step"] = steps_of_rows(forces, FORCE_UNITS.values())
    # The dipole of an ion was moved to its centre of mass.
    found["dipole_step"] = np.where(
        molecules.total_charge == 0, steps_of_rows(molecules.dipole, DIPOLE_UNITS.values()), np.nan
    )
    found["esp_step"] = steps_of_rows(molecules.esp_values, ESP_UNITS.values())
    mass = MASSES[numbers]
    center = np.einsum("na,nak->nk", mass, positions) / np.maximum(mass.sum(axis=1), 1e-12)[:, None]
    examine_esp(molecules, numbers, positions, center, found)
    found["nowhere"] = 0.0 if molecules.nowhere is None else molecules.nowhere
    return Evidence(
        files=files,
        compositions=compositions,
        molecules=found,
        pairs=near_frames(numbers, positions, forces, molecules.energy),
    )


def _compositions(numbers: np.ndarray) -> tuple[tuple[bytes, ...], np.ndarray]:
    ordered, index = np.unique(np.sort(numbers, axis=1).astype(np.uint8), axis=0, return_inverse=True)
    return tuple(row[row > 0].tobytes() for row in ordered), index.reshape(-1)


def lengths_and_bonds(numbers: np.ndarray, positions: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return invariants of each geometry, and its bond lengths relative to the elements' usual ones.

    Args:
        numbers: (n, atoms), 0 = padding.
        positions: (n, atoms, 3) in Å.
        real: (n, atoms) bool.

    Returns:
        (n, 5) in Å: mean, root mean square, least and greatest interatomic distance, and the mean of the distances
        weighted by both atomic numbers, harmonic. An error of the positions changes none by much more than itself,
        and they do not depend on frame or order of the atoms. Zeros for single atoms.
        (n,) median over the atoms of the distance to the nearest neighbour over the sum of the covalent radii; NaN
        for single atoms and where noble gases are, which have no bonds.
    """
    n, atoms = numbers.shape
    lengths, bonds = np.zeros((n, 5)), np.full(n, np.nan)
    step = max(1, _DISTANCES_AT_ONCE // atoms**2)
    for start in range(0, n if atoms > 1 else 0, step):
        block = slice(start, start + step)
        lengths[block], bonds[block] = _lengths_of_block(numbers[block], positions[block], real[block])
    bonds[(real.sum(axis=1) < 2) | np.isin(numbers, NOBLE_GASES).any(axis=1)] = np.nan
    lengths[real.sum(axis=1) < 2] = 0.0
    return lengths, bonds


def _lengths_of_block(numbers: np.ndarray, positions: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.triu_indices(numbers.shape[1], 1)
    both = real[:, i] & real[:, j]
    distance = np.sqrt(((positions[:, i] - positions[:, j]) ** 2).sum(axis=2))
    count = np.maximum(both.sum(axis=1), 1)
    weight = np.where(both, (numbers[:, i] * numbers[:, j]).astype(np.float64), 0.0)
    lengths = np.stack(
        [
            np.where(both, distance, 0.0).sum(axis=1) / count,
            np.sqrt(np.where(both, distance**2, 0.0).sum(axis=1) / count),
            np.where(both, distance, np.inf).min(axis=1),
            np.where(both, distance, 0.0).max(axis=1),
            weight.sum(axis=1) / np.maximum((weight / np.maximum(distance, 1e-6)).sum(axis=1), 1e-12),
        ],
        axis=1,
    )
    ratio = np.full((*real.shape, real.shape[1]), np.inf)
    relative = np.where(both, distance / (COVALENT_RADII[numbers[:, i]] + COVALENT_RADII[numbers[:, j]]), np.inf)
    ratio[:, i, j] = ratio[:, j, i] = relative
    nearest = np.where(real, ratio.min(axis=2), np.inf)
    # Padding is infinite, hence last: the median of the real ones is among the first n_atoms.
    middle = np.maximum(real.sum(axis=1) - 1, 0) // 2
    return lengths, np.take_along_axis(np.sort(nearest, axis=1), middle[:, None], axis=1)[:, 0]


def _force_sums(
    positions: np.ndarray, forces: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest |F| (n,), and the sums of F and of r × F (n,) relative to the sums of the magnitudes."""
    magnitude = np.linalg.norm(forces, axis=2)
    centroid = positions.sum(axis=1) / np.maximum(real.sum(axis=1), 1)[:, None]
    arms = np.where(real[..., None], positions - centroid[:, None], 0.0)
    total = np.linalg.norm(forces.sum(axis=1), axis=1)
    torque = np.linalg.norm(np.cross(arms, forces).sum(axis=1), axis=1)
    return (
        magnitude.max(axis=1, initial=0.0),
        total / np.maximum(magnitude.sum(axis=1), 1e-30),
        torque / np.maximum((np.linalg.norm(arms, axis=2) * magnitude).sum(axis=1), 1e-30),
    )

"""Charge models made by hand, with random sites in frames of every kind."""

from __future__ import annotations

import numpy as np
from ase.build import molecule

from train.fixed_charges.charge_model import ChargeModel, Frame, Kernel, pair_distances

BONDS = {
    "H2O": [(0, 1), (0, 2)],
    "CO2": [(0, 1), (0, 2)],
    "NH3": [(0, 1), (0, 2), (0, 3)],
    "CH4": [(0, 1), (0, 2), (0, 3), (0, 4)],
    "H2CO": [(0, 1), (1, 2), (1, 3)],
    "H2O2": [(0, 1), (0, 2), (1, 3)],
    "N2": [(0, 1)],
    "C3H8": [(0, 1), (0, 2), *((0, h) for h in (3, 4)), *((1, h) for h in (5, 7, 8)), *((2, h) for h in (6, 9, 10))],
}
"""Of ASE's molecules."""


def random_model(name: str, frames: tuple[Frame, ...], seed: int = 0) -> ChargeModel:
    """A neutral molecule of ASE with one random charge, up to 0.3 Å along each axis, in each of the frames."""
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    charges = rng.normal(size=len(frames))
    local = 0.3 * rng.uniform(-1.0, 1.0, (len(frames), 3))
    local *= [[place < len(frame) or len(frame) == 3 for place in (1, 2, 3)] for frame in frames]
    local[[len(frame) == 1 for frame in frames]] = 0.0
    bonds = np.array(BONDS[name])
    return ChargeModel(atoms.numbers, atoms.positions, bonds, 0, charges - charges.mean(), frames, local)


def water() -> ChargeModel:
    """Sites in frames of three atoms, two and one, on all atoms."""
    return random_model("H2O", ((0, 1, 2), (0, 1, 2), (0,), (1, 0, 2), (1, 0, 2), (2, 0), (2, 0)))


def carbon_dioxide() -> ChargeModel:
    """Sites on the line."""
    return random_model("CO2", ((0,), (0, 1), (1, 0), (1, 0), (2, 0), (2,)))


def propane() -> ChargeModel:
    """A molecule with atoms that are four bonds apart."""
    return random_model("C3H8", ((0, 1, 2), (1, 0, 2), (2, 0, 1), *((h,) for h in range(3, 11))))


def with_kernel(model: ChargeModel, width: float = 1.0, seed: int = 1) -> ChargeModel:
    """The model with a kernel at 12 geometries that shifts its sites a few hundredths of an Å, also beside lines."""
    rng = np.random.default_rng(seed)
    geometries = model.positions + rng.normal(scale=0.05, size=(12, *model.positions.shape))
    coefficients = rng.normal(scale=0.02, size=(12, len(model.charges), 3))
    line = np.linalg.matrix_rank(model.positions - model.positions[0], tol=1e-6) == 1 and len(model.positions) == 3
    thirds = tuple(3 - sum(frame) if line and len(frame) == 2 else None for frame in model.frames)
    kernel = Kernel(pair_distances(geometries), width, coefficients, thirds)
    return ChargeModel(**{**vars(model), "kernel": kernel})


def bent(model: ChargeModel, count: int, seed: int = 2) -> np.ndarray:
    """Geometries (count, N, 3): the reference one, turned and distorted."""
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    return np.einsum("nx,gxy->gny", model.positions, turns) + rng.normal(
        scale=0.08, size=(count, *model.positions.shape)
    )


def tip4p() -> ChargeModel:
    """Water of W. L. Jorgensen et al., J. Chem. Phys. 1983, 79, 926."""
    half = np.radians(104.52) / 2.0
    positions = 0.9572 * np.array(
        [[0.0, 0.0, 0.0], [np.sin(half), np.cos(half), 0.0], [-np.sin(half), np.cos(half), 0.0]]
    )
    local = np.array([[0.15 * np.cos(half), 0.15 * np.sin(half), 0.0], [0.0] * 3, [0.0] * 3])
    frames: tuple[Frame, ...] = ((0, 1, 2), (1, 0), (2,))
    return ChargeModel(
        np.array([8, 1, 1]), positions, np.array(BONDS["H2O"]), 0, np.array([-1.04, 0.52, 0.52]), frames, local
    )

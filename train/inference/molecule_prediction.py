"""What is predicted for one molecule: by a model, or by an ensemble of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import ase
import numpy as np

from shared.elements import centers_of_mass
from shared.input.total_charge import total_charge_of
from shared.multipoles import moved_quadrupoles
from train.inference.guards import finite
from train.model.prediction import Prediction


@dataclass(frozen=True)
class Deviations:
    """Standard deviations among the K members of an ensemble (K - 1 in the denominator), of a molecule of N atoms."""

    energy: float  # eV
    forces: np.ndarray  # (N, 3) eV/Å
    charges: np.ndarray  # (N,) e, PhysNet's
    dipole: np.ndarray  # (3,) e·Å, of PhysNet's charges
    dipole_dcm: np.ndarray  # (3,) e·Å, of the distributed charges


@dataclass(frozen=True)
class MoleculePrediction:
    """Predictions for one molecule of N atoms; of an ensemble, the means of its members' predictions.

    Distributed charges have no mean, because their places differ: those of an ensemble are its first member's.
    """

    energy: float  # eV, reference energies included
    forces: np.ndarray  # (N, 3) eV/Å, exactly -dE/dR
    charges: np.ndarray  # (N,) e, PhysNet's
    dipole: np.ndarray  # (3,) e·Å, of PhysNet's charges about the centre of mass
    dcm_charges: np.ndarray  # (N, n_dcm) e
    dcm_sites: np.ndarray  # (N, n_dcm, 3) Å
    dipole_dcm: np.ndarray  # (3,) e·Å, of the distributed charges about the centre of mass
    quadrupole: np.ndarray  # (3, 3) e·Å², traceless, of PhysNet's charges about the centre of mass
    quadrupole_dcm: np.ndarray  # (3, 3) e·Å², traceless, of the distributed charges about the centre of mass
    outside: tuple[str, ...] = ()  # what the molecule has that no training molecule had
    deviations: Deviations | None = None  # of an ensemble
    members: tuple[MoleculePrediction, ...] = ()  # of an ensemble: the predictions of each


@dataclass(frozen=True)
class Derivatives:
    """Second derivatives of the energy, and first ones of the dipoles, of one molecule of N atoms."""

    prediction: MoleculePrediction
    hessian: np.ndarray  # (3 N, 3 N) eV/Å², symmetric
    dipole: np.ndarray  # (3 N, 3) e, d(dipole of PhysNet's charges)/dR
    dipole_dcm: np.ndarray  # (3 N, 3) e, d(dipole of the distributed charges)/dR


def member_prediction(
    predicted: Prediction, place: tuple[int, int], molecule: ase.Atoms, references: np.ndarray, where: str
) -> MoleculePrediction:
    """Return what one model predicts for one molecule.

    Args:
        predicted: of all members and a batch, (K, B, ...).
        place: member and molecule.
        molecule: without padding.
        references: (119,) reference energies of this member in eV, by atomic number.
        where: beginning of messages.

    Raises:
        UserError: a number is not finite.
    """
    n = len(molecule)

    def of_molecule(name: str, *rows: slice) -> np.ndarray:
        return finite(np.asarray(getattr(predicted, name)[(*place, *rows)], np.float64), where, name)

    # The model's origin is the centre of the elements' standard masses.
    centers = centers_of_mass(molecule.positions[None], molecule.numbers[None])[0], molecule.get_center_of_mass()
    charge, shift = total_charge_of(molecule), centers[1] - centers[0]
    moved = -charge * shift

    def moved_quadrupole(of: Literal["", "_dcm"]) -> np.ndarray:
        moments = (of_molecule(f"quadrupole{of}")[None], of_molecule(f"dipole{of}")[None])
        return moved_quadrupoles(*moments, np.array([charge]), shift[None])[0]

    # The reference energies are thousands of eV: added in float64.
    return MoleculePrediction(
        energy=float(of_molecule("energy")) + float(references[molecule.numbers].sum()),
        forces=of_molecule("forces", slice(n)),
        charges=of_molecule("charges", slice(n)),
        dipole=of_molecule("dipole") + moved,
        dcm_charges=of_molecule("dcm_charges", slice(n)),
        dcm_sites=of_molecule("dcm_sites", slice(n)) + molecule.positions.mean(axis=0),
        dipole_dcm=of_molecule("dipole_dcm") + moved,
        quadrupole=moved_quadrupole(""),
        quadrupole_dcm=moved_quadrupole("_dcm"),
    )


def mean_prediction(members: Sequence[MoleculePrediction], outside: tuple[str, ...]) -> MoleculePrediction:
    """Return the prediction of an ensemble, or that of a model by itself.

    Args:
        members: predictions for one molecule.
        outside: what it has that no training molecule had.
    """
    if len(members) == 1:
        return replace(members[0], outside=outside)

    def of_members(name: str) -> np.ndarray:
        return np.stack([getattr(member, name) for member in members])

    def mean(name: str) -> np.ndarray:
        return np.asarray(of_members(name).mean(axis=0))

    def deviation(name: str) -> Any:
        return of_members(name).std(axis=0, ddof=1)

    return MoleculePrediction(
        energy=float(mean("energy")),
        forces=mean("forces"),
        charges=mean("charges"),
        dipole=mean("dipole"),
        dcm_charges=members[0].dcm_charges,
        dcm_sites=members[0].dcm_sites,
        dipole_dcm=mean("dipole_dcm"),
        quadrupole=mean("quadrupole"),
        quadrupole_dcm=mean("quadrupole_dcm"),
        outside=outside,
        deviations=Deviations(
            energy=float(deviation("energy")),
            forces=deviation("forces"),
            charges=deviation("charges"),
            dipole=deviation("dipole"),
            dipole_dcm=deviation("dipole_dcm"),
        ),
        members=tuple(members),
    )

"""Normal modes of a molecule from its Hessian; translations and rotations are projected out.

E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations (1955), chapters 2 and 11.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import units

HBAR = units._hbar * units.J * units.second
"""ħ in eV times ASE's unit of time, Å (u/eV)^1/2."""

_FREE_BELOW = 50.0
"""1/cm: slower modes are nearly free rotations, which no straight displacement describes."""

_INDEPENDENT = 1e-3
"""Singular value, relative to the largest, above which a rotation moves a (nearly) linear molecule."""


class NormalModes(NamedTuple):
    """The M = 3 N - 6 (linear: 3 N - 5) modes in order of their frequency."""

    quanta: np.ndarray  # (M,) ħω in eV; imaginary ones are negative
    displacements: np.ndarray  # (M, N, 3) u^-1/2: displacement in Å for one Å·u^1/2 along the mode

    @property
    def wavenumbers(self) -> np.ndarray:
        """Return the wavenumbers (M,) in 1/cm."""
        return self.quanta / units.invcm


def normal_modes(positions: np.ndarray, masses: np.ndarray, hessian: np.ndarray) -> NormalModes:
    """Return the normal modes at a stationary point of the energy.

    Args:
        positions: (N, 3) Å.
        masses: (N,) u.
        hessian: (3 N, 3 N) eV/Å².
    """
    roots = np.repeat(np.sqrt(masses), 3)
    basis = _vibrations(positions, masses)
    stiffness, coefficients = np.linalg.eigh(basis.T @ (hessian / np.outer(roots, roots)) @ basis)
    displacements = ((basis @ coefficients) / roots[:, None]).T.reshape(-1, len(masses), 3)
    return NormalModes(np.sign(stiffness) * np.sqrt(np.abs(stiffness)) * HBAR, displacements)


def mean_squares(quanta: np.ndarray, temperature: float, statistics: str) -> np.ndarray:
    """Return ⟨Q²⟩ of harmonic oscillators, u·Å².

    Args:
        quanta: ħω in eV.
        temperature: K.
        statistics: ``quantum``: ħ/2ω · coth(ħω/2kT); ``classical``: kT/ω².
    """
    thermal = temperature * units.kB
    if statistics == "classical":
        return thermal * (HBAR / quanta) ** 2
    coth = 1.0 / np.tanh(quanta / (2.0 * thermal)) if thermal else 1.0
    return HBAR**2 / (2.0 * quanta) * coth


def thermal_spread(quanta: np.ndarray, temperature: float, statistics: str) -> np.ndarray:
    """Return the standard deviation of each mode, Å·u^1/2; modes below 50/cm, imaginary ones too, are at rest.

    Args:
        quanta: ħω in eV; imaginary ones are negative.
        temperature: K.
        statistics: as of :func:`mean_squares`.
    """
    moving = quanta >= _FREE_BELOW * units.invcm
    spread = np.zeros(len(quanta))
    spread[moving] = np.sqrt(mean_squares(quanta[moving], temperature, statistics))
    return spread


def _vibrations(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return orthonormal mass-weighted coordinates (3 N, M) that neither move nor turn the molecule."""
    centred = positions - masses @ positions / masses.sum()
    roots = np.sqrt(masses)[:, None]
    rigid = [(roots * axis).ravel() for axis in np.broadcast_to(np.eye(3)[:, None], (3, *centred.shape))]
    rigid += [(roots * np.cross(axis, centred)).ravel() for axis in np.eye(3)]
    left, singular, _ = np.linalg.svd(np.stack(rigid, axis=1))
    # Five for a linear molecule, which does not turn around its axis.
    return left[:, int((singular > _INDEPENDENT * singular[0]).sum()) :]

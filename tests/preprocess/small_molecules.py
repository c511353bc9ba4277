"""Molecules and levels of theory that PySCF computes in a moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from preprocess.reference.method import Level
from preprocess.reference.molecules import Molecule, collect

SMALL = Level(basis="sto-3g", conv_tol=1e-12)
FITTED = replace(SMALL, density_fit=True)


def named(name: str) -> Molecule:
    """A molecule of ASE's collection."""
    return collect([name], [])[0]


def hehplus() -> Molecule:
    """An ion away from the origin."""
    return Molecule("HeH+", np.array([2, 1]), np.array([[0.5, -1.0, 2.0], [1.0, -0.7, 2.4]]), 1, 1)

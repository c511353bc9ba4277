"""Two molecules beyond all cutoffs: how far their energy and forces are from those of each by itself.

    python -m tests.benchmarks.extensive --run runs/joint --molecules CO2 H2O CH3OH

The correction of PhysNet's charges spreads the excess of one over both. At 1,000 Å the Coulomb energy of net charges of
0.01 e is a µeV, so that nearly all of a difference comes from there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import tyro
from ase.build import molecule

from train.inference.predictor import Predictor


@dataclass(frozen=True)
class ExtensiveConfig:
    """What to put beside what."""

    run: str = "runs/joint"
    molecules: tuple[str, ...] = ("CO2", "H2O", "CH3OH", "NH3")
    """Names in ASE's list of molecules, of elements that the model knows."""
    distance: float = 1000.0
    """Å"""


def main() -> None:
    """Print a line for each pair, and the worst."""
    config = tyro.cli(ExtensiveConfig, prog="python -m tests.benchmarks.extensive")
    predictor = Predictor(config.run)
    own = dict(zip(config.molecules, predictor.predict([molecule(name) for name in config.molecules]), strict=True))
    errors = []
    print(f"{'pair':<16}{'energy, meV':>14}{'charge, e':>12}{'forces, meV/Å':>16}")
    for a, b in itertools.combinations(config.molecules, 2):
        first, second = molecule(a), molecule(b)
        second.positions += (config.distance, 0.0, 0.0)
        (both,) = predictor.predict([first + second])
        energy = both.energy - own[a].energy - own[b].energy
        charge = both.charges[: len(first)].sum()
        forces = both.forces - np.concatenate([own[a].forces, own[b].forces])
        errors.append((abs(energy), abs(charge), np.abs(forces).max()))
        print(f"{f'{a} {b}':<16}{1000 * energy:>14.2f}{charge:>12.4f}{1000 * np.abs(forces).max():>16.2f}")
    worst = np.max(errors, axis=0)
    print(f"{'largest':<16}{1000 * worst[0]:>14.2f}{worst[1]:>12.4f}{1000 * worst[2]:>16.2f}")


if __name__ == "__main__":
    main()

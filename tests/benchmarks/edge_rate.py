"""Edge lists of many molecules: ours against nested Python loops, vesin and matscipy.

The others handle a molecule a call, on one core; their rates are multiplied by the number of cores, as if they were run
in that many processes without any loss. Every arm gives the same pairs, which is checked before anything is timed.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import matscipy.neighbours
import numpy as np
import tyro
import vesin

from shared.neighbor_list import build_edges


@dataclass(frozen=True)
class EdgeRateConfig:
    """Time edge lists of random molecules of several sizes."""

    atoms: tuple[int, ...] = (3, 9, 18, 60)
    cutoff: float = 6.0
    """Å."""

    molecules: int = 20_000
    rounds: int = 5


def random_molecules(count: int, atoms: int) -> np.ndarray:
    """(count, atoms, 3) positions in Å at about the density of a liquid of organic molecules (0.1 atoms per Å³)."""
    side = (atoms / 0.1) ** (1.0 / 3.0)
    return np.random.default_rng(atoms).uniform(0.0, side, (count, atoms, 3))


def with_loops(positions: np.ndarray, cutoff: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nested Python loops."""
    lists = []
    for molecule in positions.tolist():
        dst, src = [], []
        for i, a in enumerate(molecule):
            for j, b in enumerate(molecule):
                if i != j and math.dist(a, b) < cutoff:
                    dst.append(i)
                    src.append(j)
        lists.append((np.asarray(dst), np.asarray(src)))
    return lists


def with_vesin(positions: np.ndarray, cutoff: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """vesin's full list, its calculator kept between molecules."""
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    box = np.zeros((3, 3))
    return [calculator.compute(points=p, box=box, periodic=False, quantities="ij") for p in positions]


def with_matscipy(positions: np.ndarray, cutoff: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """matscipy's list in a cell around each molecule."""
    lists, pbc = [], np.zeros(3, bool)
    for p in positions:
        origin = p.min(axis=0) - 1.0
        cell = np.diag(np.ptp(p, axis=0) + 2.0)
        lists.append(
            matscipy.neighbours.neighbour_list("ij", cutoff=cutoff, positions=p, cell=cell, pbc=pbc, cell_origin=origin)
        )
    return lists


def seconds_per_molecule(work: Callable[[], object], molecules: int, rounds: int) -> float:
    """Median over rounds, after a warm-up."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / molecules


def main() -> None:
    """Check the arms against each other, time them, print the table."""
    config = tyro.cli(EdgeRateConfig, description=__doc__)
    cores = os.cpu_count() or 1
    others = {"Python loops": with_loops, "vesin": with_vesin, "matscipy": with_matscipy}
    print(f"{cores} cores, cutoff {config.cutoff:g} Å; µs per molecule (others divided by {cores} cores)")
    print(f"{'atoms':>5}{'edges':>8}{'ours':>10}" + "".join(f"{name:>14}" for name in others) + f"{'best / ours':>13}")
    for atoms in config.atoms:
        positions = random_molecules(config.molecules, atoms)
        n_atoms = np.full(config.molecules, atoms)
        edges = build_edges(positions, n_atoms, config.cutoff)
        few = positions[: min(200, config.molecules)]
        for name, arm in others.items():
            for row, (i, j) in enumerate(arm(few[:20], config.cutoff)):
                mine = edges.dst[row, : edges.n_edges[row]] * atoms + edges.src[row, : edges.n_edges[row]]
                if not np.array_equal(np.sort(np.asarray(i) * atoms + np.asarray(j)), mine):
                    raise SystemExit(f"{name} lists other pairs in molecule {row} of {atoms} atoms")
        capacity = edges.dst.shape[1]
        ours = seconds_per_molecule(
            lambda positions=positions, n_atoms=n_atoms, capacity=capacity: build_edges(  # type: ignore[misc]
                positions, n_atoms, config.cutoff, capacity, threads=cores
            ),
            config.molecules,
            config.rounds,
        )
        theirs = {
            name: seconds_per_molecule(lambda arm=arm, few=few: arm(few, config.cutoff), len(few), 3) / cores  # type: ignore[misc]
            for name, arm in others.items()
        }
        best = min(theirs["vesin"], theirs["matscipy"])
        line = "".join(f"{value * 1e6:>14.2f}" for value in theirs.values())
        print(f"{atoms:>5}{edges.n_edges.mean():>8.0f}{ours * 1e6:>10.3f}{line}{best / ours:>13.1f}")


if __name__ == "__main__":
    main()

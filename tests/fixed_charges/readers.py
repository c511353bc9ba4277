"""Readers of the files of charge models, which rebuild the charges from the positions of the atoms."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np


def charges_of_dcm(text: str, positions: np.ndarray, local: np.ndarray | None = None) -> list[np.ndarray]:
    """Charges of each atom (n, 4) as x, y, z, q, from a .dcm file of one residue and the atoms' positions.

    ``local`` are other coordinates (K, 3) than the file's, in its order.
    """
    lines = [line.split("!")[0].split() for line in text.splitlines()]
    lines = [line for line in lines if line]
    assert lines[0] == ["1", "0"]
    found: dict[int, np.ndarray] = {}
    rest = iter(lines[3:])
    others = iter(() if local is None else local)
    for _ in range(int(lines[2][0])):
        *indices, kind = next(rest)
        assert kind == "BO"
        a, b, c = (int(index) - 1 for index in indices)
        directions = [positions[a] - positions[b]] * 2 + [positions[c] - positions[b]] if c >= 0 and b >= 0 else None
        normal = np.cross(directions[0], directions[2]) if directions else np.zeros(3)
        for place, atom in enumerate((a, b, c)):
            count, polarisable = (int(word) for word in next(rest))
            assert polarisable == 0
            own = np.array([[float(word) for word in next(rest)] for _ in range(count)])
            if count == 0:
                continue
            assert atom not in found
            if local is not None:
                own[:, :3] = list(itertools.islice(others, count))
            direction = directions[place] if directions else (positions[a] - positions[b] if b >= 0 else np.ones(3))
            z = direction / np.linalg.norm(direction)
            y = normal / max(np.linalg.norm(normal), 1e-12)
            sites = positions[atom] + own[:, :3] @ np.array([np.cross(z, y), y, z])
            found[atom] = np.hstack([sites, own[:, 3:]])
    assert next(rest, None) is None
    return [found.get(atom, np.zeros((0, 4))) for atom in range(len(positions))]


def local_of_kernel(texts: Mapping[str, str], positions: np.ndarray) -> np.ndarray:
    """Local coordinates (K, 3) of the charges, of a .kern file and the files that it names."""
    (m, k, _, n), *names = [line.split() for line in texts["charmm.kern"].splitlines()]
    assert (int(n), len(names)) == (len(positions), 1 + 3 * int(k))
    pairs = list(itertools.combinations(positions, 2))
    here = np.array([np.linalg.norm(first - second) for first, second in pairs])
    reference = np.array([[float(word) for word in line.split()] for line in texts[names[0][0]].splitlines()])
    assert reference.shape == (int(m), len(pairs))
    weights = np.exp(-((reference - here) ** 2).sum(axis=1) / 2.0)
    return np.array([[float(word) for word in texts[name].split()] @ weights for (name,) in names[1:]]).reshape(-1, 3)


class Itp:
    """A molecule type of GROMACS."""

    def __init__(self, text: str) -> None:
        self.sections: dict[str, list[list[str]]] = {}
        for line in text.splitlines():
            words = line.split(";")[0].split()
            if words[:1] == ["["]:
                rows = self.sections.setdefault(words[1], [])
            elif words:
                rows.append(words)
        self.charges = np.array([float(row[6]) for row in self.sections["atoms"]])

    def positions(self, atoms: np.ndarray) -> np.ndarray:
        """All particles (P, 3) in Å, from the atoms (N, 3) in Å, by the formulae of GROMACS in nm."""
        particles = np.full((len(self.charges), 3), np.nan)
        particles[: len(atoms)] = 0.1 * atoms
        for site, i, j, kind, a in self.sections.get("virtual_sites2", []):
            assert kind == "2"
            first, second = particles[int(i) - 1], particles[int(j) - 1]
            line = second - first
            particles[int(site) - 1] = first + float(a) * line / np.linalg.norm(line)
        for site, i, j, k, kind, a, b, c in self.sections.get("virtual_sites3", []):
            assert kind == "4"
            first, second, third = (particles[int(index) - 1] for index in (i, j, k))
            normal = np.cross(second - first, third - first)
            particles[int(site) - 1] = (
                first + float(a) * (second - first) + float(b) * (third - first) + float(c) * normal
            )
        return particles / 0.1

"""Pairing of cubes with frames by elements in order and geometry, at any place in space."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from shared.errors import UserError
from shared.input.canonical import Ragged
from shared.input.cubes import CubeGrid
from shared.input.layout import PAIRING_TOLERANCE


class GeometryIndex:
    """An index that finds molecules by elements and positions, each once."""

    def __init__(self, numbers: Ragged, positions: Ragged) -> None:
        """Index molecules.

        Args:
            numbers: atomic numbers of each, (N,).
            positions: of each, (N, 3) Å.
        """
        self._positions = positions
        self._rows: dict[bytes, list[int]] = defaultdict(list)
        self._trees: dict[bytes, cKDTree] = {}
        self._found: dict[int, CubeGrid] = {}
        self._kinds = [_kind(numbers.row(row)) for row in range(len(numbers))]
        for row, kind in enumerate(self._kinds):
            self._rows[kind].append(row)

    def find(self, cube: CubeGrid, hint: int) -> tuple[int, np.ndarray]:
        """Find the row of a cube's molecule, and the vector (3,) in Å from the cube's place to the molecule's.

        Args:
            cube: whose molecule it is.
            hint: row to try first.

        Raises:
            UserError: no molecule has this geometry, or one that was found before.
        """
        kind = _kind(cube.numbers)
        if kind not in self._rows:
            raise UserError(
                f"{cube.path}: no frame has its {len(cube.numbers)} atoms in this order; the frames of --data and the "
                "cubes are paired by their geometries"
            )
        center = cube.positions.mean(axis=0)
        wanted = (cube.positions - center).ravel()
        close = [hint] if hint < len(self._kinds) and self._kinds[hint] == kind and self._fits(hint, wanted) else []
        if not close or hint in self._found:
            close = [
                self._rows[kind][place]
                for place in self._tree(kind).query_ball_point(wanted, PAIRING_TOLERANCE, np.inf)
            ]
        if not close:
            raise UserError(
                f"{cube.path}: no frame has its geometry within {PAIRING_TOLERANCE:g} Å; {self._nearest(cube, kind)}"
            )
        row = next((row for row in close if row not in self._found), None)
        if row is None:
            raise UserError(f"{cube.path}: has the geometry of {self._found[close[0]].path}, which has its frame")
        self._found[row] = cube
        return row, self._positions.row(row).mean(axis=0) - center

    def _nearest(self, cube: CubeGrid, kind: bytes) -> str:
        distances = pdist(cube.positions)
        for row in self._rows[kind]:
            if np.abs(pdist(self._positions.row(row)) - distances).max(initial=0.0) <= PAIRING_TOLERANCE:
                return (
                    f"frame {row} is the same but turned (Gaussian's standard orientation?): compute the cubes in the "
                    "orientation of the frames"
                )
        wanted = (cube.positions - cube.positions.mean(axis=0)).ravel()
        distance, place = self._tree(kind).query(wanted, p=np.inf)
        return f"the nearest of these atoms, frame {self._rows[kind][place]}, is {distance:.3g} Å off"

    def _fits(self, row: int, wanted: np.ndarray) -> bool:
        return bool((np.abs(self._centred(row) - wanted) <= PAIRING_TOLERANCE).all())

    def _tree(self, kind: bytes) -> cKDTree:
        if kind not in self._trees:
            self._trees[kind] = cKDTree(np.stack([self._centred(row) for row in self._rows[kind]]))
        return self._trees[kind]

    def _centred(self, row: int) -> np.ndarray:
        positions = self._positions.row(row)
        return (positions - positions.mean(axis=0)).ravel()


def _kind(numbers: np.ndarray) -> bytes:
    return np.asarray(numbers, np.uint8).tobytes()

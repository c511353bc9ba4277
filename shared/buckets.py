"""Shapes of buckets: many molecules are padded to one shape, which the trainer compiles once."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shared.schema import ArraySpec


@dataclass(frozen=True)
class FrameShape:
    """Padded sizes of the arrays that do not depend on a cutoff."""

    atoms: int
    grid: int


@dataclass(frozen=True)
class EdgeShape:
    """Padded sizes of the edge lists (0 if no molecule of the bucket has an edge)."""

    physnet_edges: int
    dcmnet_edges: int


@dataclass(frozen=True)
class BucketShape:
    """All padded sizes of one bucket."""

    frame: FrameShape
    edge: EdgeShape

    def sizes(self) -> dict[str, int]:
        """Return the size of every named axis of :mod:`shared.schema`."""
        return {**asdict(self.frame), **asdict(self.edge), "xyz": 3}


def array_shape(spec: ArraySpec, sizes: dict[str, int]) -> tuple[int, ...]:
    """Return the shape of one sample's array, from the sizes of the named axes."""
    return tuple(3 if axis == "xyz" else sizes[axis] for axis in spec.axes)

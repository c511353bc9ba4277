"""Choice of the molecules that teach most: those on which an ensemble disagrees, not alike among themselves.

Disagreement is that of query by committee (Seung, Opper & Sompolinsky, COLT 1992); diversity is by farthest points
(Gonzalez, Theor. Comput. Sci. 1985, 38, 293).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import erf

from train.inference.predictor import MoleculePrediction

_POOL = 3
"""Molecules among which diversity decides, the most disputed ones, over those that are chosen."""

_EDGES = np.linspace(0.6, 5.0, 23)
"""Bounds of the distances' histogram, Å."""

_WIDTH = 0.15
"""Standard deviation by which a distance is spread over the histogram, Å."""


def disagreement(prediction: MoleculePrediction) -> float:
    """Return the largest deviation of any atom's force among an ensemble's members, |σ(F_i)| in eV/Å.

    Raises:
        ValueError: the prediction is that of a single model.
    """
    if prediction.deviations is None:
        raise ValueError("a single model, which does not disagree")
    return float(np.linalg.norm(prediction.deviations.forces, axis=1).max())


def distance_features(numbers: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> np.ndarray:
    """Return features (n, D) of molecules, which neither rotation nor the order of atoms changes.

    They are histograms of the distances between each two elements, spread by Gaussians, per atom.

    Args:
        numbers: n times (N,) atomic numbers.
        positions: n times (N, 3) in Å.
    """
    elements = sorted(set(np.concatenate(numbers).tolist()))
    place = {pair: i for i, pair in enumerate(itertools.combinations_with_replacement(elements, 2))}
    bins = len(_EDGES) - 1
    features = np.zeros((len(numbers), len(place), bins))
    for row, (own, where) in enumerate(zip(numbers, positions, strict=True)):
        first, second = np.triu_indices(len(own), 1)
        distances = np.linalg.norm(where[first] - where[second], axis=1)
        below = 0.5 * (1.0 + erf((_EDGES[None, :] - distances[:, None]) / (np.sqrt(2.0) * _WIDTH)))
        low, high = np.minimum(own[first], own[second]).tolist(), np.maximum(own[first], own[second]).tolist()
        kinds = [place[pair] for pair in zip(low, high, strict=True)]
        np.add.at(features[row], kinds, np.diff(below, axis=1))
        features[row] /= len(own)
    return features.reshape(len(numbers), -1)


def most_disputed(scores: np.ndarray, number: int) -> np.ndarray:
    """Return the rows of the highest scores (n,), falling: at most three times ``number`` of them."""
    return np.argsort(-scores, kind="stable")[: _POOL * number]


def choose_diverse(features: np.ndarray, number: int) -> np.ndarray:
    """Return the rows (number,) of molecules that are far from each other.

    The first is chosen, and then again and again that which is farthest from all chosen ones.

    Args:
        features: (n, D) of molecules in falling order of their scores; Euclidean distances between them count.
        number: at most n.
    """
    chosen = [0]
    nearest = np.linalg.norm(features - features[0], axis=1)
    while len(chosen) < number:
        # Of equal molecules, of which no distance is left, the highest score.
        nearest[chosen] = -1.0
        following = int(np.argmax(nearest))
        chosen.append(following)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[following], axis=1))
    return np.asarray(chosen)

"""Kinds of molecules: frames with the same bonds, in any geometry, are one molecule and belong in one split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from shared.bond_graphs import Kinds


def join_kinds(parts: Sequence[Kinds]) -> np.ndarray:
    """Return a number (n,), uint64, that is equal for rows that are, or might be, one molecule.

    Rows that share a graph, or a formula and a name, are joined. A molecule in parts may be any of its formula: then
    all of that formula are joined.
    """
    graphs = np.concatenate([part.graphs for part in parts])
    formula = np.concatenate([part.formula for part in parts])
    in_parts = np.concatenate([part.in_parts for part in parts])
    width = max(part.names.dtype.itemsize for part in parts)
    names = np.concatenate([part.names.astype(f"S{width}") for part in parts])
    values, graph = np.unique(graphs, return_inverse=True)
    graph = graph.reshape(graphs.shape)
    formulas, of_formula = np.unique(formula, return_inverse=True)
    broken = np.zeros(len(formulas), bool)
    broken[of_formula[in_parts]] = True
    _, of_name = np.unique(names, return_inverse=True)
    named = np.unique(of_formula * (of_name.max() + 1) + of_name, return_inverse=True)[1]
    links = [graph[:, 1:].T]
    size = len(values)
    for place, joins in ((of_formula, broken[of_formula]), (named, names != b"")):
        links.append(np.where(joins, size + place, graph[:, 0])[None])
        size += int(place.max()) + 1
    pairs = np.concatenate([np.stack([graph[:, 0], ends]) for row in links for ends in row], axis=1)
    pairs = np.unique(pairs, axis=1)
    network = coo_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(size, size))
    component = connected_components(network, directed=False)[1]
    # Named by its least hash, so that the name does not depend on the other molecules of the file.
    least = np.full(component.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, component[: len(values)], values)
    return np.asarray(least[component[graph[:, 0]]])

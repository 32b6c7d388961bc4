"""The graph around some nodes, hop by hop: what a model of k layers reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neighbours", "Subgraph", "expand"]

_Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """Lists of edges, one a node that was asked for, each sorted by edge key.

    Shape:
        indptr: (R + 1,). node, node_key, edge_key: (E,) new id and key of the other end, key of the
        edge. columns: (E,) or (E, width) each.
    """

    indptr: _Ids
    node: _Ids
    node_key: _Ids
    edge_key: _Ids
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Subgraph:
    """Nodes and the in-edges of all but those of the last hop.

    Attributes:
        new_id: (n,) the nodes: those asked for, then those that each hop adds, by node key.
        node_key: (n,) the same.
        src: (e,) number of each edge's source among the nodes.
        dst: (e,) of its destination.
        edge_key: (e,).
        columns: (e,) or (e, width) each: edge columns.
        num_nodes: (k + 1,) nodes asked for, and that each hop adds.
        num_edges: (k,) edges of each hop.
    """

    new_id: _Ids
    node_key: _Ids
    src: _Ids
    dst: _Ids
    edge_key: _Ids
    columns: dict[str, NDArray[Any]]
    num_nodes: list[int]
    num_edges: list[int]


def expand(
    new_ids: _Ids,
    keys: _Ids,
    fanouts: Sequence[int | None],
    ask: Callable[[_Ids, int | None, int], Neighbours],
) -> Subgraph:
    """Follow in-edges from nodes, of every node once, when it is found.

    Args:
        new_ids: (R,) nodes.
        keys: (R,) their node keys.
        fanouts: Of each layer, from the input, as in training: the last is that of the first hop.
        ask: Returns the in-edges of nodes, given a fanout and a layer.
    """
    node, key = new_ids, keys
    first, num_nodes, hops = 0, [len(keys)], []
    src, dst = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for layer in reversed(range(len(fanouts))):
        found = ask(node[first:], fanouts[layer], layer)
        distinct, at, place = np.unique(
            np.concatenate([key, found.node_key]), return_index=True, return_inverse=True
        )
        is_new = at >= len(key)
        number = np.where(is_new, len(key) + np.cumsum(is_new) - 1, at)
        src.append(number[place[len(key) :]])
        dst.append(first + np.repeat(np.arange(len(node) - first), np.diff(found.indptr)))
        first = len(key)
        node = np.concatenate([node, found.node[at[is_new] - len(key)]])
        key = np.concatenate([key, distinct[is_new]])
        num_nodes.append(len(key) - first)
        hops.append(found)
    return Subgraph(
        new_id=node,
        node_key=key,
        src=np.concatenate(src),
        dst=np.concatenate(dst),
        edge_key=np.concatenate([np.zeros(0, np.int64), *(hop.edge_key for hop in hops)]),
        columns={n: np.concatenate([hop.columns[n] for hop in hops]) for n in hops[0].columns}
        if hops
        else {},
        num_nodes=num_nodes,
        num_edges=[len(hop.edge_key) for hop in hops],
    )

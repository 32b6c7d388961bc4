"""The graph around some nodes, hop by hop: what a model of k layers reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.kernels import empty_table, number_keys

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
        number, new = _numbered(key, found.node_key)
        src.append(number)
        dst.append(first + np.repeat(np.arange(len(node) - first), np.diff(found.indptr)))
        first = len(key)
        node = np.concatenate([node, found.node[new]])
        key = np.concatenate([key, found.node_key[new]])
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


def _numbered(known: _Ids, found: _Ids) -> tuple[_Ids, _Ids]:
    """Number the keys that were found: known ones as they stand, then new ones in their order.

    Shape:
        known: (n,). found: (e,). Returns (e,) numbers, and where each new key stands.
    """
    keys = np.concatenate([known, np.empty_like(found)])
    number, new = np.empty(len(found), np.int64), np.empty(len(found), np.int64)
    new = new[: number_keys(keys, len(known), found, empty_table(len(keys)), number, new)]
    order = np.argsort(found[new])
    final = np.empty(len(known) + len(new), np.int64)
    final[: len(known)] = np.arange(len(known))
    final[len(known) + order] = len(known) + np.arange(len(new))
    return final[number], new[order]

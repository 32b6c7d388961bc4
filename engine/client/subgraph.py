"""Subgraphs around nodes, hop by hop: the nodes and edges that a model of k layers reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.client.neighbours import Neighbours
from graphtheta.engine.kernels import empty_table, relabel_keys

__all__ = ["Subgraph", "expand"]

_Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Subgraph:
    """Nodes, and the in-edges of all of them except those of the last hop.

    Attributes:
        new_id: (n,) new ids: the seed nodes, then the nodes that each hop adds, by node key.
        node_key: (n,) node keys of the same nodes.
        src: (e,) position of each edge's source among the nodes.
        dst: (e,) position of each edge's destination among the nodes.
        edge_key: (e,) edge keys.
        columns: (e,) or (e, width) each: edge columns.
        num_nodes: (k + 1,) number of seed nodes, and of nodes that each hop adds.
        num_edges: (k,) number of edges of each hop.
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
    node_keys: _Ids,
    num_layers: int,
    neighbours: Callable[[_Ids, _Ids, int], Neighbours],
) -> Subgraph:
    """Follow in-edges from seed nodes; each node is expanded once, in the hop after it is found.

    Args:
        new_ids: (R,) seed nodes.
        node_keys: (R,) their node keys.
        num_layers: Number of hops; the first hop is that of the last layer.
        neighbours: Returns the in-edges for a layer of nodes that are given by new ids and keys.
    """
    node, key = new_ids, node_keys
    first, num_nodes, hops = 0, [len(node_keys)], []
    src, dst = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for layer in reversed(range(num_layers)):
        hop = neighbours(node[first:], key[first:], layer)
        position, new = _relabel(key, hop.node_key)
        src.append(position)
        dst.append(first + np.repeat(np.arange(len(node) - first), np.diff(hop.indptr)))
        first = len(key)
        node = np.concatenate([node, hop.node[new]])
        key = np.concatenate([key, hop.node_key[new]])
        num_nodes.append(len(key) - first)
        hops.append(hop)
    if not hops:
        hops = [neighbours(node[:0], key[:0], 0)]  # for the types of the columns
    return Subgraph(
        new_id=node,
        node_key=key,
        src=np.concatenate(src),
        dst=np.concatenate(dst),
        edge_key=np.concatenate([np.zeros(0, np.int64), *(hop.edge_key for hop in hops)]),
        columns={n: np.concatenate([hop.columns[n] for hop in hops]) for n in hops[0].columns},
        num_nodes=num_nodes,
        num_edges=[len(hop.edge_key) for hop in hops][:num_layers],
    )


def _relabel(known: _Ids, found: _Ids) -> tuple[_Ids, _Ids]:
    """Return the positions of found keys among the known keys and, after them, the new ones.

    Shape:
        known: (n,). found: (e,). Returns (e,) positions, and for each new key, in ascending order,
        the index in `found` where it first occurs.
    """
    keys = np.concatenate([known, np.empty_like(found)])
    label, new = np.empty(len(found), np.int64), np.empty(len(found), np.int64)
    new = new[: relabel_keys(keys, len(known), found, empty_table(len(keys)), label, new)]
    order = np.argsort(found[new])
    position = np.empty(len(known) + len(new), np.int64)
    position[: len(known)] = np.arange(len(known))
    position[len(known) + order] = len(known) + np.arange(len(new))
    return position[label], new[order]

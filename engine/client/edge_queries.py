"""Queries about edges of nodes given by new ids: neighbours, edges between nodes, columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.client.neighbours import Neighbours
from graphtheta.engine.client.responses import sent
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.wire.tables import encode_columns
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["draw_message", "edge_columns", "find_edges", "neighbours"]

_Ids = NDArray[np.int64]


def draw_message(
    fanout: int | None, replace: bool, weight: str | None, seed: int, step: int, layer: int
) -> messages.Draw | None:
    """Return the message that specifies how edges are drawn, or None for a fan-out of None.

    Raises:
        ConfigError: If a number is out of range.
    """
    if fanout is None:
        return None
    try:
        return messages.Draw(
            fanout=fanout, replace=replace, weight=weight or "", seed=seed, step=step, layer=layer
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"draw: expected a fanout and a layer >= 0, and a seed and a step of 64 bits, got "
            f"{error}. Correct them."
        ) from None


def neighbours(
    pool: ServerPool,
    new_ids: _Ids,
    columns: Sequence[str],
    draw: messages.Draw | None,
    *,
    out: bool,
) -> Neighbours:
    """Return the in-edges or out-edges of nodes.

    Args:
        pool: The servers.
        new_ids: (R,) nodes.
        columns: Edge columns to return with the edges.
        draw: How edges are drawn. If None, all edges are returned.
        out: Whether to return out-edges.
    """
    direction = messages.DIRECTION_OUT if out else messages.DIRECTION_IN

    def request(rows: _Ids, **part_and_degree: Any) -> messages.NeighboursRequest:
        nodes = encode_columns(new_id=new_ids[rows], **part_and_degree)
        return messages.NeighboursRequest(
            nodes=nodes, direction=direction, draw=draw, columns=columns
        )

    types = {name: pool.router.edge_type(name) for name in columns}
    names = {"node": pa.int64(), "node_key": pa.int64(), "edge_key": pa.int64()}
    if draw is not None and draw.weight:
        names |= {"rank": pa.float64(), "draw": pa.int32()}
    responses = pool.call_edge_holders("Neighbours", new_ids, request, names | sent(types))
    # In an edge-cut the in-edges of a node are in one part, which sends them sorted.
    is_sorted = not out and pool.router.manifest.cut == "edge"
    num_nodes = pool.router.manifest.num_nodes
    return Neighbours.collect(responses, len(new_ids), num_nodes, types, draw, is_sorted=is_sorted)


def find_edges(pool: ServerPool, src: _Ids, dst: _Ids) -> _Ids:
    """Return the lowest edge key from each source to its destination, or -1 if there is none.

    Shape:
        src, dst: (R,) nodes. Returns (R,).
    """

    def request(rows: _Ids, in_degree: Any = None, **part: Any) -> messages.FindEdgesRequest:
        pairs = encode_columns(src=src[rows], dst=dst[rows], **part)
        return messages.FindEdgesRequest(pairs=pairs)

    responses = pool.call_edge_holders("FindEdges", dst, request, {"edge_key": pa.int64()})
    highest = np.iinfo(np.int64).max
    found = np.full(len(src), highest)
    np.minimum.at(found, responses.rows, responses.ids("edge_key"))
    return np.where(found == highest, -1, found)


def edge_columns(
    pool: ServerPool, keys: _Ids, names: Sequence[str], dst: _Ids | None
) -> dict[str, NDArray[Any]]:
    """Return columns of edges given by edge keys.

    Args:
        pool: The servers.
        keys: (R,) edge keys.
        names: Names of edge columns.
        dst: (R,) destinations, whose lists are searched. If None, every server scans all its edges.

    Shape:
        Returns (R,) or (R, width) each.

    Raises:
        GraphFormatError: If there is no such edge.
    """

    def request(rows: _Ids, in_degree: Any = None, **more: Any) -> messages.EdgeColumnsRequest:
        edges = {"edge_key": keys[rows]} | ({} if dst is None else {"dst": dst[rows]})
        return messages.EdgeColumnsRequest(edges=encode_columns(**edges, **more), columns=names)

    types = {name: pool.router.edge_type(name) for name in names}
    if dst is None:
        chunks = list(pool.chunks(np.arange(len(keys))))
        servers = dict.fromkeys(pool.router.connections)
        jobs = [(c, request(rows), rows) for c in servers for rows in chunks]
        responses = pool.call("EdgeColumns", jobs, sent(types))
    else:
        responses = pool.call_edge_holders("EdgeColumns", dst, request, sent(types))
    missing = np.setdiff1d(np.arange(len(keys)), responses.distinct_rows())
    if len(missing) and names:
        raise GraphFormatError(
            f"edge columns: expected keys of edges of the graph, got {keys[missing[0]]}"
            f"{' to that destination' if dst is not None else ''}. Look up other edges."
        )
    return responses.by_row(types, len(keys))

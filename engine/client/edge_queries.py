"""Queries about edges of nodes given by new ids: neighbours, edges between nodes, columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.types import Relation
from graphtheta.engine.client.neighbours import Neighbours
from graphtheta.engine.client.node_queries import columns_of
from graphtheta.engine.client.responses import sent
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.wire.tables import encode_columns
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.partition import Manifest
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.rng.edge_sampling import draw_positions, number_drawn
from graphtheta.rng.philox import Purpose, step_key, stream_id

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
    relation: Relation | None = None,
) -> Neighbours:
    """Return the in-edges or out-edges of nodes.

    Args:
        pool: The servers.
        new_ids: (R,) nodes.
        columns: Edge columns to return with the edges.
        draw: How edges are drawn. If None, all edges are returned.
        out: Whether to return out-edges.
        relation: Relation of the edges and columns. If None, all edges, and columns of the only
            relation.
    """
    manifest = pool.router.manifest
    if relation is not None and draw is not None and _is_spread(manifest):
        return _draw_here(pool, new_ids, columns, draw, relation)
    direction = messages.DIRECTION_OUT if out else messages.DIRECTION_IN

    def request(rows: _Ids, **part_and_degree: Any) -> messages.NeighboursRequest:
        nodes = encode_columns(new_id=new_ids[rows], **part_and_degree)
        return messages.NeighboursRequest(
            nodes=nodes, direction=direction, draw=draw, columns=columns, relation=_text(relation)
        )

    types = {name: pool.router.edge_column(name, relation) for name in columns}
    names = {"node": pa.int64(), "node_key": pa.int64(), "edge_key": pa.int64()}
    if draw is not None and draw.weight:
        names |= {"rank": pa.float64(), "draw": pa.int32()}
    responses = pool.call_edge_holders("Neighbours", new_ids, request, names | sent(types))
    # In an edge-cut the in-edges of a node are in one part, which sends them sorted.
    is_sorted = not out and manifest.cut == "edge"
    num_nodes = manifest.num_nodes
    return Neighbours.collect(responses, len(new_ids), num_nodes, types, draw, is_sorted=is_sorted)


def _is_spread(manifest: Manifest) -> bool:
    """Return whether several parts may hold in-edges of a node."""
    return manifest.cut == "vertex" and manifest.num_parts > 1


def _draw_here(
    pool: ServerPool,
    new_ids: _Ids,
    columns: Sequence[str],
    draw: messages.Draw,
    relation: Relation,
) -> Neighbours:
    """Return the in-edges of a relation that are drawn, from all its in-edges.

    No server knows how many in-edges of the relation the other parts hold.
    """
    if draw.weight:
        raise ConfigError(
            f"draw: expected no weight with the relation {relation.text}, got {draw.weight!r}. "
            "Draw from all relations, or leave it out."
        )
    found = neighbours(pool, new_ids, columns, None, out=False, relation=relation)
    keys = columns_of(pool, new_ids, ["node_key"])["node_key"]
    degree = np.diff(found.indptr)
    count = number_drawn(degree, draw.fanout, replace=draw.replace)
    stream = stream_id(
        Purpose.SAMPLE, draw.layer, pool.router.manifest.position_of_relation(relation)
    )
    drawn = np.empty(int(count.sum()), np.int64)
    draw_positions(keys, degree, count, draw.replace, stream, step_key(draw.seed, draw.step), drawn)
    at = drawn + np.repeat(found.indptr[:-1], count)
    return Neighbours(
        np.append(0, np.cumsum(count)),
        found.node[at],
        found.node_key[at],
        found.edge_key[at],
        {name: values[at] for name, values in found.columns.items()},
    )


def find_edges(pool: ServerPool, src: _Ids, dst: _Ids, relation: Relation | None = None) -> _Ids:
    """Return the lowest edge key from each source to its destination, or -1 if there is none.

    Args:
        pool: The servers.
        src: Sources.
        dst: Destinations.
        relation: Relation of the edges. If None, all edges.

    Shape:
        src, dst: (R,) nodes. Returns (R,).
    """

    def request(rows: _Ids, in_degree: Any = None, **part: Any) -> messages.FindEdgesRequest:
        pairs = encode_columns(src=src[rows], dst=dst[rows], **part)
        return messages.FindEdgesRequest(pairs=pairs, relation=_text(relation))

    responses = pool.call_edge_holders("FindEdges", dst, request, {"edge_key": pa.int64()})
    highest = np.iinfo(np.int64).max
    found = np.full(len(src), highest)
    np.minimum.at(found, responses.rows, responses.ids("edge_key"))
    return np.where(found == highest, -1, found)


def edge_columns(
    pool: ServerPool,
    keys: _Ids,
    names: Sequence[str],
    dst: _Ids | None,
    relation: Relation | None = None,
) -> dict[str, NDArray[Any]]:
    """Return columns of edges given by edge keys.

    Args:
        pool: The servers.
        keys: (R,) edge keys.
        names: Names of edge columns.
        dst: (R,) destinations, whose lists are searched. If None, every server scans all its edges.
        relation: Relation of the edges. If None, the only relation.

    Shape:
        Returns (R,) or (R, width) each.

    Raises:
        GraphFormatError: If there is no such edge.
    """

    def request(rows: _Ids, in_degree: Any = None, **more: Any) -> messages.EdgeColumnsRequest:
        edges = {"edge_key": keys[rows]} | ({} if dst is None else {"dst": dst[rows]})
        return messages.EdgeColumnsRequest(
            edges=encode_columns(**edges, **more), columns=names, relation=_text(relation)
        )

    types = {name: pool.router.edge_column(name, relation) for name in names}
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
            f"edge columns: expected keys of edges of the "
            f"{'graph' if relation is None else f'relation {relation.text}'}, got "
            f"{keys[missing[0]]}"
            f"{' to that destination' if dst is not None else ''}. Look up other edges."
        )
    return responses.by_row(types, len(keys))


def _text(relation: Relation | None) -> str:
    return "" if relation is None else relation.text

"""gRPC graph service: translates requests to calls of `ServerGraph`, and results to messages."""

# ruff: noqa: N802  # gRPC calls methods by the names in the service definition.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import grpc
import numpy as np
import pyarrow as pa

import graphtheta
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.wire.chunks import ResponseChunk
from graphtheta.engine.wire.protocol import PROTOCOL_VERSION, Limits, reply_checksum
from graphtheta.engine.wire.tables import column, decode, encode_columns
from graphtheta.errors import ConfigError, LimitExceeded, WrongServer
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphServicer

__all__ = ["NODES", "GraphService"]

_Context: TypeAlias = grpc.ServicerContext
_Chunks = Iterator[ResponseChunk]


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


# Accepted tables. With a `part`, the server reads only that part for each row.
_INT, _PART = pa.int64(), pa.int32()
NODES = _schema(new_id=_INT)
_NODES_AT_PART = _schema(new_id=_INT, part=_PART, in_degree=_INT)
_PAIRS = _schema(src=_INT, dst=_INT)
_PAIRS_AT_PART = _schema(src=_INT, dst=_INT, part=_PART)
_EDGE_KEYS = _schema(edge_key=_INT)
_EDGES = _schema(edge_key=_INT, dst=_INT)
_EDGES_AT_PART = _schema(edge_key=_INT, dst=_INT, part=_PART)
_IDS = (_schema(id=_INT), _schema(id=pa.string()), _schema(id=pa.large_string()))


class GraphService(GraphServicer):
    """Graph service over the open parts of a server.

    Args:
        graph: The open parts.
        limits: Request limits.
        predicts: Whether the server predicts as well.
        predicted_type: Node type that it predicts. If empty, the only type.
    """

    def __init__(
        self, graph: ServerGraph, limits: Limits, *, predicts: bool, predicted_type: str = ""
    ) -> None:
        self._graph, self._limits = graph, limits
        self._predicts, self._predicted_type = predicts, predicted_type

    def Handshake(
        self, request: messages.HandshakeRequest, context: _Context
    ) -> messages.HandshakeReply:
        store, book = self._graph.store, self._graph.store.book
        if request.protocol_version != PROTOCOL_VERSION:
            raise WrongServer(
                f"handshake: expected protocol version {PROTOCOL_VERSION}, got "
                f"{request.protocol_version}. Upgrade the older side of the two."
            )
        if request.store_checksum not in ("", store.checksum):
            raise WrongServer(
                f"handshake: expected the store {store.checksum}, which is served here, got "
                f"{request.store_checksum}. Connect to the servers of one store."
            )
        rows = {n: getattr(book, n) for n in ("first_new_id", "masters", "mirrors", "edges")}
        reply = messages.HandshakeReply(
            protocol_version=PROTOCOL_VERSION,
            store_checksum=store.checksum,
            num_parts=store.num_parts,
            parts=list(self._graph.parts),
            manifest=store.manifest.model_dump_json(),
            book=encode_columns(**rows, digest=pa.array(book.digests, pa.string())),
            max_ids=self._limits.max_ids,
            max_fanout=self._limits.max_fanout,
            predicts=self._predicts,
            predicted_type=self._predicted_type,
            software=f"graphtheta {graphtheta.__version__}",
        )
        reply.checksum = reply_checksum(reply)
        return reply

    def Lookup(self, request: messages.LookupRequest, context: _Context) -> _Chunks:
        by_key = {messages.NAMING_NODE_KEY: True, messages.NAMING_ORIGINAL_ID: False}
        if request.naming not in by_key:
            raise ConfigError(
                "lookup: expected original ids or node keys, got neither. Specify one."
            )
        is_key = by_key[request.naming]
        ids = self._decode(request.ids, "lookup: ids", *(_IDS[:1] if is_key else _IDS))["id"]
        return self._graph.lookup(ids, by_key=is_key, node_type=request.node_type)

    def NodeColumns(self, request: messages.NodeColumnsRequest, context: _Context) -> _Chunks:
        if request.HasField("range"):
            first, count = request.range.first, request.range.count
            if count > self._limits.max_ids:
                raise LimitExceeded(
                    f"node columns: expected a range of at most {self._limits.max_ids:,} nodes, "
                    f"got {count:,}. Split it."
                )
            num_nodes = self._graph.store.manifest.num_nodes
            if not (0 <= first <= num_nodes and 0 <= count <= num_nodes - first):
                raise ConfigError(
                    f"node columns: expected a range in [0, {num_nodes:,}), got {count:,} nodes "
                    f"from {first:,}. Correct it."
                )
            new_ids = np.arange(first, first + count)
        else:
            new_ids = column(self._decode(request.nodes, "node columns: nodes", NODES), "new_id")
        skip = request.HasField("range")
        return self._graph.node_columns(
            new_ids, list(request.columns), request.node_type, skip=skip
        )

    def Neighbours(self, request: messages.NeighboursRequest, context: _Context) -> _Chunks:
        directions = {messages.DIRECTION_IN: False, messages.DIRECTION_OUT: True}
        if request.direction not in directions:
            raise ConfigError("neighbours: expected a direction, got none. Specify in or out.")
        nodes = self._decode(request.nodes, "neighbours: nodes", NODES, _NODES_AT_PART)
        return self._graph.neighbours(
            column(nodes, "new_id"),
            out=directions[request.direction],
            draw=self._draw(request.draw) if request.HasField("draw") else None,
            columns=list(request.columns),
            relation=request.relation,
            parts=_optional(nodes, "part"),
            degrees=_degrees(nodes),
        )

    def FindEdges(self, request: messages.FindEdgesRequest, context: _Context) -> _Chunks:
        pairs = self._decode(request.pairs, "find edges: pairs", _PAIRS, _PAIRS_AT_PART)
        ends = column(pairs, "src"), column(pairs, "dst")
        return self._graph.find_edges(*ends, _optional(pairs, "part"), request.relation)

    def EdgeColumns(self, request: messages.EdgeColumnsRequest, context: _Context) -> _Chunks:
        accepted = (_EDGE_KEYS, _EDGES, _EDGES_AT_PART)
        edges = self._decode(request.edges, "edge columns: edges", *accepted)
        return self._graph.edge_columns(
            column(edges, "edge_key"),
            list(request.columns),
            _optional(edges, "dst"),
            _optional(edges, "part"),
            request.relation,
        )

    def _decode(self, data: bytes, where: str, *schemas: pa.Schema) -> pa.RecordBatch:
        return decode(data, where, *schemas, max_rows=self._limits.max_ids)

    def _draw(self, draw: messages.Draw) -> messages.Draw:
        if draw.fanout > self._limits.max_fanout:
            raise LimitExceeded(
                f"draw: expected a fanout of at most {self._limits.max_fanout:,}, got "
                f"{draw.fanout:,}. Request all edges, or fewer."
            )
        return draw


def _optional(batch: pa.RecordBatch, name: str) -> Any:
    return column(batch, name) if name in batch.schema.names else None


def _degrees(nodes: pa.RecordBatch) -> Any:
    degrees = _optional(nodes, "in_degree")
    if degrees is not None and len(degrees) and not (0 <= degrees.min() <= degrees.max() < 1 << 32):
        raise ConfigError(
            "neighbours: expected in-degrees in [0, 2^32). Pass the ones that the owner returned."
        )
    return degrees

"""Routing: which server serves which part, from the servers' handshakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.types import Relation
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.client.handshake import Handshake, column_type
from graphtheta.engine.client.responses import answer_of
from graphtheta.engine.wire.protocol import PROTOCOL_VERSION
from graphtheta.errors import ConfigError, WrongServer
from graphtheta.partition import ColumnSpec
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.wording import counted

__all__ = ["Router"]


class Router:
    """The parts of a store and the servers that serve them.

    Calls the handshake of all servers, and assigns each part to one of its servers.

    Args:
        connections: Connections to all servers.
        pool: Threads to call them in.
        deadline: `time.monotonic()` by which they must have answered.

    Raises:
        ConfigError: If a part has no server.
        EngineError: If a server's reply is damaged or contradicts itself.
        WrongServer: If servers serve different stores or use another version of the protocol.
        Unreachable: If a server does not answer.

    Attributes:
        manifest: Description of the whole graph.
        connections: Connection to the server of each part.
        max_ids: Largest number of ids in a request that every server accepts.
        predictor: Connection to a server that predicts, if there is one.
        predicted_type: Node type that it predicts. None if the graph has only one.

    Shape:
        first_new_id: (P,). counts: (P,) each: masters, mirrors, edges. server_of: (P,) index of the
        part's server in the list of all servers.
    """

    def __init__(self, connections: Sequence[Connection], pool: Executor, deadline: float) -> None:
        if not connections:
            raise ConfigError("connect: expected addresses, got none. Name at least one.")
        request = messages.HandshakeRequest(protocol_version=PROTOCOL_VERSION)
        futures = [pool.submit(each.stream, "Handshake", request, deadline) for each in connections]
        replies = []
        for connection, future in zip(connections, futures, strict=True):
            received = future.result()
            with answer_of(connection.address):
                replies.append(Handshake.decode(received))
        checksums = {reply.manifest.checksum for reply in replies}
        if len(checksums) > 1:
            found = ", ".join(
                f"{connection.address}: {reply.manifest.checksum}"
                for connection, reply in zip(connections, replies, strict=True)
            )
            raise WrongServer(
                f"connect: expected servers of one store, got {found}. Correct the list."
            )
        self.manifest = replies[0].manifest
        candidates: list[list[int]] = [[] for _ in range(self.manifest.num_parts)]
        for number, reply in enumerate(replies):
            for part in reply.parts:
                candidates[part].append(number)
        orphans = [part for part, servers in enumerate(candidates) if not servers]
        if orphans:
            raise ConfigError(
                f"connect: expected a server for each of "
                f"{counted(len(candidates), 'part')}, got none for "
                f"{', '.join(map(str, orphans[:10]))}. Name all servers."
            )
        for connection in connections:
            connection.store = self.manifest.checksum
        chosen = [servers[part % len(servers)] for part, servers in enumerate(candidates)]
        self.server_of = np.array(chosen, np.int64)
        book = replies[0].book
        self.first_new_id: NDArray[np.int64] = book.first_new_id
        self.counts = (book.masters, book.mirrors, book.edges)
        self.connections = [connections[number] for number in chosen]
        self.max_ids = min(reply.max_ids for reply in replies)
        predictors = [number for number, reply in enumerate(replies) if reply.predicts][:1]
        self.predictor = connections[predictors[0]] if predictors else None
        self.predicted_type = replies[predictors[0]].predicted_type if predictors else None

    def owners(self, new_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the parts that own nodes."""
        return np.searchsorted(self.first_new_id, new_ids, side="right") - 1

    def node_column(self, name: str, node_type: str | None) -> pa.DataType:
        """Return the Arrow type of a column of a node type; if None, of the only type."""
        manifest = self.manifest
        if name == "original_id":
            return pa.type_for_alias(manifest.node_type(node_type).id_type)
        if node_type is None and len(manifest.node_types) > 1:
            return pa.int64()  # a column that all types have
        return _column_type(name, manifest.node_type(node_type).columns)

    def edge_column(self, name: str, relation: Relation | None) -> pa.DataType:
        """Return the Arrow type of a column of a relation; if None, of the only relation."""
        manifest = self.manifest
        position = manifest.position_of_relation(relation)
        return _column_type(name, manifest.relations[position].columns)


def _column_type(name: str, specs: Mapping[str, ColumnSpec]) -> pa.DataType:
    """Return the type of a column; those that the manifest does not list are integers."""
    return column_type(specs[name]) if name in specs else pa.int64()

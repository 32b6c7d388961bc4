"""Who serves which part: what the servers say when they are first called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.wire.limits import PROTOCOL_VERSION
from graphtheta.engine.wire.tables import decode_any
from graphtheta.errors import ConfigError, WrongServer
from graphtheta.partition import ColumnSpec, Manifest
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["Router", "open_router"]


@dataclass(frozen=True)
class Router:
    """The parts of a store and their servers.

    Attributes:
        manifest: What describes the whole graph.
        links: The server of each part.
        max_ids: Rows a request, for the strictest server.
        predicts: A server that predicts, if there is one.

    Shape:
        first_new_id: (P,). counts: (P,) each: masters, mirrors, edges. server_of: (P,) index of the
        server among all.
    """

    manifest: Manifest
    first_new_id: NDArray[np.int64]
    counts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    server_of: NDArray[np.int64]
    links: list[Connection]
    max_ids: int
    predicts: Connection | None

    def owners(self, new_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the parts that own nodes."""
        return np.searchsorted(self.first_new_id, new_ids, side="right") - 1

    def type_of(self, name: str, specs: Mapping[str, ColumnSpec] | None = None) -> pa.DataType:
        """Return the type of a column; of one that the manifest does not list, an integer."""
        spec = (self.manifest.node_columns if specs is None else specs).get(name)
        if spec is None:
            is_id = name == "original_id"
            return pa.type_for_alias(self.manifest.id_type) if is_id else pa.int64()
        kind = pa.type_for_alias(spec.dtype)
        return kind if spec.width is None else pa.list_(kind, spec.width)


def open_router(links: Sequence[Connection], pool: Executor, until: float) -> Router:
    """Ask all servers what they serve.

    Raises:
        ConfigError: If a part has no server.
        WrongServer: If servers disagree about the store, or speak another protocol.
        Unreachable: If one is not there.
    """
    if not links:
        raise ConfigError("connect: expected addresses, got none. Name at least one.")
    request = messages.HandshakeRequest(protocol_version=PROTOCOL_VERSION)
    waiting = [pool.submit(link.call, "Handshake", request, until) for link in links]
    replies = [future.result() for future in waiting]
    checksums = {reply.store_checksum for reply in replies}
    if len(checksums) > 1:
        said = ", ".join(
            f"{link.address}: {reply.store_checksum}"
            for link, reply in zip(links, replies, strict=True)
        )
        raise WrongServer(f"connect: expected servers of one store, got {said}. Correct the list.")
    manifest = Manifest.model_validate_json(replies[0].manifest)
    candidates: list[list[int]] = [[] for _ in range(manifest.num_parts)]
    for number, reply in enumerate(replies):
        for part in reply.parts:
            candidates[part].append(number)
    orphans = [part for part, servers in enumerate(candidates) if not servers]
    if orphans:
        raise ConfigError(
            f"connect: expected a server for each of {manifest.num_parts} parts, got none for "
            f"{', '.join(map(str, orphans[:10]))}. Name all servers."
        )
    for link in links:
        link.store = checksums.copy().pop()
    server_of = np.array([s[part % len(s)] for part, s in enumerate(candidates)], np.int64)
    book = decode_any(replies[0].book, "book")
    masters, mirrors, edges = (as_numpy(book[n]) for n in ("masters", "mirrors", "edges"))
    return Router(
        manifest=manifest,
        first_new_id=as_numpy(book["first_new_id"]),
        counts=(masters, mirrors, edges),
        server_of=server_of,
        links=[links[number] for number in server_of],
        max_ids=min(reply.max_ids for reply in replies),
        predicts=next((k for k, r in zip(links, replies, strict=True) if r.predicts), None),
    )

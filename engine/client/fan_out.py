"""Asking several servers at once, and finding out which ones to ask."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.client.answers import Answers
from graphtheta.engine.client.connection import Connection, Tls
from graphtheta.engine.client.routing import Router, open_router
from graphtheta.engine.wire.chunks import tables_of
from graphtheta.engine.wire.tables import encode
from graphtheta.errors import ConfigError, GraphFormatError, UnknownNode
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.partition.store.index import block_of
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["Ids", "Naming", "ServerPool", "encoded", "integers"]

Naming = Literal["original_id", "node_key", "new_id"]
Ids = NDArray[np.int64]


class ServerPool:
    """The servers of a store, who has what, and the threads that wait for them.

    Args:
        addresses: `host:port` of each.
        tls: Certificates; None: plain text.
        timeout_s: Longest wait for an answer.

    Attributes:
        links: The servers.
        router: Who serves what.
    """

    def __init__(self, addresses: Sequence[str], tls: Tls | None, timeout_s: float) -> None:
        self._timeout_s, self._process = timeout_s, os.getpid()
        self.links = [Connection(address, tls) for address in addresses]
        self._pool = ThreadPoolExecutor(max(1, 4 * len(addresses)), "graphtheta-client")
        try:
            self.router: Router = open_router(self.links, self._pool, self.until())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connections."""
        for link in self.links:
            link.close()
        self._pool.shutdown(wait=False)

    def new_ids(self, ids: Any, by: Naming) -> Ids:
        """Return the new ids of nodes, by asking the buckets of the index."""
        if by == "new_id":
            return self._checked(ids)
        num_parts = self.router.manifest.num_parts
        if by == "node_key":
            keys = pa.array(integers(ids, "node keys"))
            self._in_graph(keys.to_numpy(), "node keys")
            bucket = block_of(keys.to_numpy(), max(1, self.router.manifest.num_nodes), num_parts)
            naming = messages.NAMING_NODE_KEY
        elif by == "original_id":
            keys = self._typed(ids)
            bucket = (hash_ids(keys) % np.uint64(num_parts)).astype(np.int64)
            naming = messages.NAMING_ORIGINAL_ID
        else:
            raise ConfigError(f"by: expected original_id, node_key or new_id, got {by!r}.")
        jobs = []
        for link, rows in self.split(bucket, max(1, _mean_bytes(keys) // 8)):
            batch = pa.record_batch({"id": keys.take(pa.array(rows))})
            request = messages.LookupRequest(ids=encode(batch), naming=naming)
            jobs.append((link, request, rows))
        found = np.empty(len(keys), np.int64)
        until = self.until()

        def look(link: Connection, request: Any, rows: Ids) -> None:
            chunks = link.stream("Lookup", request, until)
            pieces = [table["new_id"].to_numpy() for table, _ in map(tables_of, chunks) if table]
            found[rows] = np.concatenate([np.zeros(0, np.int64), *pieces])

        self._all(look, jobs)
        return found

    def until(self) -> float:
        """Return when an answer that is asked for now is late."""
        return time.monotonic() + self._timeout_s

    def _all(self, do: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Do jobs, several in parallel; the first error counts."""
        if os.getpid() != self._process:  # neither threads nor gRPC are there: it would hang
            raise ConfigError(
                "client: expected the process that connected, got a fork of it. Connect in each "
                'process, or spawn them: multiprocessing_context="spawn".'
            )
        waiting = [self._pool.submit(do, *job) for job in jobs[1:]]
        return [do(*job) for job in jobs[:1]] + [future.result() for future in waiting]

    def ask(
        self, method: str, jobs: Sequence[tuple[Connection, Any, Ids]], until: float | None = None
    ) -> Answers:
        """Send requests about some rows each, and put the answers together."""
        deadline = self.until() if until is None else until

        def ask(link: Connection, request: Any, rows: Ids) -> Answers:
            return Answers.of(link.stream(method, request, deadline), rows)

        found = Answers([], [])
        for one in self._all(ask, jobs):
            found.add(one)
        return found

    def at_lists(self, method: str, nodes: Ids, request: Callable[..., Any]) -> Answers:
        """Ask the owners of nodes, then the holders of the rest of their edges.

        Args:
            method: What is asked.
            nodes: Their new ids.
            request: Of some rows; in the second round also of their `part` and `in_degree`.
        """
        until = self.until()
        owners = self.split(self.router.owners(nodes))
        answers = self.ask(method, [(link, request(rows), rows) for link, rows in owners], until)
        row, part, degree = _joined(answers.elsewhere)
        more = [
            (link, request(row[at], part=part[at], in_degree=degree[at]), row[at])
            for link, at in self.split(part)
        ]
        answers.add(self.ask(method, more, until))
        return answers

    def split(self, parts: NDArray[Any], words: int = 1) -> Iterator[tuple[Connection, Ids]]:
        """Yield servers with the rows whose part they serve, as many as a request may have."""
        server = self.router.server_of[parts]
        for number in np.unique(server).tolist():
            for rows in self.bounded(np.flatnonzero(server == number), words):
                yield self.links[number], rows

    def bounded(self, rows: Ids, words: int = 1) -> Iterator[Ids]:
        """Yield rows, as many at a time as a request of so many words a row may have."""
        most = max(1, self.router.max_ids // words)
        for first in range(0, len(rows), most):
            yield rows[first : first + most]

    def _typed(self, ids: Any) -> pa.Array:
        kind = pa.type_for_alias(self.router.manifest.id_type)
        try:
            array = ids if isinstance(ids, pa.Array) else pa.array(ids)
            if pa.types.is_null(array.type) and not len(array):
                return pa.array([], kind)
            if array.null_count or pa.types.is_string(kind) != pa.types.is_string(array.type):
                raise TypeError
            return array.cast(kind)
        except (pa.ArrowException, TypeError, ValueError):
            raise GraphFormatError(
                f"ids: expected values of type {kind}, as the graph's, got others. Convert them."
            ) from None

    def _checked(self, ids: Any) -> Ids:
        new_ids = integers(ids, "new ids")
        self._in_graph(new_ids, "new ids")
        return new_ids

    def _in_graph(self, ids: Ids, what: str) -> None:
        num_nodes = self.router.manifest.num_nodes
        if len(ids) and not 0 <= ids.min() <= ids.max() < num_nodes:
            wrong = ids[(ids < 0) | (ids >= num_nodes)][0]
            raise UnknownNode(
                f"{what}: expected some in [0, {num_nodes:,}), got {wrong}. Look up nodes of "
                "this graph."
            )


def integers(ids: Any, what: str) -> Ids:
    """Return a list of integers as an array.

    Raises:
        GraphFormatError: If it is something else.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise GraphFormatError(
            f"{what}: expected a list of integers, got {array.dtype} of shape {array.shape}."
        )
    return np.ascontiguousarray(array, np.int64)


def _mean_bytes(keys: pa.Array) -> int:
    return int(keys.nbytes // max(1, len(keys)))


def encoded(**columns: Any) -> bytes:
    """Return columns as a table on the wire."""
    return encode(pa.record_batch(columns))


def _joined(
    elsewhere: Iterable[tuple[Ids, NDArray[np.int32], Ids]],
) -> tuple[Ids, NDArray[np.int32], Ids]:
    """Return the rows whose lists go on elsewhere, the parts that hold more, and in-degrees."""
    parts = list(elsewhere)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    row, part, degree = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return row, part, degree

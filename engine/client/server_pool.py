"""Connections to all servers of a store, and the threads that call them in parallel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.client.connection import Connection, Tls
from graphtheta.engine.client.responses import Responses, Types, answer_of
from graphtheta.engine.client.routing import Router
from graphtheta.errors import ConfigError

__all__ = ["ServerPool"]

_Ids = NDArray[np.int64]
# A request: the server to call, the message, and which rows of the query it covers.
_Job = tuple[Connection, Any, _Ids]


class ServerPool:
    """The servers of a store, called in parallel.

    Args:
        addresses: `host:port` of each server.
        tls: Certificates. If None, connections are plain text.
        timeout_s: Longest wait for a response, in seconds.

    Attributes:
        router: Which server serves which part.
    """

    def __init__(self, addresses: Sequence[str], tls: Tls | None, timeout_s: float) -> None:
        self._timeout_s, self._process = timeout_s, os.getpid()
        self._connections = [Connection(address, tls) for address in addresses]
        self._threads = ThreadPoolExecutor(max(1, 4 * len(addresses)), "graphtheta-client")
        try:
            self.router = Router(self._connections, self._threads, self.deadline())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()
        self._threads.shutdown(wait=False)

    def deadline(self) -> float:
        """Return the `time.monotonic()` by which a query that starts now must be answered."""
        return time.monotonic() + self._timeout_s

    def run(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function with the arguments of each job, in parallel, and return the results.

        Raises:
            ConfigError: If this process is a fork of the one that connected.
        """
        if os.getpid() != self._process:  # threads and gRPC do not survive a fork: it would hang
            raise ConfigError(
                "client: expected the process that connected, got a fork of it. Connect in each "
                'process, or spawn them: multiprocessing_context="spawn".'
            )
        futures = [self._threads.submit(function, *job) for job in jobs[1:]]
        return [function(*job) for job in jobs[:1]] + [future.result() for future in futures]

    def call(
        self,
        method: str,
        jobs: Sequence[_Job],
        types: Types | None,
        deadline: float | None = None,
        num_parts: int = 0,
    ) -> Responses:
        """Send requests in parallel, check their responses and collect them.

        Args:
            method: Method of the service.
            jobs: Each request: the server, the message, and which rows of the query it covers.
            types: Type of each column of the responses except `row`. If None, they are not checked.
            deadline: `time.monotonic()` by which all must be answered. If None, `timeout_s` from
                now.
            num_parts: Number of parts of which responses may name others. 0 if they may not.

        Raises:
            EngineError: If a response is incomplete, or not as expected.
        """
        latest = self.deadline() if deadline is None else deadline

        def call(connection: Connection, request: Any, rows: _Ids) -> Responses:
            received = connection.stream(method, request, latest)
            with answer_of(connection.address):
                return Responses.decode(received, rows, types, num_parts)

        responses = Responses([], [])
        for response in self.run(call, jobs):
            responses.extend(response)
        return responses

    def call_edge_holders(
        self, method: str, nodes: _Ids, make_request: Callable[..., Any], types: Types
    ) -> Responses:
        """Query edges of nodes at every server that holds some of them.

        The servers of the owners are called first. If other parts, on other servers, hold edges of
        a node too, the owner's response names them, and they are called next.

        Args:
            method: Method of the service.
            nodes: (R,) new ids.
            make_request: Makes the message for some rows of `nodes`. In the second round it is also
                given their `part` and `in_degree`.
            types: Type of each column of the responses except `row`.
        """
        deadline = self.deadline()
        jobs = [(c, make_request(rows), rows) for c, rows in self.split(self.router.owners(nodes))]
        num_parts = len(self.router.server_of)
        responses = self.call(method, jobs, types, deadline, num_parts)
        row, part, in_degree = responses.joined_other_parts()
        more = [
            (c, make_request(row[some], part=part[some], in_degree=in_degree[some]), row[some])
            for c, some in self.split(part)
        ]
        responses.extend(self.call(method, more, types, deadline))
        return responses

    def split(self, parts: NDArray[Any], ids_per_row: int = 1) -> Iterator[tuple[Connection, _Ids]]:
        """Yield servers and the rows whose part they serve, at most a request's worth at a time."""
        server = self.router.server_of[parts]
        for number in np.unique(server).tolist():
            for rows in self.chunks(np.flatnonzero(server == number), ids_per_row):
                yield self._connections[number], rows

    def chunks(self, rows: _Ids, ids_per_row: int = 1) -> Iterator[_Ids]:
        """Yield rows, at most a request's worth at a time; a row may count as several ids."""
        size = max(1, self.router.max_ids // ids_per_row)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

"""Client for asyncio programs: the methods of `RemoteGraph` as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.graph import RemoteGraph, connect

__all__ = ["AsyncGraph", "connect_async"]

P = ParamSpec("P")
T = TypeVar("T")


async def connect_async(
    addresses: str | Sequence[str], *, tls: Tls | None = None, timeout_s: float = 60.0
) -> AsyncGraph:
    """Connect to the servers of a store without blocking the event loop.

    Arguments and exceptions are those of `connect`.
    """
    graph = await asyncio.to_thread(connect, addresses, tls=tls, timeout_s=timeout_s)
    return AsyncGraph(graph)


class AsyncGraph:
    """A graph that servers hold, with the methods of `RemoteGraph` as coroutines.

    Each call waits in a thread of the event loop's executor. Cancelling a coroutine stops waiting,
    but the request itself continues until it is answered or its deadline passes.

    Args:
        graph: Graph to query.
    """

    def __init__(self, graph: RemoteGraph) -> None:
        self.graph = graph
        self.columns = _as_coroutine(graph.columns)
        self.degrees = _as_coroutine(graph.degrees)
        self.edge_columns = _as_coroutine(graph.edge_columns)
        self.find_edges = _as_coroutine(graph.find_edges)
        self.neighbours = _as_coroutine(graph.neighbours)
        self.new_ids = _as_coroutine(graph.new_ids)
        self.predict = _as_coroutine(graph.predict)
        self.subgraph = _as_coroutine(graph.subgraph)

    def __repr__(self) -> str:
        return repr(self.graph).replace("RemoteGraph", "AsyncGraph", 1)

    def close(self) -> None:
        """Close the connections."""
        self.graph.close()


def _as_coroutine(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def call(*args: P.args, **options: P.kwargs) -> T:
        return await asyncio.to_thread(method, *args, **options)

    call.__doc__ = method.__doc__
    return call

"""The client for programs that await: every question of `RemoteGraph` as a coroutine."""

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
    """Connect as `connect` does, without holding up the event loop."""
    graph = await asyncio.to_thread(connect, addresses, tls=tls, timeout_s=timeout_s)
    return AsyncGraph(graph)


class AsyncGraph:
    """Methods of a `RemoteGraph` that threads of the event loop's executor wait in.

    A question that is cancelled is no longer waited for; it ends by its deadline.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: RemoteGraph) -> None:
        self.graph = graph
        self.columns = _awaited(graph.columns)
        self.degrees = _awaited(graph.degrees)
        self.edge_columns = _awaited(graph.edge_columns)
        self.find_edges = _awaited(graph.find_edges)
        self.neighbours = _awaited(graph.neighbours)
        self.new_ids = _awaited(graph.new_ids)
        self.predict = _awaited(graph.predict)
        self.subgraph = _awaited(graph.subgraph)

    def close(self) -> None:
        """End the connections."""
        self.graph.close()


def _awaited(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def call(*args: P.args, **options: P.kwargs) -> T:
        return await asyncio.to_thread(method, *args, **options)

    call.__doc__ = method.__doc__
    return call

"""The gRPC engine: a server and a client for the parts of a store, and PyG loaders on top.

`graphtheta serve` runs a server, `connect` returns a graph that queries one or several of them.
"""

from __future__ import annotations

from graphtheta.engine.client.async_graph import AsyncGraph, connect_async
from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.graph import RemoteGraph, connect

__all__ = ["AsyncGraph", "RemoteGraph", "Tls", "connect", "connect_async"]

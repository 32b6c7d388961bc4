"""The gRPC engine: a graph service over partitioned stores, its client, and PyG over it."""

from __future__ import annotations

from graphtheta.engine.client.async_graph import AsyncGraph, connect_async
from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.graph import RemoteGraph, connect

__all__ = ["AsyncGraph", "RemoteGraph", "Tls", "connect", "connect_async"]

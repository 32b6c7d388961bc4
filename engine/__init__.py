"""The gRPC engine: a graph service over partitioned stores, its client, and PyG over it."""

from __future__ import annotations

from graphtheta.engine.asynchronous import AsyncGraph, connect_async
from graphtheta.engine.client import RemoteGraph, connect
from graphtheta.engine.link import Tls

__all__ = ["AsyncGraph", "RemoteGraph", "Tls", "connect", "connect_async"]

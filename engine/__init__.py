"""The gRPC engine: a graph service over partitioned stores, its client, and PyG over that client."""

from __future__ import annotations

from graphtheta.engine.client import RemoteGraph, Tls, connect

__all__ = ["RemoteGraph", "Tls", "connect"]

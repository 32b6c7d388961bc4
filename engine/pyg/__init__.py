"""PyG over a remote graph: its feature and graph stores, a sampler, and node and link loaders.

PyG numbers nodes and edges from 0. Here these numbers are node keys (rows of the input's node
table) and edge keys, which depend neither on the partitioning nor on the servers.
"""

from __future__ import annotations

from graphtheta.engine.pyg.loaders import RemoteLinkLoader, RemoteNodeLoader
from graphtheta.engine.pyg.sampler import RemoteSampler
from graphtheta.engine.pyg.stores import RemoteFeatureStore, RemoteGraphStore

__all__ = [
    "RemoteFeatureStore",
    "RemoteGraphStore",
    "RemoteLinkLoader",
    "RemoteNodeLoader",
    "RemoteSampler",
]

"""PyG over a remote graph: its stores, a sampler, and node and link loaders.

PyG counts nodes from 0: here they are node keys, rows of the input's node table, and edges are edge
keys. Both are the same however the graph is partitioned and served.
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

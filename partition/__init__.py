"""Offline partitioning: from tables of nodes and edges to a partitioned store.

Never imports torch.
"""

from __future__ import annotations

from graphtheta.partition.build import Build, build, estimate
from graphtheta.partition.columns import column_numpy, column_valid
from graphtheta.partition.index import Index
from graphtheta.partition.manifest import Book, ColumnSpec, LabelSpec, Manifest
from graphtheta.partition.part import PartTables
from graphtheta.partition.partitioner import Partitioner
from graphtheta.partition.quality import Quality, quality_rows
from graphtheta.partition.registry import PARTITIONERS
from graphtheta.partition.source import GraphSource
from graphtheta.partition.store import Store, open_store, write_store
from graphtheta.partition.stream import EdgeStream

__all__ = [
    "PARTITIONERS",
    "Book",
    "Build",
    "ColumnSpec",
    "EdgeStream",
    "GraphSource",
    "Index",
    "LabelSpec",
    "Manifest",
    "PartTables",
    "Partitioner",
    "Quality",
    "Store",
    "build",
    "column_numpy",
    "column_valid",
    "estimate",
    "open_store",
    "quality_rows",
    "write_store",
]

"""Offline partitioning: from tables of nodes and edges to a partitioned store.

Never imports torch.
"""

from __future__ import annotations

from graphtheta.partition.assess import Assessment, assess, compare, write_assignment
from graphtheta.partition.building import Plan
from graphtheta.partition.columns import column_numpy, column_valid
from graphtheta.partition.estimate import Estimate, estimate
from graphtheta.partition.index import Index
from graphtheta.partition.make import Build, build, make_store
from graphtheta.partition.manifest import Book, ColumnSpec, LabelSpec, Manifest
from graphtheta.partition.part import PartTables
from graphtheta.partition.partitioner import (
    Balance,
    EdgePartitioner,
    NodePartitioner,
    Partitioner,
)
from graphtheta.partition.quality import PartCounts, Quality, measure, quality_rows
from graphtheta.partition.registry import PARTITIONERS
from graphtheta.partition.resources import Resources
from graphtheta.partition.source import GraphSource
from graphtheta.partition.store import Store, open_store
from graphtheta.partition.stream import EdgesInMemory, EdgeStream

__all__ = [
    "PARTITIONERS",
    "Assessment",
    "Balance",
    "Book",
    "Build",
    "ColumnSpec",
    "EdgePartitioner",
    "EdgeStream",
    "EdgesInMemory",
    "Estimate",
    "GraphSource",
    "Index",
    "LabelSpec",
    "Manifest",
    "NodePartitioner",
    "PartCounts",
    "PartTables",
    "Partitioner",
    "Plan",
    "Quality",
    "Resources",
    "Store",
    "assess",
    "build",
    "column_numpy",
    "column_valid",
    "compare",
    "estimate",
    "make_store",
    "measure",
    "open_store",
    "quality_rows",
    "write_assignment",
]

"""Offline partitioning of tables of nodes and edges into a partitioned store.

Never imports torch.
"""

from __future__ import annotations

from graphtheta.data.source import GraphSource
from graphtheta.partition.analysis.compare import Assessment, assess, compare, write_assignment
from graphtheta.partition.analysis.estimate import Estimate, estimate, held_bytes
from graphtheta.partition.core.partitioner import (
    Balance,
    EdgePartitioner,
    NodePartitioner,
    Partitioner,
    PartitionJob,
)
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgesInMemory, EdgeStream
from graphtheta.partition.methods.registry import PARTITIONERS
from graphtheta.partition.pipeline.make_store import Build, build, make_store
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.store.index import Index
from graphtheta.partition.store.manifest import Book, ColumnSpec, LabelSpec, Manifest
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.quality import PartCounts, Quality, measure, quality_rows
from graphtheta.partition.store.recipe_file import read_recipe
from graphtheta.partition.store.store import Store, open_store
from graphtheta.partition.store.tables import column_numpy, column_valid

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
    "PartitionJob",
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
    "held_bytes",
    "make_store",
    "measure",
    "open_store",
    "quality_rows",
    "read_recipe",
    "write_assignment",
]

"""The partitioners by name: the command line, benchmarks and contract tests read this dict."""

from __future__ import annotations

from graphtheta.partition.dbh import DegreeBasedHashing
from graphtheta.partition.edge_hash import EdgeHash
from graphtheta.partition.kaminpar import KaMinPar
from graphtheta.partition.metis import Metis
from graphtheta.partition.node_hash import NodeHash
from graphtheta.partition.partitioner import Partitioner

__all__ = ["PARTITIONERS"]

PARTITIONERS: dict[str, Partitioner] = {
    "node-hash": NodeHash(),
    "kaminpar": KaMinPar(),
    "metis": Metis(),
    "edge-hash": EdgeHash(),
    "dbh": DegreeBasedHashing(),
}

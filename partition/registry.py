"""The partitioners by name: the command line, benchmarks and contract tests read this dict."""

from __future__ import annotations

from graphtheta.partition.dbh import DegreeBasedHashing
from graphtheta.partition.edge_hash import EdgeHash
from graphtheta.partition.fennel import Fennel
from graphtheta.partition.grid import Grid
from graphtheta.partition.hdrf import HighDegreeReplicatedFirst
from graphtheta.partition.hep import HybridEdgePartitioner
from graphtheta.partition.kaminpar import KaMinPar
from graphtheta.partition.ldg import LinearDeterministicGreedy
from graphtheta.partition.lpa import LabelPropagation
from graphtheta.partition.metis import Metis
from graphtheta.partition.node_hash import NodeHash
from graphtheta.partition.partitioner import Partitioner
from graphtheta.partition.range import Range
from graphtheta.partition.two_phase import TwoPhaseStreaming

__all__ = ["PARTITIONERS"]

PARTITIONERS: dict[str, Partitioner] = {
    "node-hash": NodeHash(),
    "range": Range(),
    "ldg": LinearDeterministicGreedy(),
    "fennel": Fennel(),
    "lpa": LabelPropagation(),
    "kaminpar": KaMinPar(),
    "metis": Metis(),
    "edge-hash": EdgeHash(),
    "grid": Grid(),
    "dbh": DegreeBasedHashing(),
    "hdrf": HighDegreeReplicatedFirst(),
    "2ps-l": TwoPhaseStreaming(),
    "hep": HybridEdgePartitioner(),
}

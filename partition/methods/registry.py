"""Registry of the partitioners by name, for the command line, benchmarks and contract tests."""

from __future__ import annotations

from graphtheta.partition.core.partitioner import Partitioner
from graphtheta.partition.methods.balanced_lpa import BalancedLabelPropagation
from graphtheta.partition.methods.dbh import DegreeBasedHashing
from graphtheta.partition.methods.edge_hash import EdgeHash
from graphtheta.partition.methods.grid import Grid
from graphtheta.partition.methods.hdrf import HighDegreeReplicatedFirst
from graphtheta.partition.methods.hep import HybridEdgePartitioner
from graphtheta.partition.methods.kaminpar import KaMinPar
from graphtheta.partition.methods.ldg_fennel import Fennel, LinearDeterministicGreedy
from graphtheta.partition.methods.metis import Metis
from graphtheta.partition.methods.node_hash import NodeHash
from graphtheta.partition.methods.range import Range
from graphtheta.partition.methods.two_phase import TwoPhaseStreaming

__all__ = ["PARTITIONERS"]

PARTITIONERS: dict[str, Partitioner] = {
    "node-hash": NodeHash(),
    "range": Range(),
    "ldg": LinearDeterministicGreedy(),
    "fennel": Fennel(),
    "lpa": BalancedLabelPropagation(),
    "kaminpar": KaMinPar(),
    "metis": Metis(),
    "edge-hash": EdgeHash(),
    "grid": Grid(),
    "dbh": DegreeBasedHashing(),
    "hdrf": HighDegreeReplicatedFirst(),
    "2ps-l": TwoPhaseStreaming(),
    "hep": HybridEdgePartitioner(),
}

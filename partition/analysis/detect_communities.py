"""Communities of nodes, for batches of clusters: groups with many edges inside and few between.

All methods run on one thread of rank 0, which makes them repeatable, and on the simple undirected
topology: directions and repeated edges do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.core.neighbour_lists import NeighbourLists, place_on_rank_zero
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream
from graphtheta.partition.methods.kaminpar import KAMINPAR_BYTES_AN_EDGE, kaminpar_parts

__all__ = ["COMMUNITIES", "Detector", "detect"]

_BYTES_AN_EDGE = 140  # of NetworKit for a pair of neighbours; measured on RMAT, 110 on communities


@dataclass(frozen=True, slots=True)
class Detector:
    """A way to find communities.

    Attributes:
        takes: Which argument of `detect` says how many there are.
        default: Its value if none is given; None: it must be.
        bytes_an_edge: What it holds for each pair of neighbours, beside the topology.
        find: From a topology, the value and a seed to a label for each node.
    """

    takes: Literal["num_communities", "resolution"]
    default: float | None
    bytes_an_edge: int
    find: Callable[[NeighbourLists, float, int], NDArray[Any]]


def detect(
    stream: EdgeStream,
    method: str,
    *,
    num_communities: int | None = None,
    resolution: float | None = None,
    seed: int,
    resources: Resources,
) -> NDArray[np.int32]:
    """Return the community of every node, on every rank; collective.

    Communities are numbered in the order of their first nodes. A node without neighbours is one of
    its own, but for `multilevel`.

    Args:
        stream: The edges.
        method: A key of `COMMUNITIES`.
        num_communities: How many, for `multilevel`, which balances them.
        resolution: How fine, for `louvain` and `leiden`: more make more; 1.0 if not given.
        seed: Seed of what is random; `louvain` draws nothing.
        resources: Ranks, memory and progress.

    Communication:
        4 bytes a node from rank 0.

    Raises:
        ConfigError: If the method or its argument is wrong, or its library is missing.
        PartitionError: If it would not fit the memory limit.

    Shape:
        Returns (N,) int32.
    """
    if method not in COMMUNITIES:
        raise ConfigError(f"communities: expected one of {sorted(COMMUNITIES)}, got {method!r}.")
    detector = COMMUNITIES[method]
    given = {"num_communities": num_communities, "resolution": resolution}
    wrong = [name for name in given if name != detector.takes and given[name] is not None]
    value = given[detector.takes]
    value = detector.default if value is None else value
    if wrong or value is None:
        got = f"{wrong[0]}={given[wrong[0]]}" if wrong else "none"
        raise ConfigError(f"communities: expected {detector.takes} for {method}, got {got}.")
    if not 0 < value < np.inf or (detector.takes == "num_communities" and value > stream.num_nodes):
        most = f" to {stream.num_nodes} nodes" if detector.takes == "num_communities" else ""
        raise ConfigError(f"communities: expected {detector.takes} above 0{most}, got {value}.")
    labels_N = place_on_rank_zero(
        stream,
        resources,
        method,
        detector.bytes_an_edge,
        "Use the parts of a partitioning as communities, by lpa for one.",
        lambda lists: _first_come(detector.find(lists, value, seed)),
    )
    return labels_N


def _first_come(labels_N: NDArray[Any]) -> NDArray[np.int32]:
    """Return labels numbered in the order in which they first appear."""
    _, first, inverse = np.unique(labels_N, return_index=True, return_inverse=True)
    rank = np.empty(first.shape[0], np.int32)
    rank[np.argsort(first)] = np.arange(first.shape[0], dtype=np.int32)
    return rank[inverse]


# -- the methods ----------------------------------------------------------------------------------


def _multilevel(lists: NeighbourLists, num_communities: float, seed: int) -> NDArray[Any]:
    # Gottesbüren et al., "Deep Multilevel Graph Partitioning", ESA 2021, as Cluster-GCN uses METIS.
    return kaminpar_parts(lists, int(num_communities), seed)


def _louvain(lists: NeighbourLists, resolution: float, seed: int) -> NDArray[Any]:
    # Blondel, Guillaume, Lambiotte, Lefebvre, "Fast unfolding of communities in large networks",
    # 2008; with the refinement of Staudt, Meyerhenke, "Engineering parallel algorithms for
    # community detection in massive networks", TPDS 27(1), 2016.
    return _networkit(
        lists, lambda kit, graph: kit.PLM(graph, refine=True, gamma=resolution, par="none"), seed
    )


def _leiden(lists: NeighbourLists, resolution: float, seed: int) -> NDArray[Any]:
    # Traag, Waltman, van Eck, "From Louvain to Leiden: guaranteeing well-connected communities",
    # Scientific Reports 9, 2019.
    return _networkit(
        lists,
        lambda kit, graph: kit.ParallelLeiden(
            graph, iterations=3, randomize=True, gamma=resolution
        ),
        seed,
    )


def _networkit(
    lists: NeighbourLists, algorithm: Callable[[Any, Any], Any], seed: int
) -> NDArray[Any]:
    num_nodes = lists.indptr.shape[0] - 1
    if not lists.neighbours.shape[0]:
        return np.arange(num_nodes)  # modularity is a share of the edges
    try:
        import networkit
    except ImportError as error:
        raise ConfigError(
            f"communities: expected NetworKit for louvain and leiden, got {error}. "
            "Run: pip install 'graphtheta[communities]'"
        ) from error
    ends = np.repeat(np.arange(num_nodes, dtype=np.uint64), np.diff(lists.indptr))
    once = ends < lists.neighbours  # an undirected edge is given by one of its directions
    pairs = ends[once], lists.neighbours[once].astype(np.uint64)
    del ends, once
    graph = networkit.GraphFromCoo(pairs, n=num_nodes, weighted=False, directed=False)
    del pairs
    threads = networkit.getMaxNumberOfThreads()
    networkit.setNumberOfThreads(1)
    networkit.setSeed(seed & 0xFFFFFFFFFFFFFFFF, False)
    try:
        done = algorithm(networkit.community, graph).run()
        return np.array(done.getPartition().getVector())
    finally:
        networkit.setNumberOfThreads(threads)


COMMUNITIES: dict[str, Detector] = {
    "louvain": Detector("resolution", 1.0, _BYTES_AN_EDGE, _louvain),
    "leiden": Detector("resolution", 1.0, _BYTES_AN_EDGE, _leiden),
    "multilevel": Detector("num_communities", None, KAMINPAR_BYTES_AN_EDGE, _multilevel),
}

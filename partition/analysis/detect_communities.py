"""Community detection for cluster batches: groups of nodes with many edges inside, few between.

All methods run in one thread of rank 0, which makes them repeatable, and ignore the direction and
the repetition of edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.partition.core.neighbour_lists import NeighbourLists
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream
from graphtheta.partition.methods.kaminpar import KaMinPar, kaminpar_parts
from graphtheta.partition.methods.multilevel import label_on_rank_zero

__all__ = ["COMMUNITIES", "Detector", "detect"]

_NETWORKIT_BYTES = 140  # per pair of neighbours, measured on RMAT; 110 on communities


@dataclass(frozen=True, slots=True)
class Detector:
    """Method of community detection.

    Attributes:
        parameter: Argument of `detect` that controls the number of communities.
        default: Default of that argument. If None, it must be given.
        bytes_per_pair: Work space for each pair of neighbours, in addition to the neighbour lists.
        find: From neighbour lists, the value of the argument and a seed to a label of each node.
    """

    parameter: Literal["num_communities", "resolution"]
    default: float | None
    bytes_per_pair: int
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

    Communities are numbered in the order of their first nodes. A node without neighbours is a
    community of its own, except with `multilevel`.

    Args:
        stream: Edges of the graph.
        method: Key of `COMMUNITIES`.
        num_communities: Number of communities, for `multilevel`, which balances them.
        resolution: Resolution of the modularity, for `louvain` and `leiden`. Larger values give
            more communities. Defaults to 1.0.
        seed: Random seed. `louvain` does not use it.
        resources: Ranks, memory and progress.

    Communication:
        Broadcast of 4 bytes per node.

    Raises:
        ConfigError: If the method or its argument is wrong, or its library is missing.
        PartitionError: If the method does not fit the memory limit.

    Shape:
        Returns (N,) int32.
    """
    need_name(method, COMMUNITIES, "method of communities (--method)")
    detector = COMMUNITIES[method]
    parameter = detector.parameter
    given = {"num_communities": num_communities, "resolution": resolution}
    wrong = [name for name in given if name != parameter and given[name] is not None]
    value = detector.default if given[parameter] is None else given[parameter]
    if wrong or value is None:
        got = f"{wrong[0]}={given[wrong[0]]}" if wrong else "none"
        raise ConfigError(f"communities: expected {parameter} for {method}, got {got}.")
    counted = parameter == "num_communities"
    if not 0 < value < np.inf or (counted and value > stream.num_nodes):
        most = f" to {stream.num_nodes} nodes" if counted else ""
        raise ConfigError(f"communities: expected {parameter} above 0{most}, got {value}.")
    return label_on_rank_zero(
        stream,
        resources,
        method,
        detector.bytes_per_pair,
        "Use the parts of a partitioning as communities, for example by lpa.",
        lambda lists: _renumber(detector.find(lists, value, seed)),
    )


def _renumber(labels_N: NDArray[Any]) -> NDArray[np.int32]:
    """Return labels numbered in the order in which they first appear."""
    _, first, inverse = np.unique(labels_N, return_index=True, return_inverse=True)
    number = np.empty(first.shape[0], np.int32)
    number[np.argsort(first)] = np.arange(first.shape[0], dtype=np.int32)
    return number[inverse]


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
        return np.arange(num_nodes)  # modularity is not defined without edges
    try:
        import networkit
    except ImportError as error:
        raise ConfigError(
            f"communities: expected NetworKit for louvain and leiden, got {error}. "
            "Run: pip install 'graphtheta[communities]'"
        ) from error
    nodes = np.repeat(np.arange(num_nodes, dtype=np.uint64), np.diff(lists.indptr))
    once = nodes < lists.neighbours  # one of the two directions of each edge
    pairs = nodes[once], lists.neighbours[once].astype(np.uint64)
    del nodes, once
    graph = networkit.GraphFromCoo(pairs, n=num_nodes, weighted=False, directed=False)
    del pairs
    threads = networkit.getMaxNumberOfThreads()
    networkit.setNumberOfThreads(1)
    networkit.setSeed(seed & 0xFFFFFFFFFFFFFFFF, False)
    try:
        result = algorithm(networkit.community, graph).run()
        return np.array(result.getPartition().getVector())
    finally:
        networkit.setNumberOfThreads(threads)


COMMUNITIES: dict[str, Detector] = {
    "louvain": Detector("resolution", 1.0, _NETWORKIT_BYTES, _louvain),
    "leiden": Detector("resolution", 1.0, _NETWORKIT_BYTES, _leiden),
    "multilevel": Detector("num_communities", None, KaMinPar.bytes_per_pair, _multilevel),
}

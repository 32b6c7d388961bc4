"""PyG sampler that lets the servers draw, where the edges are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.sampler import BaseSampler, HeteroSamplerOutput, SamplerOutput
from torch_geometric.sampler.neighbor_sampler import edge_sample

from graphtheta.data.types import Relation
from graphtheta.engine.client.graph import RelationName, RemoteGraph
from graphtheta.engine.client.subgraph import Subgraph
from graphtheta.engine.pyg.key_ranges import (
    EDGES,
    EdgeType,
    edge_ranges,
    node_range,
    node_ranges,
)
from graphtheta.errors import ConfigError

__all__ = ["NumNeighbors", "RemoteHeteroOutput", "RemoteSampler", "RemoteSamplerOutput"]

NumNeighbors: TypeAlias = Sequence[int] | Mapping[EdgeType, Sequence[int]]

_MAX_KEPT = 1 << 22  # nodes; 16 bytes each


@dataclass
class RemoteSamplerOutput(SamplerOutput):
    """PyG's sampler output with edge columns.

    Attributes:
        edge_columns: (e,) or (e, width) each: edge columns by name.
    """

    edge_columns: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class RemoteHeteroOutput(HeteroSamplerOutput):
    """PyG's sampler output for typed graphs, with edge columns.

    Attributes:
        edge_columns: (e,) or (e, width) each: edge columns by relation and name.
    """

    edge_columns: dict[EdgeType, dict[str, Tensor]] = field(default_factory=dict)


class RemoteSampler(BaseSampler):
    """Sampler that draws in-edges hop by hop, once for each node, as PyG's `NeighborSampler` does.

    The draws of a batch depend only on `seed` and on the batch's nodes, not on the partitioning,
    the servers, the loader's workers or earlier batches. Epochs with the same batches draw the same
    edges: shuffle the nodes, or change `seed` between epochs.

    In a graph of several node types or relations, edges are drawn for each relation, and nodes and
    edges are numbered from 0 within their types and relations, as in `HeteroData`.

    Args:
        graph: The graph.
        num_neighbors: In-edges to draw for each node, for each hop from the seeds; -1 takes all,
            0 none. Without numbers, batches hold only the seeds. In a typed graph, for each
            relation, or a mapping of relations to such lists; no edges are drawn from others.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        columns: Edge columns to return with the edges; in a typed graph, by relation.

    Raises:
        ConfigError: If a number is no integer >= -1.
    """

    def __init__(
        self,
        graph: RemoteGraph,
        num_neighbors: NumNeighbors,
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        columns: Sequence[str] | Mapping[EdgeType, Sequence[str]] = (),
    ) -> None:
        self.graph, self.seed = graph, seed
        self._is_typed = graph.manifest.is_typed
        self._nodes, self._edges = node_ranges(graph), edge_ranges(graph)
        self._fanouts: list[int | None] | dict[RelationName, list[int | None]]
        if not self._is_typed:
            self._fanouts = _fanouts(num_neighbors)
        elif isinstance(num_neighbors, Mapping):
            for relation in num_neighbors:
                graph.manifest.position_of_relation(Relation.of(relation))  # raises if unknown
            self._fanouts = {name: _fanouts(some) for name, some in num_neighbors.items()}
        else:
            self._fanouts = {group: _fanouts(num_neighbors) for group in self._edges}
        if self._is_typed and weight is not None:
            raise ConfigError(
                f"sampler: expected no weight in a graph of several relations, got {weight!r}. "
                "Leave it out."
            )
        by_relation = columns if isinstance(columns, Mapping) else {EDGES: columns}
        self._columns = {group: tuple(some) for group, some in by_relation.items()}
        self._replace, self._weight = replace, weight
        self._kept = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def keep(self, nodes: Tensor, node_type: str | None = None) -> None:
        """Look up the new ids of seed nodes once, which saves each batch a round trip.

        They take 16 bytes per node. With more than 2^22 nodes, this does nothing.

        Args:
            nodes: (T,) node keys, such as the input nodes of a loader.
            node_type: Type of the nodes in a typed graph, whose nodes are numbered from 0.

        Raises:
            UnknownNode: If there is no such node.
        """
        if len(nodes) <= _MAX_KEPT:
            keys = np.unique(nodes.numpy()) + node_range(self.graph, node_type).first_key
            self._kept = keys, self.graph.new_ids(keys, "node_key")

    def sample_from_nodes(self, index: Any, **_: Any) -> RemoteSamplerOutput | RemoteHeteroOutput:
        _check_no_time(index.time)
        out = self._sample({index.input_type: index.node})
        out.metadata = (index.input_id, index.time)
        return out

    def sample_from_edges(
        self, index: Any, neg_sampling: Any = None
    ) -> RemoteSamplerOutput | RemoteHeteroOutput:
        _check_no_time(index.time)
        sizes = {name: nodes.size for name, nodes in self._nodes.items()}
        out: RemoteSamplerOutput | RemoteHeteroOutput = edge_sample(
            index,
            lambda seeds, _: self._sample(seeds if self._is_typed else {None: seeds}),
            sizes if self._is_typed else self.graph.num_nodes,
            disjoint=False,
            neg_sampling=neg_sampling,
        )
        return out

    def _sample(
        self, seeds: Mapping[str | None, Tensor]
    ) -> RemoteSamplerOutput | RemoteHeteroOutput:
        """Return the sample around seed nodes of each type."""
        keys = np.concatenate(
            [some.numpy() + node_range(self.graph, name).first_key for name, some in seeds.items()]
        ).astype(np.int64)
        kept, new_ids = self._kept
        index = np.searchsorted(kept, keys)
        known = len(kept) > 0 and np.array_equal(kept.take(index, mode="clip"), keys)
        found = self.graph.subgraph(
            new_ids[index] if known else keys,
            self._fanouts,
            by="new_id" if known else "node_key",
            node_keys=keys if known else None,
            replace=self._replace,
            weight=self._weight,
            seed=self.seed,
            step=xxhash.xxh3_64_intdigest(keys.tobytes()) >> 1,
            columns=() if self._is_typed else self._columns.get(EDGES, ()),
        )
        if self._is_typed:
            return self._by_type(found)
        return RemoteSamplerOutput(
            node=torch.from_numpy(found.node_key),
            row=torch.from_numpy(found.src),
            col=torch.from_numpy(found.dst),
            edge=torch.from_numpy(found.edge_key),
            num_sampled_nodes=found.num_nodes,
            num_sampled_edges=found.num_edges,
            edge_columns={name: torch.from_numpy(c) for name, c in found.columns.items()},
        )

    def _by_type(self, found: Subgraph) -> RemoteHeteroOutput:
        """Return a sample by node type and relation, each in the order of the hops."""
        out = RemoteHeteroOutput(
            node={}, row={}, col={}, edge={}, num_sampled_nodes={}, num_sampled_edges={}
        )
        types = self.graph.types_of(found.node_key)
        hop_of_nodes = np.repeat(np.arange(len(found.num_nodes)), found.num_nodes)
        position = np.empty(len(types), np.int64)
        for number, (name, nodes) in enumerate(self._nodes.items()):
            some = np.flatnonzero(types == number)
            position[some] = np.arange(len(some))
            out.node[name] = torch.from_numpy(found.node_key[some] - nodes.first_key)
            out.num_sampled_nodes[name] = _counts(hop_of_nodes[some], len(found.num_nodes))
        relations = self.graph.relations_of(found.edge_key)
        hop_of_edges = np.repeat(np.arange(len(found.num_edges)), found.num_edges)
        for number, (group, edges) in enumerate(self._edges.items()):
            some = np.flatnonzero(relations == number)
            keys, dst = found.edge_key[some], found.dst[some]
            out.row[group] = torch.from_numpy(position[found.src[some]])
            out.col[group] = torch.from_numpy(position[dst])
            out.edge[group] = torch.from_numpy(keys - edges.first_key)
            out.num_sampled_edges[group] = _counts(hop_of_edges[some], len(found.num_edges))
            if names := self._columns.get(group):
                columns = self.graph.edge_columns(
                    keys, names, dst=found.new_id[dst], by="new_id", relation=edges.relation
                )
                out.edge_columns[group] = {n: torch.from_numpy(c) for n, c in columns.items()}
        return out


def _counts(hops: NDArray[np.int64], num_hops: int) -> list[int]:
    counts: list[int] = np.bincount(hops, minlength=num_hops).tolist()
    return counts


def _fanouts(num_neighbors: Any) -> list[int | None]:
    """Return the fan-outs of the layers from the input on, None for all edges."""
    hops = np.asarray(num_neighbors if isinstance(num_neighbors, Sequence) else "?")
    if hops.ndim != 1 or (len(hops) and (hops.dtype.kind not in "iu" or hops.min() < -1)):
        raise ConfigError(
            f"sampler: expected a list of numbers of neighbours, each >= 0 or -1, got "
            f"{num_neighbors!r}. Correct it."
        )
    return [None if n == -1 else n for n in reversed(hops.tolist())]


def _check_no_time(time: Any) -> None:
    if time is not None:
        raise ConfigError(
            "sampler: expected seeds without times, got some: draws do not depend on time. Leave "
            "out input_time or edge_label_time."
        )

"""PyG sampler that lets the servers draw, where the edges are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch_geometric.sampler import BaseSampler, SamplerOutput
from torch_geometric.sampler.neighbor_sampler import edge_sample

from graphtheta.engine.client.graph import RemoteGraph
from graphtheta.errors import ConfigError

__all__ = ["RemoteSampler", "RemoteSamplerOutput"]

_MAX_KEPT = 1 << 22  # nodes; 16 bytes each


@dataclass
class RemoteSamplerOutput(SamplerOutput):
    """PyG's sampler output with edge columns.

    Attributes:
        edge_columns: (e,) or (e, width) each: edge columns by name.
    """

    edge_columns: dict[str, Tensor] = field(default_factory=dict)


class RemoteSampler(BaseSampler):
    """Sampler that draws in-edges hop by hop, once for each node, as PyG's `NeighborSampler` does.

    The draws of a batch depend only on `seed` and on the batch's nodes, not on the partitioning,
    the servers, the loader's workers or earlier batches. Epochs with the same batches draw the same
    edges: shuffle the nodes, or change `seed` between epochs.

    Args:
        graph: The graph.
        num_neighbors: In-edges to draw for each node, for each hop from the seeds; -1 takes all,
            0 none. Without numbers, batches hold only the seeds.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        columns: Edge columns to return with the edges.

    Raises:
        ConfigError: If a number is no integer >= -1.
    """

    def __init__(
        self,
        graph: RemoteGraph,
        num_neighbors: Sequence[int],
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        columns: Sequence[str] = (),
    ) -> None:
        hops = np.asarray(num_neighbors if isinstance(num_neighbors, Sequence) else "?")
        if hops.ndim != 1 or (len(hops) and (hops.dtype.kind not in "iu" or hops.min() < -1)):
            raise ConfigError(
                f"sampler: expected a list of numbers of neighbours, each >= 0 or -1, got "
                f"{num_neighbors!r}. Correct it."
            )
        self.graph, self.seed = graph, seed
        self._fanouts = [None if n == -1 else n for n in reversed(hops.tolist())]
        self._replace, self._weight, self._columns = replace, weight, tuple(columns)
        self._kept = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def keep(self, nodes: Tensor) -> None:
        """Look up the new ids of seed nodes once, which saves each batch a round trip.

        They take 16 bytes per node. With more than 2^22 nodes, this does nothing.

        Args:
            nodes: (T,) node keys, such as the input nodes of a loader.

        Raises:
            UnknownNode: If there is no such node.
        """
        if len(nodes) <= _MAX_KEPT:
            keys = np.unique(nodes.numpy())
            self._kept = keys, self.graph.new_ids(keys, "node_key")

    def sample_from_nodes(self, index: Any, **_: Any) -> RemoteSamplerOutput:
        _check_no_time(index.time)
        out = self._sample(index.node)
        out.metadata = (index.input_id, index.time)
        return out

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> RemoteSamplerOutput:
        _check_no_time(index.time)
        out: RemoteSamplerOutput = edge_sample(
            index,
            lambda seeds, _: self._sample(seeds),
            self.graph.num_nodes,
            disjoint=False,
            neg_sampling=neg_sampling,
        )
        return out

    def _sample(self, seeds: Tensor) -> RemoteSamplerOutput:
        keys = np.ascontiguousarray(seeds.numpy(), np.int64)
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
            columns=self._columns,
        )
        return RemoteSamplerOutput(
            node=torch.from_numpy(found.node_key),
            row=torch.from_numpy(found.src),
            col=torch.from_numpy(found.dst),
            edge=torch.from_numpy(found.edge_key),
            num_sampled_nodes=found.num_nodes,
            num_sampled_edges=found.num_edges,
            edge_columns={name: torch.from_numpy(c) for name, c in found.columns.items()},
        )


def _check_no_time(time: Any) -> None:
    if time is not None:
        raise ConfigError(
            "sampler: expected seeds without times, got some: draws do not depend on time. Leave "
            "out input_time or edge_label_time."
        )

"""A PyG sampler whose draws are made by the servers, where the edges are."""

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

_MOST_KEPT = 1 << 22


@dataclass
class RemoteSamplerOutput(SamplerOutput):
    """What PyG's output has, and edge columns that came along.

    Attributes:
        edge_columns: (e,) or (e, width) each, by name of the column.
    """

    edge_columns: dict[str, Tensor] = field(default_factory=dict)


class RemoteSampler(BaseSampler):
    """Draws in-edges hop by hop, of every node when it is first found, as PyG's own sampler.

    What is drawn depends on the seed and on the batch's nodes alone: not on servers, partitions,
    data loader workers or earlier batches. An epoch in the same order draws the same: shuffle, or
    set `seed` anew.

    Args:
        graph: The graph.
        num_neighbors: In-edges to draw, of each hop from the seeds; -1: all.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that edges are drawn in proportion to.
        seed: Of the draws.
        columns: Edge columns that are fetched along with edges.

    Raises:
        ConfigError: If a number is neither positive nor -1.
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
        if not num_neighbors or any(number < 1 and number != -1 for number in num_neighbors):
            raise ConfigError(
                f"sampler: expected numbers of neighbours, each >= 1 or -1, got "
                f"{list(num_neighbors)}."
            )
        self.graph, self.seed = graph, seed
        self._fanouts = [None if n == -1 else n for n in reversed(num_neighbors)]
        self._replace, self._weight, self._columns = replace, weight, tuple(columns)
        self._kept = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def keep(self, nodes: Tensor) -> None:
        """Look nodes up once: batches of them need no more looking up, a round trip less each.

        Takes 16 bytes a node; of more than four million it does nothing.

        Args:
            nodes: (T,) node keys, such as a loader's input.

        Raises:
            UnknownNode: If there is no such node.
        """
        if len(nodes) <= _MOST_KEPT:
            keys = np.unique(nodes.numpy())
            self._kept = keys, self.graph.new_ids(keys, "node_key")

    def sample_from_nodes(self, index: Any, **_: Any) -> RemoteSamplerOutput:
        """Draw around nodes; see PyG's `BaseSampler`."""
        out = self._sample(index.node)
        out.metadata = (index.input_id, index.time)
        return out

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> RemoteSamplerOutput:
        """Draw around the ends of edges, and of pairs that PyG draws as negatives."""
        out: RemoteSamplerOutput = edge_sample(
            index,
            lambda seeds, _: self._sample(seeds),
            self.graph.num_nodes,
            disjoint=False,
            neg_sampling=neg_sampling,
        )
        return out

    @property
    def edge_permutation(self) -> None:
        """Edges are numbered by their keys: none."""
        return None

    def _sample(self, seeds: Tensor) -> RemoteSamplerOutput:
        keys = np.ascontiguousarray(seeds.numpy(), np.int64)
        kept, new_ids = self._kept
        place = np.searchsorted(kept, keys)
        known = len(kept) > 0 and np.array_equal(kept.take(place, mode="clip"), keys)
        found = self.graph.subgraph(
            new_ids[place] if known else keys,
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

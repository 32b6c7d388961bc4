"""Views: what a batch is. Per layer, the active nodes and edges over the shard's shared storage.

A view lives for one step. It carries what the step's layers share: the token that chains their
exchanges, the Philox key of the step, and counters that keep draws apart.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.exchange import Channel, new_token, to_master
from graphtheta.random import Purpose, step_key, stream_id
from graphtheta.shard import Shard
from graphtheta.tgar.aggregators import AGGREGATORS

__all__ = ["LayerView", "View"]


class LayerView:
    """What one layer of a step computes on.

    Attributes:
        view: The step this belongs to.
        layer: Index of the layer, counted from the input.
        shard: Storage.
        edge_columns: Edge columns by name, (E, ...) each, in CSC order. Replacing one by a tensor
            that requires grad gives its gradient.
    """

    def __init__(self, view: View, layer: int) -> None:
        self.view = view
        self.layer = layer
        self.shard = view.shard
        self.edge_columns = dict(view.shard.edge_columns)
        self._calls: Counter[Purpose] = Counter()

    @property
    def channel(self) -> Channel:
        """Exchanges between masters and mirrors."""
        return self.shard.channel

    @property
    def node_keys(self) -> NDArray[np.int64]:
        """Keys of the layer's input rows: (M,) int64."""
        return self.shard.node_key_L[: self.shard.num_masters]

    def loop_column(self, name: str) -> Tensor:
        """Return what a layer's own self-loops carry: the mean of a node's in-edges, 0 if none.

        Differentiable in a column that was replaced; collective in a vertex-cut.

        Shape:
            (M,) or (M, A), of the edge column's type.

        Raises:
            ConfigError: If the column is not of floating point.
        """
        shard, column = self.shard, self.edge_columns[name]
        if column is shard.edge_columns.get(name):
            return shard.loop_column(name)
        topology, mean = shard.loopless_topology, AGGREGATORS["mean"]
        degree = shard.place(np.diff(topology.indptr))
        values = column if topology.position is None else column[topology.position]
        total = values.new_zeros((len(degree), *values.shape[1:]))
        partial = [total.index_add(0, torch.repeat_interleave(degree), values), degree]
        if shard.is_vertex_cut:
            route = shard.plan.destinations
            self.view.token, arrived = to_master(
                partial, self.view.token, self.channel, route, self.layer
            )
            own = [c[: shard.num_masters] for c in partial]
            partial = mean.merge(own, arrived, shard.place(route.master_S))
        return mean.finish(partial)

    def next_stream(self, purpose: Purpose) -> np.uint32:
        """Return a stream of draws that no other call of this layer and step uses."""
        call = self._calls[purpose]
        self._calls[purpose] += 1
        return stream_id(purpose, self.layer, call)


class View:
    """A batch in which every node is active at every layer.

    `view[k]` is what layer k computes on, the same object each time.

    Attributes:
        shard: Storage.
        step_key: (2,) uint32 Philox key of (seed, step).
        token: 0-d tensor that every exchange takes and replaces; a step runs exactly one
            `backward(loss + view.token)`. Where workers that are threads share a GPU, it runs
            under `torch.autograd.set_multithreading_enabled(False)`: torch has one thread a GPU,
            in which workers would wait for each other.
    """

    def __init__(self, shard: Shard, *, seed: int = 0, step: int = 0) -> None:
        self.shard = shard
        self.step_key = step_key(seed, step)
        self.token: Tensor = new_token(shard.device)
        self._layers: dict[int, LayerView] = {}

    def __getitem__(self, layer: int) -> LayerView:
        if layer not in self._layers:
            self._layers[layer] = LayerView(self, layer)
        return self._layers[layer]

    def inputs(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the features of the input layer's nodes: (M, F)."""
        features = self.shard.features
        return features if dtype is None else features.to(dtype)

"""Views: what a batch is. Per layer, the active nodes and edges over the shard's shared storage.

A view lives for one step. It carries what the step's layers share: the token that chains their
exchanges, the Philox key of the step, and counters that keep draws apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.exchange.autograd import new_token, to_master
from graphtheta.exchange.channel import Channel
from graphtheta.rng.philox import Purpose, step_key, stream_id
from graphtheta.shard.shard import Shard
from graphtheta.tgar.aggregators import AGGREGATORS
from graphtheta.tgar.batch.block import Block, whole_block
from graphtheta.tgar.batch.degrees import Degrees

__all__ = ["EdgeColumns", "LayerView", "View"]


class EdgeColumns(MutableMapping[str, Tensor]):
    """Edge columns of a block by name, (E, ...) each, in CSC order; selected when first read.

    Replacing one by a tensor that requires grad gives its gradient.

    Attributes:
        whole: Columns of all edges of the shard, for their types and widths.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._given: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = dict(block.shard.edge_columns)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._given:
            self._given[name] = self._block.of_edges(self.whole[name])
        return self._given[name]

    def __setitem__(self, name: str, column: Tensor) -> None:
        self._given[name] = self.whole[name] = column

    def __delitem__(self, name: str) -> None:
        del self.whole[name]
        self._given.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


class LayerView:
    """What one layer of a step computes on.

    Attributes:
        view: The step this belongs to.
        layer: Index of the layer, counted from the input.
        block: The active nodes and edges.
        edge_columns: Edge columns of the active edges.
    """

    def __init__(self, view: View, layer: int, block: Block) -> None:
        self.view = view
        self.layer = layer
        self.block = block
        self.edge_columns = EdgeColumns(block)
        self._calls: Counter[Purpose] = Counter()

    @property
    def shard(self) -> Shard:
        """Storage."""
        return self.view.shard

    @property
    def channel(self) -> Channel:
        """Exchanges between masters and mirrors."""
        return self.shard.channel

    @property
    def node_keys(self) -> NDArray[np.int64]:
        """Keys of the layer's input rows: (I,) int64."""
        return self.block.node_key

    def node_column(self, name: str, *, self_loops: bool) -> Tensor:
        """Return a column of the input rows: (I, ...).

        It is of the whole graph whatever is active, but for in-degrees of a renormalised view, and
        those by type where edges are drawn: a mean is over what was drawn, and of a node's many
        types most are not. Only the outputs have those.

        Args:
            name: Of a column of the shard; or `in_degree_by_type`.
            self_loops: Whether `in_degree` counts a self-loop of the layer's own, and no other.
        """
        loopless = name == "in_degree" and self_loops
        counted = "loopless_in_degree" if loopless else name
        if name == "in_degree_by_type" and self.block.fanout is not None:
            drawn = Degrees(self.block).column(name)
            column = drawn.new_zeros((self.block.num_inputs, drawn.shape[1]))
            column[: len(drawn)] = drawn
        elif self.view.degrees is not None and name in ("in_degree", "in_degree_by_type"):
            column = self.view.degrees.column(counted)[: self.block.num_inputs]
        elif counted in ("loopless_in_degree", "in_degree_by_type"):
            column = self.block.of_inputs(getattr(self.shard, counted))
        else:
            column = self.block.of_inputs(self.shard.node_column(name))
        return column + 1 if loopless else column

    def loop_column(self, name: str) -> Tensor:
        """Return what a layer's own self-loops carry: the mean of a node's in-edges, 0 if none.

        The mean is over the whole graph; over the active edges in a renormalised view, and in a
        column that was replaced, differentiably. Collective in a vertex-cut.

        Shape:
            (O,) or (O, A), of the edge column's type.

        Raises:
            ConfigError: If the column is not of floating point.
        """
        shard, block = self.shard, self.block
        whole = self.edge_columns.whole[name]
        if self.view.degrees is None and whole is shard.edge_columns.get(name):
            column = shard.loop_column(name)
            return block.of_inputs(column)[: block.num_outputs]
        if not whole.is_floating_point():
            raise ConfigError(
                f"view: a self-loop has no '{name}', which is {whole.dtype}. Use a layer without "
                "self-loops, or one that does not read it."
            )
        column, mean = self.edge_columns[name], AGGREGATORS["mean"]
        topology = block.loopless_topology
        degree = shard.to_device(np.diff(topology.indptr))
        values = column if topology.position is None else column[topology.position]
        total = values.new_zeros((len(degree), *values.shape[1:]))
        partial = [total.index_add(0, torch.repeat_interleave(degree), values), degree]
        if shard.is_vertex_cut:
            route = block.destinations
            self.view.token, arrived = to_master(
                partial, self.view.token, self.channel, route, self.layer
            )
            own = [c[: block.num_outputs] for c in partial]
            partial = mean.merge(own, arrived, shard.to_device(route.master_S))
        return mean.finish(partial)

    def edges_per_draw(self) -> Tensor | None:
        """Return how many in-edges each drawn one stands for; None if none are drawn.

        What a sum over drawn edges is to be multiplied by, so that its expectation is the sum over
        all (Horvitz, Thompson, JASA 1952). Drawn by weight, edges count by it.

        Shape:
            (O,) floating point; below 1 where more is drawn, with replacement, than there is.
        """
        block, fanout = self.block, self.block.fanout
        if fanout is None:
            return None
        degree = block.of_inputs(self.shard.node_column("in_degree"))[: block.num_outputs]
        size = fanout.size
        drawn = torch.full_like(degree, size) if fanout.replace else degree.clamp(max=size)
        return torch.where(degree > 0, degree / drawn, 1.0)

    def next_stream(self, purpose: Purpose) -> np.uint32:
        """Return a stream of draws that no other call of this layer and step uses."""
        call = self._calls[purpose]
        self._calls[purpose] += 1
        return stream_id(purpose, self.layer, call)


class View:
    """A batch: the active nodes and edges of each layer, all of them unless blocks are given.

    `view[k]` is what layer k computes on, the same object each time.

    Args:
        shard: Storage.
        seed: Of everything that is drawn.
        step: Counted over the run.
        blocks: One for each graph layer, from the input; the inputs of one are the outputs of the
            one before. None: every node is active at every layer.
        degrees: In-degrees inside the batch, which then stand for those of the whole graph.

    Attributes:
        shard: Storage.
        step_key: (2,) uint32 Philox key of (seed, step).
        token: 0-d tensor that every exchange takes and replaces; a step runs exactly one
            `backward(loss + view.token)`. Where workers that are threads share a GPU, it runs
            under `torch.autograd.set_multithreading_enabled(False)`: torch has one thread a GPU,
            in which workers would wait for each other.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        seed: int = 0,
        step: int = 0,
        blocks: Sequence[Block] | None = None,
        degrees: Degrees | None = None,
    ) -> None:
        self.shard = shard
        self.blocks, self.degrees = blocks, degrees
        self.step_key = step_key(seed, step)
        self.token: Tensor = new_token(shard.device)
        self._layers: dict[int, LayerView] = {}
        self._features: Tensor | None = None

    def __getitem__(self, layer: int) -> LayerView:
        if layer not in self._layers:
            if self.blocks is not None and not 0 <= layer < len(self.blocks):
                raise ConfigError(
                    f"view: the batch was prepared for {len(self.blocks)} graph layers, and layer "
                    f"{layer} was asked for. Give the model a `num_layers` that counts them all."
                )
            block = whole_block(self.shard) if self.blocks is None else self.blocks[layer]
            self._layers[layer] = LayerView(self, layer, block)
        return self._layers[layer]

    def inputs(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the features of the input layer's nodes: (I, F)."""
        if self._features is None:
            self._features = self.of_inputs(self.shard.features)
        return self._features if dtype is None else self._features.to(dtype)

    def of_inputs(self, column_M: Tensor) -> Tensor:
        """Return the rows of the input layer's nodes of a column of all masters: (I, ...)."""
        return self.blocks[0].of_inputs(column_M) if self.blocks else column_M

    def prepare(self) -> None:
        """Do ahead of time what a step would do when it gets there; talks to nobody."""
        self._features = self.inputs()
        for block in self.blocks or ():
            _ = block.out_edges

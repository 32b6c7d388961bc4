"""Views: batches as the active nodes and edges of each layer, over the storage of the shard.

A view is used for one step. It holds what the layers of the step share: the token that chains their
exchanges, and the Philox key from which random numbers are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.exchange.autograd import need_token, new_token, to_master
from graphtheta.exchange.channel import Channel
from graphtheta.rng.philox import MAX_CALLS, Purpose, step_key, stream_id
from graphtheta.shard.shard import Shard
from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator
from graphtheta.tgar.batch.block import Block, Degrees, whole_block
from graphtheta.tgar.batch.edge_columns import EdgeColumns
from graphtheta.wording import counted

__all__ = ["LayerView", "View"]


class _NotATensor:
    """Base of views, with an error of one line where one is given in place of a tensor."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _no_tensor(cls, f"in torch's {getattr(func, '__name__', func)}()")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(Tensor, name):
            raise _no_tensor(type(self), f"to read its '{name}'")
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def _no_tensor(kind: type, where: str) -> ConfigError:
    return ConfigError(
        f"{kind.__name__}: expected a tensor {where}, got a view. A layer of torch takes h only; "
        "instead of a layer of PyG or DGL, use one of graphtheta.nn, which is called as "
        "conv(view[k], h)."
    )


class LayerView(_NotATensor):
    """Active nodes and edges of one layer of a batch.

    Attributes:
        view: The batch.
        layer: Index of the layer, counted from the input.
        block: The active nodes and edges.
        edge_columns: Edge columns of the active edges.
    """

    def __init__(self, view: View, layer: int, block: Block) -> None:
        self.view = view
        self.layer = layer
        self.block = block
        self.edge_columns = EdgeColumns(block.shard.edge_columns, block.edge_index)
        self._calls: Counter[Purpose] = Counter()

    def __repr__(self) -> str:
        return f"LayerView(layer={self.layer}, {self.block})"

    @property
    def shard(self) -> Shard:
        """Shard that stores the nodes and edges."""
        return self.view.shard

    @property
    def channel(self) -> Channel:
        """Exchanges between masters and mirrors."""
        return self.shard.channel

    @property
    def node_keys(self) -> NDArray[np.int64]:
        """Keys of the input nodes: (I,) int64."""
        return self.block.node_key

    def node_column(self, name: str, *, self_loops: bool) -> Tensor:
        """Return a node column of the inputs: (I, ...).

        Values are those of the whole graph, with two exceptions. In a renormalised view, in-degrees
        count the edges of the batch. If edges are sampled, in-degrees by type count the sampled
        edges, and only for outputs: a mean by type is over those.

        Args:
            name: Name of a node column of the shard, or `in_degree_by_type`, or `in_weight`: the
                sum of the edge column `weight` over in-edges, in float64.
            self_loops: Whether `in_degree` and `in_weight` count one self-loop, the layer's own,
                instead of the graph's.

        Raises:
            ConfigError: If the graph has no such column.
        """
        loopless = name == "in_degree" and self_loops
        counted = "loopless_in_degree" if loopless else name
        if name == "in_weight":
            return self._in_weight(self_loops=self_loops)
        if name == "in_degree_by_type" and self.block.fanout is not None:
            sampled = Degrees(self.block).column(name)
            column = sampled.new_zeros((self.block.num_inputs, sampled.shape[1]))
            column[: len(sampled)] = sampled
        elif self.view.degrees is not None and name in ("in_degree", "in_degree_by_type"):
            column = self.view.degrees.column(counted)[: self.block.num_inputs]
        elif counted in ("loopless_in_degree", "in_degree_by_type"):
            column = self.block.of_inputs(getattr(self.shard, counted))
        else:
            column = self.block.of_inputs(self.shard.node_column(name))
        return column + 1 if loopless else column

    def _in_weight(self, *, self_loops: bool) -> Tensor:
        """Return the sum of the weights of each input's in-edges: (I,) float64."""
        shard, block, degrees = self.shard, self.block, self.view.degrees
        weight, loop = shard.edge_weight, None
        if self.edge_columns.whole["weight"] is not weight:
            if block.rows is not None:
                raise ConfigError(
                    "view: expected a view of the whole graph, since the column 'weight' was "
                    "replaced, got a batch, which lacks in-edges of its inputs. Use "
                    "gt.tgar.View(shard)."
                )
            weight = self.edge_columns["weight"].double()
            topology = block.loopless_topology if self_loops else block.topology
            (total,) = self._sum_at_masters(topology.sums_of_rows(weight))
            loop = self._of_own_loops("weight") if self_loops else None
        else:
            total = (
                block.of_inputs(shard.in_weight(loopless=self_loops))
                if degrees is None
                else degrees.column("loopless_in_weight" if self_loops else "in_weight")
            )[: block.num_inputs]
            if self_loops:
                loop = block.of_inputs(shard.loop_column("weight", own=True))
        return total if loop is None else total + loop

    def loop_column(self, name: str, *, own: bool = False) -> Tensor:
        """Return an edge column of a layer's own self-loops: the mean over the node's in-edges.

        It is 0 for a node without in-edges. The mean is over the whole graph. In a renormalised
        view, and for a column that was replaced, it is over the active edges, and differentiable.
        Collective in a vertex-cut.

        Args:
            name: Name of the edge column.
            own: Whether to return that of the node's self-loop in the graph instead, or 1 for a
                node without one.

        Shape:
            (O,) or (O, A), of the edge column's dtype.

        Raises:
            ConfigError: If the column is not floating point.
        """
        shard, block = self.shard, self.block
        whole = self.edge_columns.whole[name]
        if (own or self.view.degrees is None) and whole is shard.edge_columns.get(name):
            column = shard.loop_column(name, own=own)
            return block.of_inputs(column)[: block.num_outputs]
        if not whole.is_floating_point():
            raise ConfigError(
                f"view: a self-loop has no '{name}', which is {whole.dtype}. Use a layer without "
                "self-loops, or one that does not read it."
            )
        if own:
            return self._of_own_loops(name)
        topology = block.loopless_topology
        degree = shard.to_device(np.diff(topology.indptr))
        total = topology.sums_of_rows(self.edge_columns[name])
        return AGGREGATORS["mean"].finish(self._sum_at_masters(total, degree))

    def _of_own_loops(self, name: str) -> Tensor:
        """Return a replaced column of each output's self-loop in the graph, or 1: (O, ...)."""
        block, column = self.block, self.edge_columns[name]
        edges = np.arange(block.num_edges) if block.edges is None else block.edges
        found = np.flatnonzero(np.isin(edges, self.shard.own_loops))
        row = np.searchsorted(block.in_edges.indptr, found, side="right") - 1
        rows, values = self.shard.to_device(row), column[self.shard.to_device(found)]
        zeros = column.new_zeros((block.in_edges.num_rows, *column.shape[1:]))
        has_loop = zeros.new_zeros(len(zeros)).index_fill(0, rows, 1)
        value, has_loop = self._sum_at_masters(zeros.index_add(0, rows, values), has_loop)
        return value + (1 - has_loop).reshape(-1, *(1,) * (value.dim() - 1))

    def _sum_at_masters(self, *rows: Tensor) -> list[Tensor]:
        """Return the rows of outputs, with those of their mirrors added; differentiable."""
        if self.shard.is_vertex_cut:
            return self.merge(list(rows), AGGREGATORS["sum"])
        return [r[: self.block.num_outputs] for r in rows]

    def merge(self, partial: list[Tensor], aggregator: Aggregator) -> list[Tensor]:
        """Merge the partials of mirrors into those of their masters; collective."""
        route = self.block.destinations
        self.view.token, received = to_master(
            partial, self.view.token, self.channel, route, self.layer
        )
        own = [column[: self.block.num_outputs] for column in partial]
        return aggregator.merge(own, received, self.shard.to_device(route.master_S))

    def edges_per_draw(self) -> Tensor | None:
        """Return the number of in-edges per sampled edge, or None if edges are not sampled.

        A sum over sampled edges times this number has the sum over all in-edges as its expectation.
        If edges are sampled by weight, their share in that sum is by weight too.

        Shape:
            (O,) floating point; below 1 where sampling with replacement draws more than there are.

        Source:
            Horvitz and Thompson, JASA 1952.
        """
        block, fanout = self.block, self.block.fanout
        if fanout is None:
            return None
        if isinstance(fanout.size, tuple):
            raise ConfigError(
                "view: expected a fan-out in total for a layer of all relations that estimates a "
                "sum, got fan-outs by relation. Run the layer by relation (HeteroConv), or give "
                "one number for each layer."
            )
        degree = block.of_inputs(self.shard.node_column("in_degree"))[: block.num_outputs]
        return self._edges_per_draw(degree, fanout.size, replace=fanout.replace)

    @staticmethod
    def _edges_per_draw(degree: Tensor, size: int, *, replace: bool) -> Tensor:
        sampled = torch.full_like(degree, size) if replace else degree.clamp(max=size)
        return torch.where(degree > 0, degree / sampled, 1.0)

    def carry(self, h: Tensor) -> Tensor:
        """Return the rows of this layer's outputs from those of an earlier layer; not collective.

        In a batch a layer has fewer outputs than inputs. This selects what a residual connection,
        jumping knowledge or a teleport adds to the output of `conv(view[k], h)`, in any batch:

            h = conv(view[k], h) + view[k].carry(h)

        Args:
            h: Rows of the inputs or outputs of any layer up to this one.

        Shape:
            h: (R, ...). Returns (O, ...), where O is the number of outputs of this layer.

        Raises:
            ConfigError: If h has another number of rows than any of these layers.
        """
        block, blocks = self.block, self.view.blocks
        rows = {block.num_outputs, block.num_inputs}
        if blocks is not None and block is blocks[self.layer]:
            rows.update(earlier.num_inputs for earlier in blocks[: self.layer])
        if len(h) not in rows:
            raise ConfigError(
                f"view[{self.layer}].carry: expected rows of a layer up to {self.layer}, which "
                f"are {', '.join(map(str, sorted(rows)))} here, got {counted(len(h), 'row')}. "
                "Carry the input or output of an earlier layer of the same batch."
            )
        return h[: block.num_outputs]

    def next_stream(self, purpose: Purpose) -> np.uint32:
        """Return the id of a random stream that no other call in this layer and step uses."""
        call = self._calls[purpose]
        self._calls[purpose] += 1
        if call >= MAX_CALLS:
            raise ConfigError(
                f"view[{self.layer}]: expected at most {MAX_CALLS:,} calls of dropout on a layer "
                "of a step, got more. Use the views of several layers."
            )
        return stream_id(purpose, self.layer, call)

    def edge_draws(self, number: int) -> NDArray[np.uint32]:
        """Return what kernels draw `number` dropout masks of edges from: the key and the streams.

        Layers that run on the same view get streams of their own.

        Shape:
            Returns (2 + number,) uint32.
        """
        streams = [self.next_stream(Purpose.EDGE_DROPOUT) for _ in range(number)]
        return np.array([*self.view.step_key, *streams], np.uint32)


class View(_NotATensor):
    """Batch: the active nodes and edges of each layer; `view[k]` is the `LayerView` of layer k.

    Args:
        shard: Shard that stores the nodes and edges.
        seed: Random seed of dropout.
        step: Number of the step in the run.
        blocks: Active nodes and edges of each graph layer, from the input; the inputs of a block
            are the outputs of the one before. If None, every node is active at every layer.
        degrees: In-degrees within the batch, which a renormalised view uses instead of those of the
            whole graph.

    Attributes:
        shard: The same shard.
        step_key: (2,) uint32 Philox key of (seed, step).
        token: 0-d tensor that every exchange takes and replaces. A step runs exactly one
            `backward(loss + view.token)`. If workers that are threads share a GPU, it must run
            under `torch.autograd.set_multithreading_enabled(False)`: torch has one backward thread
            per GPU, in which the workers would wait for each other.
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
        self._first_token = new_token(shard.device)
        self.token: Tensor = self._first_token
        self._layers: dict[int, LayerView] = {}
        self._features: Tensor | None = None

    def __repr__(self) -> str:
        if self.blocks is None:
            manifest = self.shard.manifest
            edges = counted(manifest.num_edges, "edge")
            return f"View(all {counted(manifest.num_nodes, 'node')} and {edges})"
        lines = [f"  {layer}: {block}" for layer, block in enumerate(self.blocks)]
        return "\n".join([f"View({counted(len(self.blocks), 'layer')})", *lines])

    def __getitem__(self, layer: int) -> LayerView:
        if layer not in self._layers:
            if self.blocks is not None and not 0 <= layer < len(self.blocks):
                raise ConfigError(
                    f"view: expected a layer below {len(self.blocks)}, for which the batch was "
                    f"prepared, got {layer}. Give the model a `num_layers` that counts them all."
                )
            block = whole_block(self.shard) if self.blocks is None else self.blocks[layer]
            self._layers[layer] = LayerView(self, layer, block)
        return self._layers[layer]

    def need_backward(self) -> None:
        """Raise a ConfigError unless `backward` has been called with the view's token."""
        need_token(self._first_token.grad)

    def inputs(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the features of the first layer's inputs: (I, F).

        Sparse features are `SparseRows`, which take the place of a tensor.
        """
        if self._features is None:
            self._features = self.of_inputs(cast(Tensor, self.shard.features))
        return self._features if dtype is None else self._features.to(dtype)

    def of_inputs(self, column_M: Tensor) -> Tensor:
        """Select the rows of the first layer's inputs from a column of all masters: (I, ...)."""
        return self.blocks[0].of_inputs(column_M) if self.blocks else column_M

    def prepare(self) -> None:
        """Compute in advance what a step needs: features and out-edges. Not collective."""
        self._features = self.inputs()
        for block in self.blocks or ():
            _ = block.out_edges

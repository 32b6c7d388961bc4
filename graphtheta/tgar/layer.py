"""TGARLayer: a graph layer written as naive torch on one node and one edge.

    class MeanConv(TGARLayer):
        aggregator = "mean"                           # Sum

        def transform(self, h):                       # NN-T, per node
            return {"z": self.lin(h)}

        def gather(self, src, dst, edge):             # NN-G, per edge
            return src["z"]

        def apply_node(self, n, m):                   # NN-A, per node
            return relu(n["z"] + m)

Reduce, the fifth stage, sums the gradients of its parameters over workers, for any layer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphtheta.comm.timers import Stage
from graphtheta.errors import ConfigError
from graphtheta.exchange.autograd import start_sync, to_master
from graphtheta.tgar.aggregators import aggregator
from graphtheta.tgar.batch.view import LayerView
from graphtheta.tgar.chunked import EdgeInputs, GatherSum
from graphtheta.tgar.compiler import FusedGatherSum, NotLowered, Program, program_of
from graphtheta.tgar.explain import Explanation, explained
from graphtheta.tgar.expression import Expression
from graphtheta.tgar.trace import WorkerIndependent, trace

__all__ = ["TGARLayer", "count_layers"]

_log = logging.getLogger("graphtheta")


class TGARLayer(nn.Module):
    """Base of every graph layer; calling it runs the stages on a view.

    Attributes:
        aggregator: Name of the Sum stage, a key of `AGGREGATORS`.
        self_loops: Whether every node also sends a message to itself. The graph's own self-loops
            are then left out, so that each node has exactly one; its edge columns are the mean of
            the node's in-edges.
        node_columns: Numeric node columns that `transform` gets as a second argument.
            `in_degree` is that of the whole graph, with the layer's self-loops;
            `in_degree_by_type` counts in-edges of each type. In a renormalised view both are those
            of the batch.
        storage: Type in which float32 fields of sources travel to mirrors and are gathered, None
            for their own. With bfloat16 half as many bytes move; sums stay float32.

    Communication:
        Forward, the fields that `gather` reads, once a mirror that needs them, and in a
        vertex-cut one partial a mirror with in-edges; backward the cotangents of the same.
    """

    aggregator: str = "sum"
    self_loops: bool = False
    node_columns: ClassVar[tuple[str, ...]] = ()
    storage: torch.dtype | None = None

    def __init__(self) -> None:
        super().__init__()
        self._expressions: dict[Any, Expression] = {}
        self._programs: dict[Any, Program | NotLowered] = {}
        self._last: tuple[Expression, Program | NotLowered] | None = None
        self._seen_modes: set[bool] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Copies trace again: an expression holds functions that can be neither copied nor pickled.
        return {
            **self.__dict__,
            "_expressions": {},
            "_programs": {},
            "_last": None,
            "_seen_modes": set(),
        }

    def transform(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """NN-Transform: return the fields of each node. Written as `transform(self, h)`.

        Args:
            args: h, what the layer below returned, one row a node; then, where `node_columns` is
                not empty, a mapping of those columns (`transform(self, h, node)`).
            kwargs: None; an override names the arguments it takes.
        """
        return {"h": args[0]}

    def gather(
        self, src: Mapping[str, Tensor], dst: Mapping[str, Tensor], edge: Mapping[str, Tensor]
    ) -> Any:
        """NN-Gather: the message of one edge, or (score, message) for a scored aggregator.

        Written with torch functions on the last dimensions; the leading one is the edge. Called
        once to be recorded, so it must not branch on values.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a gather(src, dst, edge).")

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Any:
        """NN-Apply: the new value of each node from its fields and its aggregated message."""
        return m

    def forward(self, view: LayerView, h: Any) -> Any:
        """Run the stages on the active nodes of `view`.

        Args:
            view: `view[k]` for the k-th graph layer of a model.
            h: (I, F) rows of the inputs of `view.block`: of all masters in a batch of everything.

        Raises:
            ConfigError: If `transform` does not return one row a node.
            TraceError: If `gather` is not a function of one edge.
        """
        shard, block, channel, k = view.shard, view.block, view.channel, view.layer
        stages, route = channel.stages, block.destinations
        reduce = aggregator(self.aggregator)

        with stages.timed("forward", Stage("transform", k)), self._watched():
            fields = self._transform(view, h)
            outputs = fields
            if block.num_outputs < block.num_inputs:
                outputs = {name: field[: block.num_outputs] for name, field in fields.items()}
        expression = self._expression(view, fields)
        with stages.timed("forward", Stage("transform", k)):
            sources = expression.in_node_space(expression.sources, self, fields)
            destinations = expression.in_node_space(expression.destinations, self, outputs)
            parameters = expression.in_node_space(expression.parameters, self, {})
            if self.storage is not None:
                sources = [x.to(self.storage) if x.dtype == torch.float32 else x for x in sources]

        columns = [view.edge_columns[name] for _, name in expression.edge_columns]
        if reduce.picks and block.distinct is not None:
            block, first = block.distinct
            columns = [column.index_select(0, first) for column in columns]
        loops = (
            [view.loop_column(name) for _, name in expression.edge_columns]
            if self.self_loops
            else []
        )
        token = view.view.token
        token, *near, arrivals = start_sync(sources, token, channel, block.sources, k)
        far: list[list[Tensor]] = [destinations, []]
        if shard.is_vertex_cut:
            token, *far, more = start_sync(destinations, token, channel, route, k)
            arrivals += more

        inputs = EdgeInputs(near[0], far[0], parameters, columns, loops, near[1], far[1])
        program = self._program(expression, inputs, warn=shard.comm.rank == 0)
        self._last = (expression, program)
        gather_sum: GatherSum | FusedGatherSum
        if isinstance(program, Program):
            gather_sum = FusedGatherSum(
                program=program,
                aggregator=reduce,
                block=block,
                layer=k,
                step_key=view.view.step_key if self.training else None,
                stages=stages,
            )
        else:
            gather_sum = GatherSum(
                expression=expression,
                aggregator=reduce,
                topology=block.loopless_topology if self.self_loops else block.topology,
                node_key=block.node_key,
                loop_rows=block.num_outputs if self.self_loops else 0,
                layer=k,
                step_key=view.view.step_key if self.training else None,
                stages=stages,
            )
        if shard.is_vertex_cut:
            partial = gather_sum(inputs, arrivals)
            token, arrived = to_master(partial, token, channel, route, k)
            own = [column[: block.num_outputs] for column in partial]
            merged = reduce.merge(own, arrived, shard.to_device(route.master_S))
            message = reduce.finish(merged)
        else:
            message = gather_sum.message(inputs, arrivals)
        view.view.token = token

        with stages.timed("forward", Stage("apply", k)), self._watched():
            out = self.apply_node(outputs, message)
        self._seen_modes.add(self.training)
        return out

    def explain(self) -> Explanation:
        """Return what became of `gather` when the layer ran last: hoisted, folded, fused, saved.

        Raises:
            ConfigError: If the layer has not run yet.
        """
        if self._last is None:
            raise ConfigError(
                f"{type(self).__name__}.explain: it has not run yet. Call it on a view first."
            )
        return explained(type(self).__name__, self.aggregator, self.self_loops, *self._last)

    def _program(
        self, expression: Expression, inputs: EdgeInputs, *, warn: bool
    ) -> Program | NotLowered:
        """Return the kernels of a traced gather, or why there are none, which is said once."""
        key = (expression, self.storage)
        if key not in self._programs:
            program = program_of(
                expression,
                inputs,
                self.aggregator,
                self_loops=self.self_loops,
                training=self.training,
            )
            if isinstance(program, NotLowered) and warn:
                _log.warning("%s runs chunked: %s.", type(self).__name__, program)
            self._programs[key] = program
        return self._programs[key]

    def _watched(self) -> AbstractContextManager[Any]:
        # Every torch call costs microseconds more under the watch, so only the first pass has it.
        return nullcontext() if self.training in self._seen_modes else WorkerIndependent()

    def _transform(self, view: LayerView, h: Any) -> dict[str, Tensor]:
        if not self.node_columns:
            return self.transform(h)
        node = {n: view.node_column(n, self_loops=self.self_loops) for n in self.node_columns}
        return self.transform(h, node)

    def _expression(self, view: LayerView, fields: Any) -> Expression:
        """Return the traced gather for these field types; tracing happens once for each."""
        rows = view.block.num_inputs
        if not isinstance(fields, dict) or not all(
            isinstance(f, Tensor) and f.dim() and f.shape[0] == rows for f in fields.values()
        ):
            raise ConfigError(
                f"{type(self).__name__}.transform: expected a dict of tensors with one row a node "
                f"({rows} here), got {_described(fields)}."
            )
        key = (
            self.training,
            tuple((n, f.dtype, f.shape[1:], f.device) for n, f in fields.items()),
            tuple((n, c.dtype, c.shape[1:]) for n, c in view.edge_columns.whole.items()),
        )
        if key not in self._expressions:
            scored = aggregator(self.aggregator).scored
            self._expressions[key] = trace(
                self, self.gather, fields, view.edge_columns.whole, scored=scored
            )
        return self._expressions[key]


def _described(fields: Any) -> str:
    if not isinstance(fields, dict):
        return type(fields).__name__
    return str(
        {
            n: tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
            for n, f in fields.items()
        }
    )


def count_layers(model: nn.Module) -> int:
    """Return how many graph layers a model runs: its `num_layers`, or the layers that it holds."""
    given = getattr(model, "num_layers", None)
    return int(given) if given else sum(isinstance(m, TGARLayer) for m in model.modules())

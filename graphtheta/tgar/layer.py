"""Base class of graph layers, which are written as plain torch on one node and one edge.

    class MeanConv(TGARLayer):
        aggregator = "mean"                           # Sum

        def transform(self, h):                       # NN-Transform, per node
            return {"z": self.lin(h)}

        def gather(self, src, dst, edge):             # NN-Gather, per edge
            return src["z"]

        def apply_node(self, n, m):                   # NN-Apply, per node
            return relu(n["z"] + m)

Reduce, the fifth stage, sums the gradients of parameters over the workers, for any layer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphtheta.comm.timers import Stage
from graphtheta.errors import ConfigError
from graphtheta.exchange.autograd import start_sync
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.shard.sparse_rows import SparseRows, densified
from graphtheta.tgar.aggregators import Aggregator, aggregator
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.view import LayerView
from graphtheta.tgar.chunked import EdgeInputs, GatherSum
from graphtheta.tgar.compiler import (
    FusedGatherSum,
    NotLowered,
    Program,
    RelationGatherSum,
    RelationProgram,
    program_of,
)
from graphtheta.tgar.explain import Explanation, explained
from graphtheta.tgar.expression import Expression
from graphtheta.tgar.mixed_precision import float_rows, without_autocast
from graphtheta.tgar.trace import trace
from graphtheta.tgar.view_module import ViewModule
from graphtheta.tgar.worker_independent import WorkerIndependent
from graphtheta.wording import counted

__all__ = ["ROWS_OF_A_LAYER", "TGARLayer", "count_layers", "require_rows"]

ROWS_OF_A_LAYER = (
    "In a batch a layer returns the rows of its outputs only: add or concatenate view[k].carry(h), "
    "which are the rows of h that layer k returns."
)

_log = logging.getLogger("graphtheta")


def require_rows(view: LayerView, layer: str, h: Any) -> None:
    """Raise a ConfigError if a tensor has another number of rows than a layer has inputs."""
    inputs = view.block.num_inputs
    if isinstance(h, Tensor | SparseRows) and h.dim() and len(h) != inputs:
        raise ConfigError(
            f"{layer}: expected a row of h for each of the {inputs} inputs of view[{view.layer}], "
            f"got {counted(len(h), 'row')}. {ROWS_OF_A_LAYER}"
        )


_Fields = dict[str, Tensor]


class TGARLayer(ViewModule):
    """Base class of graph layers.

    A subclass writes `gather`, and may write `transform` and `apply_node`. Calling the layer on a
    view runs the stages for all active nodes and edges, on all workers.

    Attributes:
        aggregator: The Sum stage: a key of `AGGREGATORS`, or an `Aggregator`.
        self_loops: Whether every node also sends a message to itself. The graph's own self-loops
            are then left out, so that each node has exactly one. Its edge columns are the mean over
            the node's in-edges.
        node_columns: Names of numeric node columns that `transform` gets as a second argument.
            `in_degree` counts in-edges in the whole graph, with the layer's self-loops;
            `in_weight` sums their column `weight`; `in_degree_by_type` counts those of each type.
            In a renormalised view all are over the edges of the batch.
        own_loop_columns: Whether an edge column of the layer's own self-loop is that of the node's
            self-loop in the graph, or 1 if it has none, instead of the mean over its in-edges.
        loop_values: Values of edge columns of the layer's own self-loops, by name, in place of the
            mean.
        divides_by_degrees: Whether messages are divided by the in-degrees of sources too, which
            nodes of a type in which the relation does not end do not have.
        cast_edge_columns: Names of floating-point edge columns that `gather` gets in the dtype of
            the fields: kernels need inputs of one dtype.
        storage: Dtype in which float32 source fields are sent to mirrors and gathered. If None,
            they keep theirs. bfloat16 halves the bytes moved; sums stay float32.
        has_own_term: Whether the message that `apply_node` gets includes the product by
            `own_matrix`; each call sets it.

    Communication:
        Forward, the fields that `gather` reads, once per mirror that needs them, and in a
        vertex-cut one partial per mirror with in-edges; backward the gradients of the same.
    """

    is_graph_layer = True
    aggregator: str | Aggregator = "sum"
    self_loops: bool = False
    node_columns: tuple[str, ...] = ()
    own_loop_columns: ClassVar[bool] = False
    loop_values: Mapping[str, float] = {}
    divides_by_degrees: bool = False
    cast_edge_columns: ClassVar[tuple[str, ...]] = ()
    storage: torch.dtype | None = None
    has_own_term: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._expressions: dict[Any, Expression] = {}
        self._programs: dict[Any, Program | RelationProgram | NotLowered] = {}
        self._last: tuple[Expression, Program | RelationProgram | NotLowered] | None = None
        self._checked_modes: set[bool] = set()

    def __getstate__(self) -> dict[str, Any]:
        # A copy traces again: an expression holds functions that cannot be copied or pickled.
        caches: dict[str, Any] = {"_expressions": {}, "_programs": {}, "_last": None}
        return {**self.__dict__, **caches, "_checked_modes": set()}

    # -- what a subclass writes -------------------------------------------------------------------

    def transform(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """NN-Transform: return the fields of each node. Written as `transform(self, h)`.

        Args:
            args: h, the output of the layer below, one row per node. If `node_columns` is not
                empty, a mapping of those columns follows: `transform(self, h, node)`.
            kwargs: Not passed; an override names the arguments it takes.
        """
        return {"h": args[0]}

    def gather(
        self, src: Mapping[str, Tensor], dst: Mapping[str, Tensor], edge: Mapping[str, Tensor]
    ) -> Any:
        """NN-Gather: return the message of one edge, or (score, message) for a scored aggregator.

        Written with torch functions on the last dimensions; the leading dimension is the edge. It
        is called once to be recorded, so that it must not branch on values.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a gather(src, dst, edge).")

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Any:
        """NN-Apply: return the new value of each node from its fields and aggregated message."""
        return m

    def own_matrix(self) -> Tensor | None:
        """Return an (F, O) matrix whose product with a node's row joins its message, or None.

        It multiplies the field that `gather` multiplies by the matrices of relations: an executor
        may compute both in one pass, and then sets `has_own_term`. Otherwise `apply_node` adds it.
        """
        return None

    # -- how it runs ------------------------------------------------------------------------------

    def forward(self, view: LayerView, h: Any) -> Any:
        """Run the stages on the active nodes of a view; collective.

        Args:
            view: `view[k]` for the k-th graph layer of a model.
            h: (I, F) rows of the inputs of `view.block`; (M, F) if every node is active.

        Raises:
            ConfigError: If h or what `transform` returns does not have one row per input.
            TraceError: If `gather` is not a function of one edge.
        """
        fields, output_fields = self._run_transform(view, h)
        own = self.own_matrix()
        with without_autocast(view.shard.device.type):
            message = self._run_gather_sum(view, fields, output_fields, own)
        return self._run_apply(view, output_fields, message)

    def _run_gather_sum(
        self, view: LayerView, fields: _Fields, output_fields: _Fields, own: Tensor | None
    ) -> Any:
        """Run NN-Gather and Sum; return the aggregated message of each output."""
        expression = self._trace(view, fields)
        inputs, syncs = self._start_sync(view, expression, fields, output_fields)
        gather_sum = self._gather_sum(view, expression, inputs)
        reduce = aggregator(self.aggregator)
        self.has_own_term = False
        if own is not None and isinstance(gather_sum, RelationGatherSum) and not reduce.counts:
            self.has_own_term = gather_sum.runs_one_by_one(inputs)
            gather_sum = replace(gather_sum, own=own if self.has_own_term else None)
        if view.shard.is_vertex_cut:
            message = reduce.finish(view.merge(gather_sum(inputs, syncs), reduce))
        else:
            message = gather_sum.message(inputs, syncs)
        if reduce.is_wide:
            message = message.to(torch.promote_types(_dtype_of(fields), torch.float32))
        return message

    def explain(self) -> Explanation:
        """Return how the last call of the layer ran `gather`: what is hoisted, fused and saved.

        Raises:
            ConfigError: If the layer has not run yet.
        """
        if self._last is None:
            raise ConfigError(
                f"{type(self).__name__}.explain: it has not run yet. Call it on a view first."
            )
        name = str(self.aggregator)
        return explained(type(self).__name__, name, self.self_loops, *self._last)

    @property
    def edge_columns_read(self) -> frozenset[str] | None:
        """Names of the edge columns that the last call read; None if the layer has not run yet."""
        if self._last is None:
            return None
        counted = {"in_weight": "weight", "in_degree_by_type": "type"}
        of_nodes = {counted[name] for name in self.node_columns if name in counted}
        return frozenset(of_nodes.union(name for _, name in self._last[0].edge_columns))

    def _run_transform(self, view: LayerView, h: Any) -> tuple[_Fields, _Fields]:
        """Run NN-Transform; return the fields of the inputs, and those of the outputs."""
        block = view.block
        require_rows(view, type(self).__name__, h)
        with view.channel.stages.timed("forward", Stage("transform", view.layer)), self._checked():
            node = {n: view.node_column(n, self_loops=self.self_loops) for n in self.node_columns}
            fields = self.transform(h, node) if node else self.transform(h)
            rows = block.num_inputs
            if not isinstance(fields, dict) or not all(
                isinstance(f, Tensor | SparseRows) and f.dim() and f.shape[0] == rows
                for f in fields.values()
            ):
                raise ConfigError(
                    f"{type(self).__name__}.transform: expected a dict of tensors with one row per "
                    f"node ({rows} here), got {_described(fields)}."
                )
            fields = {name: float_rows(field) for name, field in fields.items()}
            if block.num_outputs == rows:
                return fields, fields
            return fields, {name: field[: block.num_outputs] for name, field in fields.items()}

    def _trace(self, view: LayerView, fields: _Fields) -> Expression:
        """Return the traced gather; tracing happens once for each mode and set of field types."""
        columns = {
            name: column[:0].to(_dtype_of(fields)) if name in self.cast_edge_columns else column
            for name, column in view.edge_columns.whole.items()
        }
        key = (
            self.training,
            self.node_columns,
            tuple((n, f.dtype, f.shape[1:], f.device) for n, f in fields.items()),
            tuple((n, c.dtype, c.shape[1:]) for n, c in columns.items()),
        )
        if key not in self._expressions:
            scored = aggregator(self.aggregator).scored
            self._expressions[key] = trace(self, self.gather, fields, columns, scored=scored)
        return self._expressions[key]

    def _edge_column(self, view: LayerView, name: str, dtype: torch.dtype) -> Tensor:
        column = view.edge_columns[name]
        if name not in self.cast_edge_columns or column.dtype == dtype:
            return column
        if column is view.shard.edge_columns.get(name):
            return view.shard.cast_edge_column(name, dtype)  # once for all steps
        return column.to(dtype)

    def _loop_column(self, view: LayerView, name: str, column: Tensor) -> Tensor:
        if name in self.loop_values:
            size = view.block.num_outputs, *column.shape[1:]
            return column.new_full(size, self.loop_values[name])
        return view.loop_column(name, own=self.own_loop_columns).to(column.dtype)

    def _start_sync(
        self, view: LayerView, expression: Expression, fields: _Fields, output_fields: _Fields
    ) -> tuple[EdgeInputs, list[MirrorSync]]:
        """Compute what gather reads of nodes, and start to send it to the mirrors."""
        block, channel, k = view.block, view.channel, view.layer
        with channel.stages.timed("forward", Stage("transform", k)):
            # Edges read dense rows, of what is sparse and not multiplied by a matrix first.
            sources = [*map(densified, expression.in_node_space(expression.sources, self, fields))]
            destinations = [
                *map(
                    densified,
                    expression.in_node_space(expression.destinations, self, output_fields),
                )
            ]
            parameters = expression.in_node_space(expression.parameters, self, {})
            if self.storage is not None:
                sources = [x.to(self.storage) if x.dtype == torch.float32 else x for x in sources]
        names = [name for _, name in expression.edge_columns]
        columns = [self._edge_column(view, name, _dtype_of(fields)) for name in names]
        _, first_copy = self._without_copies(block)
        if first_copy is not None:
            columns = [column.index_select(0, first_copy) for column in columns]
        loop_columns = (
            [self._loop_column(view, *both) for both in zip(names, columns, strict=True)]
            if self.self_loops
            else []
        )
        token, sources, source_mirrors, syncs = start_sync(
            sources, view.view.token, channel, block.sources, k
        )
        destination_mirrors: list[Tensor] = []
        if view.shard.is_vertex_cut:
            token, destinations, destination_mirrors, others = start_sync(
                destinations, token, channel, block.destinations, k
            )
            syncs += others
        view.view.token = token
        inputs = EdgeInputs(
            sources,
            destinations,
            parameters,
            columns,
            loop_columns,
            source_mirrors,
            destination_mirrors,
        )
        return inputs, syncs

    def _gather_sum(
        self, view: LayerView, expression: Expression, inputs: EdgeInputs
    ) -> GatherSum | FusedGatherSum | RelationGatherSum:
        """Return the executor of Gather and Sum: fused kernels if there are some, else chunked."""
        program = self._program(expression, inputs, warn=view.shard.comm.rank == 0)
        self._last = (expression, program)
        reduce, stages = aggregator(self.aggregator), view.channel.stages
        block, _ = self._without_copies(view.block)
        keeps = 1 + max((spec.call for _, spec in expression.keeps), default=-1)
        draws = view.edge_draws(keeps) if self.training else None
        if isinstance(program, Program):
            return FusedGatherSum(program, reduce, block, view.layer, draws, stages)
        if isinstance(program, RelationProgram):
            return RelationGatherSum(program, reduce, block, view.layer, draws, stages)
        topology = block.loopless_topology if self.self_loops else block.topology
        node_key, loop_rows = block.node_key, block.num_outputs if self.self_loops else 0
        return GatherSum(
            expression, reduce, topology, node_key, loop_rows, view.layer, draws, stages
        )

    def _run_apply(self, view: LayerView, fields: _Fields, message: Tensor) -> Any:
        """Run NN-Apply on the outputs."""
        with view.channel.stages.timed("forward", Stage("apply", view.layer)), self._checked():
            out = self.apply_node(fields, message)
            if out is None:
                raise ConfigError(
                    f"{type(self).__name__}.apply_node: expected the new value of each node, got "
                    "None. Return it."
                )
            if isinstance(out, Tensor) and aggregator(self.aggregator).scored:
                # Backward reads the message of a softmax, and activations work in place.
                kept = message.untyped_storage().data_ptr()
                out = out.clone() if out.untyped_storage().data_ptr() == kept else out
        self._checked_modes.add(self.training)
        return float_rows(out)

    def _checked(self) -> AbstractContextManager[Any]:
        # The check costs microseconds per torch call, so that only the first pass has it.
        return nullcontext() if self.training in self._checked_modes else WorkerIndependent()

    def _without_copies(self, block: Block) -> tuple[Block, Tensor | None]:
        """Return the block that gather runs on, and which of the edges it has (None for all).

        Where one message wins, a copy of its edge must not get the gradient again.
        """
        reduce = aggregator(self.aggregator)
        if block.distinct is None or not (reduce.picks or not reduce.takes_copies):
            return block, None
        if not reduce.takes_copies:
            raise ConfigError(
                f"{type(self).__name__}: expected edges sampled without replacement for the "
                f"aggregator {reduce}, got some with. Leave replace (--replace) out."
            )
        return block.distinct

    def _program(
        self, expression: Expression, inputs: EdgeInputs, *, warn: bool
    ) -> Program | RelationProgram | NotLowered:
        """Return the kernels of a traced gather, or the reason why it has none."""
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
                _warn_chunked(type(self), str(program))
            self._programs[key] = program
        return self._programs[key]


_warned: set[tuple[type[TGARLayer], str]] = set()


def _warn_chunked(layer: type[TGARLayer], reason: str) -> None:
    """Warn that a layer runs chunked, once per process for each layer class and reason."""
    if (layer, reason) not in _warned:
        _warned.add((layer, reason))
        _log.warning("%s runs chunked: %s.", layer.__name__, reason)


def _dtype_of(fields: _Fields) -> torch.dtype:
    floats = (f.dtype for f in fields.values() if f.is_floating_point())
    return next(floats, torch.get_default_dtype())


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
    """Return the number of graph layers of a model: its `num_layers`, or the layers in it.

    A layer that a list holds several times counts as often; another layer that is used at several
    depths counts once, so that its model needs the attribute `num_layers`.
    """
    given = getattr(model, "num_layers", None)
    return int(given) if given else _count_layers(model, set())


def _count_layers(module: nn.Module, counted: set[nn.Module]) -> int:
    if module in counted:
        return 0
    counted.add(module)
    if getattr(module, "is_graph_layer", False):
        return 1
    if isinstance(module, nn.ModuleList | nn.Sequential):
        uses = Counter(module)
        return sum(number * _count_layers(child, counted) for child, number in uses.items())
    return sum(_count_layers(child, counted) for child in module.children())

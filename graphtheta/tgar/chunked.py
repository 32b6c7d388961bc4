"""The chunked executor: Gather and Sum over a bounded number of edges at a time.

It runs any torch code in `gather`, on any device, and is the reference for every other executor.
Forward keeps the partial of each row and nothing an edge; backward evaluates each block of edges
again with autograd on, hands it the cotangents of its rows, and adds what comes out to the node
gradients. Bytes moved per edge, forward: the source fields read, once as a block and once added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.rng.philox import Purpose, keep_mask, stream_id
from graphtheta.shard.topology import Topology
from graphtheta.tgar.aggregators import Aggregator
from graphtheta.tgar.expression import Expression, Keep

__all__ = ["CHUNK_EDGES", "EdgeInputs", "GatherSum", "grouped"]

CHUNK_EDGES = 1 << 16

_T = TypeVar("_T")


@dataclass(frozen=True)
class EdgeInputs:
    """Tensors that enter Gather on edges, grouped as `Expression` names them.

    Attributes:
        sources: (I, ...) each, indexed by source: those of masters.
        destinations: (O, ...) each, indexed by destination row: those of masters.
        parameters: Of any shape, the same for every edge.
        columns: (E, ...) each, in CSC order.
        loop_columns: (M, ...) each: the same columns of the layer's own self-loops; empty where
            the layer has none.
        source_mirrors: (H, ...) each: `sources` goes on here; empty where there are no mirrors.
        destination_mirrors: The same of `destinations`.
    """

    sources: Sequence[Tensor]
    destinations: Sequence[Tensor]
    parameters: Sequence[Tensor]
    columns: Sequence[Tensor]
    loop_columns: Sequence[Tensor]
    source_mirrors: Sequence[Tensor] = ()
    destination_mirrors: Sequence[Tensor] = ()

    def joined(self) -> EdgeInputs:
        """Return the same with the mirrors' rows behind the masters', in one tensor."""
        return replace(
            self,
            sources=_joined(self.sources, self.source_mirrors),
            destinations=_joined(self.destinations, self.destination_mirrors),
            source_mirrors=(),
            destination_mirrors=(),
        )

    def flat(self) -> list[Tensor]:
        """Return all tensors, group after group."""
        return [tensor for group in self._groups() for tensor in group]

    def sizes(self) -> list[int]:
        """Return how many tensors each group has."""
        return [len(group) for group in self._groups()]

    def _groups(self) -> tuple[Sequence[Tensor], ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def grouped(values: Sequence[_T], sizes: Sequence[int]) -> list[list[_T]]:
    """Undo `EdgeInputs.flat`."""
    rest = iter(values)
    return [[next(rest) for _ in range(size)] for size in sizes]


@dataclass(frozen=True)
class _Block:
    """Some edges whose destination rows are [first, last).

    Attributes:
        row_e: (e,) int64 destination row, counted from `first`.
        src_e: (e,) int64 local id of the source.
        edge_e: Where the edges stand among all E, or the loop rows.
        key_e: (e,) int64 edge keys; -1 - node_key for the layer's own self-loops.
        is_loop: Whether these are the layer's own self-loops.
    """

    first: int
    last: int
    row_e: Tensor
    src_e: Tensor
    edge_e: slice | Tensor
    key_e: Tensor
    is_loop: bool


@dataclass(frozen=True)
class GatherSum:
    """One layer's Gather and Sum on one worker.

    Attributes:
        expression: The traced gather.
        aggregator: How messages of a row become one partial.
        topology: In-edges by destination row.
        node_key: (I,) int64 of the masters, for the keys of self-loops.
        loop_rows: Rows that get a self-loop of the layer's own: M, or 0.
        layer: Index of the layer, for draws and timers.
        step_key: Philox key of the step, or None when not training (masks are ones).
        stages: Timers.
        chunk_edges: Most edges of a block.
    """

    expression: Expression
    aggregator: Aggregator
    topology: Topology
    node_key: NDArray[np.int64]
    loop_rows: int
    layer: int
    step_key: NDArray[np.uint32] | None
    stages: StageTimers
    chunk_edges: int = CHUNK_EDGES

    @property
    def device(self) -> torch.device:
        """Where the edges are, and all that is computed on them."""
        return self.topology.src.device

    def __call__(self, inputs: EdgeInputs, arrivals: Sequence[MirrorSync] = ()) -> list[Tensor]:
        """Return the partial columns of every row, differentiable in all inputs.

        Args:
            inputs: What the gather reads.
            arrivals: Mirror rows of the inputs on their way.
        """
        for arrival in arrivals:
            arrival.finish()
        inputs = inputs.joined()
        return list(_Function.apply(self, inputs, *inputs.flat()))  # type: ignore[no-untyped-call]

    def message(self, inputs: EdgeInputs, arrivals: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the aggregated message of every row: `__call__`, finished."""
        return self.aggregator.finish(self(inputs, arrivals))

    def blocks(self) -> Iterator[_Block]:
        """Cut the edges into blocks of rows; a row of more than `chunk_edges` is split."""
        indptr = self.topology.indptr
        num_rows, row = len(indptr) - 1, 0
        while row < num_rows:
            start = int(indptr[row])
            fits = int(np.searchsorted(indptr, start + self.chunk_edges, side="right")) - 1
            last = min(max(fits, row + 1), row + self.chunk_edges, num_rows)
            stop = int(indptr[last])
            for at in range(start, stop, self.chunk_edges):
                end = min(at + self.chunk_edges, stop)
                degrees = np.diff(indptr[row : last + 1].clip(at, end))
                row_e = torch.from_numpy(np.repeat(np.arange(last - row), degrees))
                yield self._edges(row, last, row_e.to(self.device), at, end)
            row = last
        for first in range(0, self.loop_rows, self.chunk_edges):
            last = min(first + self.chunk_edges, self.loop_rows)
            keys = torch.from_numpy(-1 - self.node_key[first:last]).to(self.device)
            rows = torch.arange(last - first, device=self.device)
            yield _Block(first, last, rows, rows + first, slice(first, last), keys, True)

    def _edges(self, first: int, last: int, row_e: Tensor, start: int, stop: int) -> _Block:
        topology, edges = self.topology, slice(start, stop)
        src_e = topology.src[edges].long()
        if topology.position is None:
            return _Block(first, last, row_e, src_e, edges, topology.edge_key[edges], False)
        position = topology.position[edges]
        return _Block(first, last, row_e, src_e, position, topology.edge_key[position], False)

    def empty_block(self) -> _Block:
        """Return a block without edges: for the types and shapes of what gather returns."""
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        return _Block(0, 0, none, none, slice(0, 0), none, False)

    def select(self, block: _Block, inputs: EdgeInputs) -> EdgeInputs:
        """Return the rows of the inputs that a block reads."""
        columns = inputs.loop_columns if block.is_loop else inputs.columns
        edges = block.edge_e
        return EdgeInputs(
            [_computed(x.index_select(0, block.src_e)) for x in inputs.sources],
            [x[block.first : block.last].index_select(0, block.row_e) for x in inputs.destinations],
            inputs.parameters,
            [c[edges] if isinstance(edges, slice) else c.index_select(0, edges) for c in columns],
            [],
        )

    def evaluate(self, block: _Block, rows: EdgeInputs, like: Tensor | None) -> Sequence[Tensor]:
        """Return what gather returns for a block, given the rows it reads."""
        expression = self.expression
        given: dict[int, Tensor] = {}
        for indices, values in (
            (expression.sources, rows.sources),
            (expression.destinations, rows.destinations),
            (expression.parameters, rows.parameters),
            ([i for i, _ in expression.edge_columns], rows.columns),
        ):
            given.update(zip(indices, values, strict=True))
        for i, spec in expression.keeps:
            given[i] = self._mask(block, spec, like)
        return expression.on_edges(given)

    def _mask(self, block: _Block, spec: Keep, like: Tensor | None) -> Tensor:
        width = 1 if spec.heads is None else spec.heads
        shape = (len(block.key_e),) if spec.heads is None else (len(block.key_e), width)
        options: dict[str, Any] = {"device": self.device}
        if like is not None:
            options["dtype"] = like.dtype
        if self.step_key is None or spec.p == 0:
            return torch.ones((), **options).expand(shape)
        stream = stream_id(Purpose.EDGE_DROPOUT, self.layer, spec.call)
        kept = keep_mask(block.key_e.cpu().numpy(), width, spec.p, self.step_key, stream)
        return torch.from_numpy(kept).reshape(shape).to(**options) / (1 - spec.p)


def _joined(masters: Sequence[Tensor], mirrors: Sequence[Tensor]) -> Sequence[Tensor]:
    if not any(len(x_H) for x_H in mirrors):
        return masters
    return [torch.cat(pair) for pair in zip(masters, mirrors, strict=True)]


def _computed(x: Tensor) -> Tensor:
    """Return what is computed with: bfloat16 only stores."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _float_like(inputs: EdgeInputs) -> Tensor | None:
    floats = [t for t in inputs.flat() if t.is_floating_point()]
    if floats and all(t.dtype == torch.bfloat16 for t in floats):
        return floats[0].new_empty(0, dtype=torch.float32)
    return next((t for t in floats if t.dtype != torch.bfloat16), None)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: GatherSum, inputs: EdgeInputs, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.job, ctx.sizes = job, inputs.sizes()
        with job.stages.timed("forward", Stage("gather_sum", job.layer)):
            columns = _forward(job, inputs)
        constants = columns[job.aggregator.num_differentiable :]
        ctx.mark_non_differentiable(*constants)
        ctx.save_for_backward(*tensors, *constants)
        return tuple(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        job, sizes, needs = ctx.job, ctx.sizes, ctx.needs_input_grad[2:]
        tensors, constants = ctx.saved_tensors[: len(needs)], ctx.saved_tensors[len(needs) :]
        totals = [
            torch.zeros_like(t, dtype=torch.float32 if t.dtype == torch.bfloat16 else None)
            if need
            else None
            for t, need in zip(tensors, needs, strict=True)
        ]
        with job.stages.timed("backward", Stage("gather_sum", job.layer)):
            inputs = EdgeInputs(*grouped(tensors, sizes))
            like = _float_like(inputs)
            for block in job.blocks():
                _backward_of(job, block, inputs, grouped(totals, sizes), grads, constants, like)
        return None, None, *totals


def _forward(job: GatherSum, inputs: EdgeInputs) -> list[Tensor]:
    like = _float_like(inputs)
    empty = job.empty_block()
    outputs = job.evaluate(empty, job.select(empty, inputs), like)
    columns = job.aggregator.start(len(job.topology.indptr) - 1, outputs)
    for block in job.blocks():
        outputs = job.evaluate(block, job.select(block, inputs), like)
        rows = [c[block.first : block.last] for c in columns]
        job.aggregator.add(rows, block.row_e, outputs, block.key_e)
    return columns


def _backward_of(
    job: GatherSum,
    block: _Block,
    inputs: EdgeInputs,
    totals: Sequence[Sequence[Tensor | None]],
    grads: Sequence[Tensor],
    constants: Sequence[Tensor],
    like: Tensor | None,
) -> None:
    """Differentiate one block of edges and add to the gradients of the inputs, in place."""
    rows, row_e = slice(block.first, block.last), block.row_e
    sources, destinations, parameters, columns, loop_columns, *_ = totals
    sinks = [
        *((total, block.src_e) for total in sources),
        *((None if total is None else total[rows], row_e) for total in destinations),
        *((total, None) for total in parameters),
        *((total, block.edge_e) for total in (loop_columns if block.is_loop else columns)),
    ]
    selected = job.select(block, inputs)
    leaves = [t.detach() for t in selected.flat()]
    for leaf, (total, _) in zip(leaves, sinks, strict=True):
        leaf.requires_grad_(total is not None)
    with torch.enable_grad():
        outputs = job.evaluate(block, EdgeInputs(*grouped(leaves, selected.sizes())), like)
        terms = job.aggregator.terms([c[rows] for c in constants], row_e, outputs, block.key_e)
    pairs = [
        (term, grad[rows].index_select(0, row_e))
        for term, grad in zip(terms, grads[: len(terms)], strict=True)
        if term.requires_grad
    ]
    wanted = [(leaf, sink) for leaf, sink in zip(leaves, sinks, strict=True) if leaf.requires_grad]
    if not pairs or not wanted:
        return
    found = torch.autograd.grad(
        [term for term, _ in pairs],
        [leaf for leaf, _ in wanted],
        [grad for _, grad in pairs],
        allow_unused=True,
    )
    for grad, (_, (total, index)) in zip(found, wanted, strict=True):
        if grad is None or total is None:
            continue
        if index is None:
            total.add_(grad)
        elif isinstance(index, slice):
            total[index].add_(grad)
        else:
            total.index_add_(0, index, grad)

"""The chunked executor: Gather and Sum over a bounded number of edges at a time.

It runs any torch code in `gather`, on any device, and is the reference for every other executor.
Forward keeps the partial of each row and nothing per edge. Backward evaluates each chunk of edges
again with autograd, from the gradients of its rows, and adds the result to the gradients of nodes
and parameters. Bytes moved per edge, forward: the source fields, once selected and once added.
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
from graphtheta.rng.philox import keep_mask
from graphtheta.shard.topology import Topology
from graphtheta.tgar.aggregators import Aggregator
from graphtheta.tgar.expression import Expression, Keep

__all__ = ["CHUNK_EDGES", "EdgeInputs", "GatherSum", "grouped"]

CHUNK_EDGES = 1 << 16

_T = TypeVar("_T")


@dataclass(frozen=True)
class EdgeInputs:
    """Input tensors of Gather on edges, in the groups of `Expression`.

    Attributes:
        sources: (I, ...) each: source fields of masters.
        destinations: (O, ...) each: destination fields of masters.
        parameters: Any shape; the same for every edge.
        columns: (E, ...) each: edge columns in CSC order.
        loop_columns: (M, ...) each: the same columns of the layer's own self-loops, or empty if
            the layer has none.
        source_mirrors: (H, ...) each: source fields of mirrors, or empty if there are none.
        destination_mirrors: Destination fields of mirrors, or empty if there are none.
    """

    sources: Sequence[Tensor]
    destinations: Sequence[Tensor]
    parameters: Sequence[Tensor]
    columns: Sequence[Tensor]
    loop_columns: Sequence[Tensor]
    source_mirrors: Sequence[Tensor] = ()
    destination_mirrors: Sequence[Tensor] = ()

    def joined(self) -> EdgeInputs:
        """Return the same inputs with the rows of masters and mirrors in one tensor."""
        return replace(
            self,
            sources=_joined(self.sources, self.source_mirrors),
            destinations=_joined(self.destinations, self.destination_mirrors),
            source_mirrors=(),
            destination_mirrors=(),
        )

    def flat(self) -> list[Tensor]:
        """Return all tensors as one list, group by group."""
        return [tensor for group in self._groups() for tensor in group]

    def sizes(self) -> list[int]:
        """Return the number of tensors in each group."""
        return [len(group) for group in self._groups()]

    def _groups(self) -> tuple[Sequence[Tensor], ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def grouped(values: Sequence[_T], sizes: Sequence[int]) -> list[list[_T]]:
    """Split a flat list into groups of the given sizes: the inverse of `EdgeInputs.flat`."""
    rest = iter(values)
    return [[next(rest) for _ in range(size)] for size in sizes]


@dataclass(frozen=True)
class _Chunk:
    """Edges that are processed together; their destination rows are [first, last).

    Attributes:
        row_e: (e,) int64 destination row, relative to `first`.
        src_e: (e,) int64 local id of the source.
        edge_e: Positions of the edges among all E, or the rows of self-loops.
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
    """Gather and Sum of one layer on one worker, in chunks of edges.

    Attributes:
        expression: The traced gather.
        aggregator: The Sum stage.
        topology: In-edges by destination row.
        node_key: (I,) int64 keys of the masters, from which keys of self-loops are made.
        loop_rows: Number of rows with a self-loop of the layer's own: M, or 0.
        layer: Index of the layer, for timers.
        draws: Result of `LayerView.edge_draws`. If None, masks are ones: the layer is not training.
        stages: Timers.
        chunk_edges: Largest number of edges in a chunk.
    """

    expression: Expression
    aggregator: Aggregator
    topology: Topology
    node_key: NDArray[np.int64]
    loop_rows: int
    layer: int
    draws: NDArray[np.uint32] | None
    stages: StageTimers
    chunk_edges: int = CHUNK_EDGES

    @property
    def device(self) -> torch.device:
        """Device of the edges and of all intermediate tensors."""
        return self.topology.src.device

    def __call__(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> list[Tensor]:
        """Return the partial columns of every row, differentiable in all inputs.

        Args:
            inputs: Input tensors of gather.
            syncs: Syncs in flight that write the mirrors of the inputs.
        """
        for sync in syncs:
            sync.finish()
        inputs = inputs.joined()
        return list(_Function.apply(self, inputs, *inputs.flat()))  # type: ignore[no-untyped-call]

    def message(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the aggregated message of every row, from the same arguments."""
        return self.aggregator.finish(self(inputs, syncs))

    def chunks(self) -> Iterator[_Chunk]:
        """Yield the edges in chunks of whole rows; a row of more than `chunk_edges` is split."""
        indptr = self.topology.indptr
        num_rows, row = len(indptr) - 1, 0
        while row < num_rows:
            start = int(indptr[row])
            fits = int(np.searchsorted(indptr, start + self.chunk_edges, side="right")) - 1
            last = min(max(fits, row + 1), row + self.chunk_edges, num_rows)
            stop = int(indptr[last])
            for first in range(start, stop, self.chunk_edges):
                end = min(first + self.chunk_edges, stop)
                degrees = np.diff(indptr[row : last + 1].clip(first, end))
                row_e = torch.from_numpy(np.repeat(np.arange(last - row), degrees))
                yield self._edges(row, last, row_e.to(self.device), first, end)
            row = last
        for first in range(0, self.loop_rows, self.chunk_edges):
            last = min(first + self.chunk_edges, self.loop_rows)
            keys = torch.from_numpy(-1 - self.node_key[first:last]).to(self.device)
            rows = torch.arange(last - first, device=self.device)
            yield _Chunk(first, last, rows, rows + first, slice(first, last), keys, True)

    def _edges(self, first: int, last: int, row_e: Tensor, start: int, stop: int) -> _Chunk:
        topology, edges = self.topology, slice(start, stop)
        src_e = topology.src[edges].long()
        position = edges if topology.position is None else topology.position[edges]
        return _Chunk(first, last, row_e, src_e, position, topology.edge_key[position], False)

    def empty_chunk(self) -> _Chunk:
        """Return a chunk without edges, to evaluate dtypes and shapes of the outputs of gather."""
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        return _Chunk(0, 0, none, none, slice(0, 0), none, False)

    def select(self, chunk: _Chunk, inputs: EdgeInputs) -> EdgeInputs:
        """Return the rows of the inputs that a chunk reads, one row per edge."""
        columns = inputs.loop_columns if chunk.is_loop else inputs.columns
        edges = chunk.edge_e
        return EdgeInputs(
            [_widened(x.index_select(0, chunk.src_e)) for x in inputs.sources],
            [x[chunk.first : chunk.last].index_select(0, chunk.row_e) for x in inputs.destinations],
            inputs.parameters,
            [c[edges] if isinstance(edges, slice) else c.index_select(0, edges) for c in columns],
            [],
        )

    def evaluate(self, chunk: _Chunk, rows: EdgeInputs, like: Tensor | None) -> Sequence[Tensor]:
        """Return the outputs of gather for a chunk.

        Args:
            chunk: The edges.
            rows: The rows that `select` returned.
            like: Tensor of the dtype of masks.
        """
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
            given[i] = self._mask(chunk, spec, like)
        return expression.on_edges(given)

    def _mask(self, chunk: _Chunk, spec: Keep, like: Tensor | None) -> Tensor:
        width = 1 if spec.heads is None else spec.heads
        shape = (len(chunk.key_e),) if spec.heads is None else (len(chunk.key_e), width)
        options: dict[str, Any] = {"device": self.device}
        if like is not None:
            options["dtype"] = like.dtype
        if self.draws is None or spec.p == 0:
            return torch.ones((), **options).expand(shape)
        step_key, stream = self.draws[:2], self.draws[2 + spec.call]
        kept = keep_mask(chunk.key_e.cpu().numpy(), width, spec.p, step_key, stream)
        return torch.from_numpy(kept).reshape(shape).to(**options) / (1 - spec.p)


def _joined(masters: Sequence[Tensor], mirrors: Sequence[Tensor]) -> Sequence[Tensor]:
    if not any(len(x_H) for x_H in mirrors):
        return masters
    return [torch.cat(pair) for pair in zip(masters, mirrors, strict=True)]


def _widened(x: Tensor) -> Tensor:
    """Return bfloat16 as float32: the former is a storage type only."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _float_like(inputs: EdgeInputs) -> Tensor | None:
    """Return a tensor of the floating-point dtype that gather computes in, or None."""
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
            for chunk in job.chunks():
                _backward(job, chunk, inputs, grouped(totals, sizes), grads, constants, like)
        return None, None, *totals


def _forward(job: GatherSum, inputs: EdgeInputs) -> list[Tensor]:
    like = _float_like(inputs)
    empty = job.empty_chunk()
    outputs = job.evaluate(empty, job.select(empty, inputs), like)
    columns = job.aggregator.start(len(job.topology.indptr) - 1, outputs)
    for chunk in job.chunks():
        outputs = job.evaluate(chunk, job.select(chunk, inputs), like)
        rows = [c[chunk.first : chunk.last] for c in columns]
        job.aggregator.add(rows, chunk.row_e, outputs, chunk.key_e)
    return columns


def _backward(
    job: GatherSum,
    chunk: _Chunk,
    inputs: EdgeInputs,
    totals: Sequence[Sequence[Tensor | None]],
    grads: Sequence[Tensor],
    constants: Sequence[Tensor],
    like: Tensor | None,
) -> None:
    """Differentiate one chunk of edges, and add to the gradients of the inputs in place.

    Args:
        job: The layer's Gather and Sum.
        chunk: The edges.
        inputs: Input tensors of gather.
        totals: Gradients of the inputs, by group; None where none is needed.
        grads: Gradients of the partial's columns.
        constants: The columns of the partial that are not differentiable.
        like: Tensor of the dtype of masks.
    """
    rows, row_e = slice(chunk.first, chunk.last), chunk.row_e
    sources, destinations, parameters, columns, loop_columns, *_ = totals
    targets = [  # where the gradient of each selected tensor is added, and at which rows
        *((total, chunk.src_e) for total in sources),
        *((None if total is None else total[rows], row_e) for total in destinations),
        *((total, None) for total in parameters),
        *((total, chunk.edge_e) for total in (loop_columns if chunk.is_loop else columns)),
    ]
    selected = job.select(chunk, inputs)
    leaves = [t.detach() for t in selected.flat()]
    for leaf, (total, _) in zip(leaves, targets, strict=True):
        leaf.requires_grad_(total is not None)
    with torch.enable_grad():
        outputs = job.evaluate(chunk, EdgeInputs(*grouped(leaves, selected.sizes())), like)
        terms = job.aggregator.terms([c[rows] for c in constants], row_e, outputs, chunk.key_e)
    pairs = [
        (term, grad[rows].index_select(0, row_e))
        for term, grad in zip(terms, grads[: len(terms)], strict=True)
        if term.requires_grad
    ]
    needed = [(x, to) for x, to in zip(leaves, targets, strict=True) if x.requires_grad]
    if not pairs or not needed:
        return
    found = torch.autograd.grad(
        [term for term, _ in pairs],
        [leaf for leaf, _ in needed],
        [grad for _, grad in pairs],
        allow_unused=True,
    )
    for grad, (_, (total, index)) in zip(found, needed, strict=True):
        if grad is None or total is None:
            continue
        if index is None:
            total.add_(grad)
        elif isinstance(index, slice):
            total[index].add_(grad)
        else:
            total.index_add_(0, index, grad)

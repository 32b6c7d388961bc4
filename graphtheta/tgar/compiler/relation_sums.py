"""Sums of products by relation, one relation after the other, differentiable.

For each relation, what costs less: its matrix multiplies the rows of its sources, which its edges
then sum; or its edges sum rows of sources, and the matrix multiplies the sums of its destinations.
Backward reads only the input, and computes such sums again. So a tensor has no more rows than the
nodes, or than those of one relation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.runtime.tensor_pool import empty
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.relation_edges import RelationEdges
from graphtheta.tgar.compiler.pair_products import add_to_table, finish, joined_heads, multiply
from graphtheta.tgar.compiler.row_sums import sum_rows

__all__ = ["RelationSums"]

_CHUNK_ROWS = 1 << 13  # rows of nodes that are selected at a time


@dataclass(frozen=True)
class RelationSums:
    """Sum over the in-edges of each row of sources multiplied by the matrices of relations.

    Attributes:
        block: Block that the edges are of.
        edges: Edges of each relation.
        factors: For each relation, (D,) factors of the sums of its destinations. If None, all are
            1.
        layer: Index of the layer, for timers.
        stages: Timers.
    """

    block: Block
    edges: Sequence[RelationEdges]
    factors: Sequence[Tensor] | None
    layer: int
    stages: StageTimers

    def each(self) -> Iterator[tuple[RelationEdges, Tensor | None]]:
        """Yield each relation and its factors."""
        factors = [None] * len(self.edges) if self.factors is None else self.factors
        return zip(self.edges, factors, strict=True)

    def __call__(
        self,
        table: Tensor,
        own: Tensor | None,
        *rows: Tensor,
        syncs: Sequence[MirrorSync] = (),
    ) -> Tensor:
        """Return the sums of all rows of the block.

        Args:
            table: (relations, ..., A, O) matrices.
            own: (A of all heads, O of all heads) matrix that multiplies the row of each output;
                its product is added to the output's sum.
            rows: (M, ..., A) and (H, ..., A), the rows of masters, and of mirrors if there are any.
            syncs: Syncs in flight that write the latter.

        Shape:
            Returns (R, ... O): the columns of all heads in one dimension.
        """
        total: Tensor = _Sums.apply(self, syncs, joined_heads(table), own, *rows)  # type: ignore[no-untyped-call]
        return total


class _Buffers:
    """Work space for rows of the nodes of one relation."""

    def __init__(self, job: RelationSums, table: Tensor) -> None:
        self.wide, self.narrow = table[0, ..., 0].numel(), table[0, ..., 0, :].numel()
        most = max((len(edges.each.other) for edges in job.edges), default=0)
        size, dtype = most * max(self.wide, self.narrow), table.dtype
        self._whole = [empty((size,), dtype), empty((size,), dtype)]
        self._factors: Tensor | None = None
        self._chunk = table.new_empty((min(most, _CHUNK_ROWS), self.wide))

    def rows(self, number: int, count: int, width: int) -> Tensor:
        """Return the first or second buffer as so many rows."""
        return self._whole[number][: count * width].view(count, width)

    def of_rows(self, edges: RelationEdges, factors: Tensor | None, num_rows: int) -> Tensor | None:
        """Return the factors of destinations at their rows; rows of others may have any."""
        if factors is None:
            return None
        if self._factors is None:
            self._factors = factors.new_zeros(num_rows)
        self._factors.numpy()[edges.destinations] = factors.numpy()
        return self._factors

    def chunks(
        self, nodes: NDArray[np.int32], rows: Sequence[Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of nodes, as many as fit a cache; they are valid until the next."""
        for first in range(0, len(nodes), _CHUNK_ROWS):
            some = slice(first, min(first + _CHUNK_ROWS, len(nodes)))
            yield some, _select(nodes[some], rows, self._chunk[: some.stop - first])


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        job: RelationSums,
        syncs: Sequence[MirrorSync],
        table: Tensor,
        own: Tensor | None,
        *rows: Tensor,
    ) -> Tensor:
        ctx.job = job
        rows = rows[0].contiguous(), *rows[1:]
        ctx.save_for_backward(table, own, *rows)
        waiting, buffers = list(syncs), _Buffers(job, table)
        outputs = rows[0][: job.block.num_outputs].flatten(1)
        with job.stages.rest("forward", Stage("gather_sum", job.layer)):
            out = _products(outputs, own, (job.block.in_edges.num_rows, buffers.narrow))
            for edges, factors in job.each():
                if edges.waits:
                    finish(waiting)
                _add_sums(job, edges, factors, table[edges.relation], rows, buffers, out)
            finish(waiting)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        job, (table, own, *rows) = ctx.job, ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()
        grad, number = grad.contiguous(), job.block.num_outputs
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[2] else None
        buffers, grad_rows, grad_own = _Buffers(job, table), None, None
        with job.stages.timed("backward", Stage("gather_sum", job.layer)):
            if ctx.needs_input_grad[3]:
                grad_own = rows[0][:number].flatten(1).t() @ grad[:number]
            if any(ctx.needs_input_grad[4:]):
                turned = None if own is None else own.t()
                shape = sum(map(len, rows)), buffers.wide
                grad_rows = _products(grad[:number], turned, shape)
            for edges, factors in job.each():
                of_matrix = None if grad_table is None else grad_table[edges.relation]
                _add_gradients(
                    *(job, edges, factors, table[edges.relation], rows, buffers, grad),
                    *(of_matrix, grad_rows),
                )
        if grad_rows is None:
            return None, None, grad_table, grad_own, *(None for _ in rows)
        parts = torch.split(grad_rows, [len(x) for x in rows])
        of_rows = (part.view_as(x) for part, x in zip(parts, rows, strict=True))
        return None, None, grad_table, grad_own, *of_rows


def _products(x: Tensor, matrix: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Return the products of rows by a matrix, if there is one, and rows of zeros after them."""
    out = empty(shape, x.dtype)
    count = 0 if matrix is None else len(x)
    if matrix is not None:
        torch.mm(x, matrix, out=out[:count])
    out[count:].zero_()
    return out


def _add_sums(
    job: RelationSums,
    edges: RelationEdges,
    factors: Tensor | None,
    matrix: Tensor,
    rows: Sequence[Tensor],
    buffers: _Buffers,
    out: Tensor,
) -> None:
    """Add the sums of one relation."""
    count = len(edges.each.other)
    z = buffers.rows(0, count, buffers.narrow)
    if edges.by_sources:
        for some, x in buffers.chunks(edges.sources, rows):
            multiply(x, matrix, z[some])
        sum_rows(job.block, edges.in_edges, (z,), out, scale=factors, to=edges.destinations)
    else:
        y = buffers.rows(1, count, buffers.wide)
        sum_rows(job.block, edges.in_edges, rows, y, scale=factors)
        multiply(y, matrix, z)
        sum_rows(job.block, edges.each, (z,), out, to=edges.destinations)


def _add_gradients(
    job: RelationSums,
    edges: RelationEdges,
    factors: Tensor | None,
    matrix: Tensor,
    rows: Sequence[Tensor],
    buffers: _Buffers,
    grad: Tensor,
    grad_matrix: Tensor | None,
    grad_rows: Tensor | None,
) -> None:
    """Add the gradients of one relation, computed from the inputs of forward."""
    count, block = len(edges.each.other), job.block
    x = buffers.rows(0, count, buffers.wide)
    grad_z = buffers.rows(1, count, buffers.narrow)
    if edges.by_sources:
        by_row = buffers.of_rows(edges, factors, len(grad))
        sum_rows(block, edges.out_edges, (grad,), grad_z, factors=by_row)
        if grad_matrix is not None:
            for some, x_n in buffers.chunks(edges.sources, rows):
                add_to_table(grad_matrix, x_n, grad_z[some])
    else:
        _select(edges.destinations, (grad,), grad_z)
        if grad_matrix is not None:
            sum_rows(block, edges.in_edges, rows, x, scale=factors)
            add_to_table(grad_matrix, x, grad_z)
    if grad_rows is None:
        return
    multiply(grad_z, matrix.transpose(-1, -2), x)
    if edges.by_sources:
        sum_rows(block, edges.each, (x,), grad_rows, to=edges.sources)
    else:
        if factors is not None:
            x.mul_(factors.unsqueeze(1))
        sum_rows(block, edges.out_edges, (x,), grad_rows, to=edges.sources)


def _select(nodes: NDArray[np.int32], rows: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write the rows of some nodes, ascending: first those of masters, then those of mirrors."""
    index, masters = torch.from_numpy(nodes), rows[0]
    border = len(nodes) if len(rows) == 1 else int(np.searchsorted(nodes, len(masters)))
    torch.index_select(masters.flatten(1), 0, index[:border], out=out[:border])
    if border < len(nodes):
        mirrors = rows[1].flatten(1)
        torch.index_select(mirrors, 0, index[border:] - len(masters), out=out[border:])
    return out

"""Products of pairs of a node and a relation by the matrix of the relation, differentiable.

Pairs are ordered by relation, so that each relation is one product of matrices. Rows of nodes are
selected for one relation at a time, forward and backward: nothing is kept but the nodes' rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.runtime.tensor_pool import empty
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.pairs import PairGroup, Pairs
from graphtheta.tgar.compiler.row_sums import sum_rows

__all__ = ["PairRows", "add_to_table", "finish", "joined_heads", "multiply"]

_CHUNK_ROWS = 1 << 13  # rows of nodes that are selected at a time
_JOINED_COLUMNS = 128  # of all heads, up to which one product is faster than one for each head


@dataclass(frozen=True)
class PairRows:
    """Rows of pairs, computed from those of nodes or from rows that are pairs already.

    Attributes:
        block: Block that the pairs are of.
        pairs: The pairs.
        layer: Index of the layer, for timers.
        stages: Timers.
    """

    block: Block
    pairs: Pairs
    layer: int
    stages: StageTimers

    def products(self, table: Tensor, *rows: Tensor, syncs: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the product of each row by the matrix of its relation.

        Args:
            table: (relations, ..., A, O) matrices.
            rows: (P, ..., A), the rows of the pairs; or (M, ..., A) and (H, ..., A), the rows of
                nodes below the border and of others, which are then selected.
            syncs: Syncs in flight that write the latter; pairs of the former do not wait for them.

        Shape:
            Returns (P, ..., O).
        """
        shape = *table.shape[1:-2], table.shape[-1]
        product: Tensor = _Products.apply(self, syncs, joined_heads(table), *rows)  # type: ignore[no-untyped-call]
        return product.view(-1, *shape)

    def selected(self, *rows: Tensor) -> Tensor:
        """Return the row of each pair's node: (P, ...), from the rows of nodes as `products`."""
        selected: Tensor = _Selected.apply(self, *rows)  # type: ignore[no-untyped-call]
        return selected

    def chunks(self, rows: Sequence[Tensor]) -> Iterator[tuple[PairGroup, Tensor]]:
        """Yield pairs of one relation and their rows; rows of nodes are a chunk that fits a cache.

        The rows are valid until the next are requested.
        """
        if len(rows) == 1:
            for group in self.pairs.groups:
                yield group, rows[0][group.first : group.last]
            return
        buffer = rows[0].new_empty((_CHUNK_ROWS, *rows[0].shape[1:]))
        for relation, first, last in self.pairs.groups:
            for start in range(first, last, _CHUNK_ROWS):
                stop = min(start + _CHUNK_ROWS, last)
                chunk = buffer[: stop - start]
                yield PairGroup(relation, start, stop), self.select(start, stop, rows, chunk)

    def select(self, first: int, last: int, rows: Sequence[Tensor], out: Tensor) -> Tensor:
        """Write the rows of the nodes of some pairs, all of them below the border or none."""
        index = self.pairs.node_index[first:last]
        if first < self.pairs.num_first:
            return torch.index_select(rows[0], 0, index, out=out)
        return torch.index_select(rows[1], 0, index - len(rows[0]), out=out)

    def summed(self, x_P: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over the pairs of each node, in the shapes and dtypes of `rows`."""
        if len(rows) == 1:
            return [x_P.view_as(rows[0])]
        dtype = torch.float64 if x_P.dtype == torch.float64 else torch.float32
        x_P = x_P.flatten(1).to(dtype).contiguous()
        total = empty((self.pairs.num_nodes, x_P.shape[1]), dtype)
        sum_rows(self.block, self.pairs.by_node, (x_P,), total)
        parts = torch.split(total, [len(x) for x in rows])
        return [part.reshape(x.shape).to(x.dtype) for part, x in zip(parts, rows, strict=True)]


def joined_heads(table: Tensor) -> Tensor:
    """Return one matrix of all heads for each relation, if that is faster to multiply by.

    Shape:
        table: (R, ..., A, O). Returns (R, H A, H O) instead of (R, H, A, O) if H A is small.
    """
    if table.dim() != 4 or table[0, ..., 0].numel() > _JOINED_COLUMNS:
        return table
    heads = table.shape[1]
    diagonal = torch.eye(heads, dtype=table.dtype, device=table.device)
    return (table.unsqueeze(3) * diagonal.view(heads, 1, heads, 1)).flatten(3, 4).flatten(1, 2)


def multiply(x_n: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Write the product of each row by a matrix: (n, ..., A) by (..., A, O).

    Dimensions of a row may be joined into one.
    """
    if matrix.dim() == 2:
        torch.mm(x_n.flatten(1), matrix, out=out)
    else:
        x_n = x_n.reshape(len(x_n), *matrix.shape[:-1]).movedim(0, -2)
        product = (x_n @ matrix).movedim(-2, 0)
        out.copy_(product.reshape(out.shape))


def add_to_table(total: Tensor, x_n: Tensor, grad_n: Tensor) -> None:
    """Add the gradient of a matrix that rows were multiplied by.

    Shape:
        total: (..., A, O). x_n: (n, ..., A). grad_n: (n, ..., O). Dimensions of a row may be
            joined into one.
    """
    if total.dim() == 2:
        total.addmm_(x_n.flatten(1).t(), grad_n)
    else:
        x_n = x_n.reshape(len(x_n), *total.shape[:-1])
        grad_n = grad_n.reshape(len(grad_n), *total.shape[:-2], total.shape[-1])
        total.add_(x_n.movedim(0, -1) @ grad_n.movedim(0, -2))


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: PairRows, syncs: Sequence[MirrorSync], table: Tensor, *rows: Tensor
    ) -> Tensor:
        ctx.job = job
        ctx.save_for_backward(table, *rows)
        pairs, waiting = job.pairs, list(syncs)
        out = empty((len(pairs), *table.shape[1:-2], table.shape[-1]), table.dtype)
        with job.stages.rest("forward", Stage("gather_sum", job.layer)):
            if pairs.num_first == 0:
                finish(waiting)
            for (relation, first, last), x_n in job.chunks(rows):
                multiply(x_n.to(table.dtype), table[relation], out[first:last])
                if last == pairs.num_first:
                    finish(waiting)
            finish(waiting)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        job, (table, *rows) = ctx.job, ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()
        needs_table, needs_rows = ctx.needs_input_grad[2], any(ctx.needs_input_grad[3:])
        grad_table = torch.zeros_like(table) if needs_table else None
        grad_P = empty((len(job.pairs), *table.shape[1:-1]), table.dtype) if needs_rows else None
        with job.stages.timed("backward", Stage("gather_sum", job.layer)):
            for group, x_n in job.chunks(rows):
                _add_gradients(group, grad, table, x_n, grad_table, grad_P)
            grads = [None] * len(rows) if grad_P is None else job.summed(grad_P, rows)
        return None, None, grad_table, *grads


def _add_gradients(
    group: PairGroup,
    grad: Tensor,
    table: Tensor,
    x_n: Tensor,
    grad_table: Tensor | None,
    grad_P: Tensor | None,
) -> None:
    """Add a relation's gradient of the table, and write that of its pairs."""
    relation, first, last = group
    grad_n = grad[first:last]
    if grad_table is not None:
        add_to_table(grad_table[relation], x_n.to(table.dtype), grad_n)
    if grad_P is not None:
        multiply(grad_n, table[relation].transpose(-1, -2), grad_P[first:last])


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: PairRows, *rows: Tensor) -> Tensor:
        ctx.job, ctx.types = job, [torch.empty_like(x, device="meta") for x in rows]
        border, length = job.pairs.num_first, len(job.pairs)
        out = rows[0].new_empty((length, *rows[0].shape[1:]))
        job.select(0, border, rows, out[:border])
        job.select(border, length, rows, out[border:])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, *ctx.job.summed(grad, ctx.types)


def finish(waiting: list[MirrorSync]) -> None:
    """Finish syncs, and forget them."""
    while waiting:
        waiting.pop(0).finish()

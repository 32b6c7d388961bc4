"""Products of sparse rows with dense matrices, with gradients of the dense ones.

Forward, a row of the result is the sum of the rows of W at the row's entries. Backward, each entry
adds a row of the gradient to a row of the gradient of W. A thread has a range of rows forward and a
range of columns of X backward, and sums in the order of the entries: results have the same bits for
any number of threads, and no transposed copy of X is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.data.sparse import SparseMatrix
from graphtheta.runtime.tensor_pool import empty

__all__ = ["on_threads", "product", "selected"]

_PER_THREAD = 1 << 16  # least number of entries for each thread: a millisecond of work

_jit = numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


def product(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    """Return X W, differentiable with respect to W.

    Args:
        matrix: X, (R, F).
        dense: W, (F, O), of the dtype of X, on the CPU.

    Shape:
        Returns (R, O).
    """
    result: Tensor = _Product.apply(dense, matrix)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        out = empty((matrix.shape[0], dense.shape[1]), dense.dtype)
        dense_FO, out_RO = dense.detach().contiguous().numpy(), out.numpy()
        on_threads(
            lambda start, stop: _multiply(
                matrix.indptr, matrix.indices, matrix.values, dense_FO, start, stop, out_RO
            ),
            _row_cuts(matrix),
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        matrix: SparseMatrix = ctx.matrix
        of_dense = empty((matrix.width, grad.shape[1]), grad.dtype).zero_()
        grad_RO, out_FO = grad.contiguous().numpy(), of_dense.numpy()
        on_threads(
            lambda start, stop: _multiply_transposed(
                matrix.indptr, matrix.indices, matrix.values, grad_RO, start, stop, out_FO
            ),
            _column_cuts(matrix),
        )
        return of_dense, None


def _threads_for(matrix: SparseMatrix) -> int:
    return max(1, min(torch.get_num_threads(), len(matrix.indices) // _PER_THREAD))


def _row_cuts(matrix: SparseMatrix) -> NDArray[np.int64]:
    """Return ranges of rows with about as many entries each, one for each thread."""
    return _cuts(matrix.indptr, _threads_for(matrix))


def _column_cuts(matrix: SparseMatrix) -> NDArray[np.int64]:
    """Return ranges of columns with about as many entries each, one for each thread."""
    threads = _threads_for(matrix)
    if threads == 1:
        return np.array([0, matrix.width])
    return _cuts(np.append(0, np.cumsum(matrix.entries_by_column)), threads)


def _cuts(ends: NDArray[np.int64], threads: int) -> NDArray[np.int64]:
    """Return the bounds of `threads` ranges of about equal numbers of entries.

    Args:
        ends: Number of entries before each row or column, and of all.
        threads: Number of ranges.
    """
    targets = ends[-1] * np.arange(1, threads) // threads
    inner = np.searchsorted(ends, targets)
    return np.concatenate([[0], inner, [len(ends) - 1]])


def on_threads(work: Callable[[int, int], object], cuts: Sequence[int] | NDArray[Any]) -> None:
    """Call work(start, stop) for each range between cuts, at the same time."""
    bounds = [int(cut) for cut in cuts]
    if len(bounds) == 2:
        work(*bounds)
    else:
        list(_pool().map(work, bounds[:-1], bounds[1:]))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "graphtheta-sparse")


def selected(matrix: SparseMatrix, rows: NDArray[np.int64]) -> SparseMatrix:
    """Return some rows of a matrix, in the given order; rows may repeat.

    Shape:
        rows: (T,) in [0, R). Returns (T, F).
    """
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum((matrix.indptr[1:] - matrix.indptr[:-1])[rows], out=indptr[1:])
    indices = np.empty(indptr[-1], np.int32)
    values = None if matrix.values is None else np.empty(len(indices), matrix.values.dtype)
    _select(matrix.indptr, matrix.indices, matrix.values, rows, indptr, indices, values)
    return SparseMatrix(indptr, indices, values, matrix.width)


@_jit
def _add_row(
    row: NDArray[Any], other: NDArray[Any], values: NDArray[Any] | None, entry: int
) -> None:
    """Add the product of an entry, which is 1 without values, and another row to a row."""
    width = np.uint64(row.shape[0])
    if values is None:
        for k in range(width):
            row[k] += other[k]
    else:
        value = values[entry]
        for k in range(width):
            row[k] += value * other[k]


@_jit
def _multiply(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[Any] | None,
    dense: NDArray[Any],
    first: int,
    last: int,
    out: NDArray[Any],
) -> None:
    width = np.uint64(dense.shape[1])
    for i in range(first, last):
        row = out[i]
        for k in range(width):
            row[k] = 0
        for entry in range(indptr[i], indptr[i + 1]):
            _add_row(row, dense[np.uint64(indices[entry])], values, entry)


@_jit
def _multiply_transposed(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[Any] | None,
    grad: NDArray[Any],
    first: int,
    last: int,
    out: NDArray[Any],
) -> None:
    """Add the products of the entries in columns [first, last)."""
    for i in range(grad.shape[0]):
        start, stop = indptr[i], indptr[i + 1]
        if first > 0:
            start += np.searchsorted(indices[start:stop], first)
        other = grad[i]
        for entry in range(start, stop):
            column = indices[entry]
            if column >= last:
                break
            _add_row(out[np.uint64(column)], other, values, entry)


@_jit
def _select(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[Any] | None,
    rows: NDArray[np.int64],
    new_indptr: NDArray[np.int64],
    new_indices: NDArray[np.int32],
    new_values: NDArray[Any] | None,
) -> None:
    for i in range(rows.shape[0]):
        start, to = indptr[rows[i]], new_indptr[i]
        for k in range(new_indptr[i + 1] - to):
            new_indices[to + k] = indices[start + k]
            if values is not None and new_values is not None:
                new_values[to + k] = values[start + k]

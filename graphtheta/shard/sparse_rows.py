"""Sparse features of a batch's nodes, which take the place of a tensor in the calls of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from graphtheta.data.sparse import SparseMatrix
from graphtheta.errors import ConfigError
from graphtheta.rng.philox import dropout_of_entries
from graphtheta.shard.sparse_product import on_threads, product, selected

__all__ = ["SparseRows", "densified", "is_sparse_rows", "sparse_rows"]

_log = logging.getLogger("graphtheta")
_DRAWS_PER_THREAD = 1 << 16
_Float = float  # the name of a method below


class SparseRows:
    """Sparse matrix that takes the place of a tensor of features.

    Products with a dense matrix (`F.linear`, `nn.Linear`, `torch.mm`, `x @ w`, ...) are computed
    from the entries alone. So are the selection of rows and dropout. All other functions of torch
    get a dense copy, if it fits the free memory, and a warning reports the first one.

    Args:
        matrix: The rows, (R, F).
        dtype: Type of the values, float32 or float64.
        device: Device of the results of products.
        tail: Dense columns after the sparse ones, (R, K), such as learned vectors; None for none.
    """

    requires_grad = False

    def __init__(
        self,
        matrix: SparseMatrix,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        tail: Tensor | None = None,
    ) -> None:
        values = matrix.values
        if values is not None and torch.from_numpy(values[:0].copy()).dtype != dtype:
            values = values.astype(torch.empty(0, dtype=dtype).numpy().dtype)
            matrix = SparseMatrix(matrix.indptr, matrix.indices, values, matrix.width)
        self.matrix, self.dtype, self.device = matrix, dtype, torch.device(device)
        self.tail = tail
        self._kept: Tensor | None = None

    def __repr__(self) -> str:
        rows, width = self.shape
        return f"SparseRows({rows} x {width}, {len(self.matrix.indices)} entries, {self.dtype})"

    def _like(self, matrix: SparseMatrix, tail: Tensor | None) -> SparseRows:
        return SparseRows(matrix, self.dtype, self.device, tail)

    # -- as a tensor ------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """Number of rows and columns."""
        rows, width = self.matrix.shape
        return torch.Size((rows, width + (0 if self.tail is None else self.tail.shape[1])))

    @property
    def ndim(self) -> int:
        """Number of dimensions: 2."""
        return 2

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def dim(self) -> int:
        """Return the number of dimensions: 2."""
        return 2

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the size of a dimension."""
        return self.shape if dim is None else self.shape[dim]

    def is_floating_point(self) -> bool:
        """Return True."""
        return True

    def detach(self) -> SparseRows:
        """Return the rows without the gradient that a tail may have; features have none."""
        return self if self.tail is None else self._like(self.matrix, self.tail.detach())

    def to(self, *options: Any, **named: Any) -> SparseRows:
        """Return the rows in another dtype or on another device, as `Tensor.to` does."""
        like = torch.empty(0, dtype=self.dtype, device=self.device).to(*options, **named)
        if (like.dtype, like.device) == (self.dtype, self.device):
            return self
        tail = None if self.tail is None else self.tail.to(like.device, like.dtype)
        return SparseRows(self.matrix, like.dtype, like.device, tail)

    def float(self) -> SparseRows:
        """Return the rows as float32."""
        return self.to(torch.float32)

    def double(self) -> SparseRows:
        """Return the rows as float64."""
        return self.to(torch.float64)

    def new_zeros(self, *shape: Any, **options: Any) -> Tensor:
        """Return a dense tensor of zeros of the same dtype and device, as `Tensor.new_zeros`."""
        return torch.empty(0, dtype=self.dtype, device=self.device).new_zeros(*shape, **options)

    def index_select(self, dim: int, index: Tensor) -> SparseRows:
        """Return some rows, in the order of `index`."""
        assert dim == 0, "columns are not selected"
        tail = None if self.tail is None else self.tail.index_select(0, index)
        return self._like(selected(self.matrix, index.detach().cpu().numpy()), tail)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step in (None, 1):
            first, last, _ = key.indices(len(self))
            matrix, last = self.matrix, max(first, last)
            if (first, last) == (0, len(self)):
                return self
            indptr = matrix.indptr[first : last + 1]
            some = slice(int(indptr[0]), int(indptr[-1]))
            values = None if matrix.values is None else matrix.values[some]
            indices = matrix.indices[some]
            part = SparseMatrix(indptr - indptr[0], indices, values, matrix.width)
            return self._like(part, None if self.tail is None else self.tail[key])
        if isinstance(key, Tensor) and key.dim() == 1 and not key.is_floating_point():
            rows = torch.nonzero(key).flatten() if key.dtype == torch.bool else key % len(self)
            return self.index_select(0, rows)
        return self.dense()[key]

    def __matmul__(self, other: Any) -> Any:
        return torch.matmul(cast(Tensor, self), other)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"'SparseRows' object has no attribute '{name}'")
        return getattr(self.dense(), name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        sparse = _SPARSE.get(func)
        if sparse is not None:
            result = sparse(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*_dense(args), **{name: _dense(value) for name, value in kwargs.items()})

    # -- what is computed from the entries --------------------------------------------------------

    def dense(self) -> Tensor:
        """Return all values as a tensor, and report it the first time.

        Raises:
            ConfigError: If they do not fit the free memory.
        """
        rows, width = self.shape
        size, free = rows * width * self.dtype.itemsize, psutil.virtual_memory().available
        if size > free:
            raise ConfigError(
                f"features: expected a model that begins with a linear map of the {width:,} sparse "
                f"columns, got one that reads {rows:,} whole rows, {size / 1e9:.1f} GB of "
                f"{free / 1e9:.1f} GB of free memory. Begin with a Linear(view, x), or use "
                "mini-batches."
            )
        _report(width)
        values = torch.from_numpy(self.matrix.dense()).to(self.device, self.dtype)
        return values if self.tail is None else torch.cat([values, self.tail], 1)

    def product(self, dense: Tensor) -> Tensor:
        """Return X W, differentiable with respect to W.

        Shape:
            dense: (F, O). Returns (R, O).
        """
        if dense.shape[0] != self.shape[1] or dense.dim() != 2:
            raise ConfigError(
                f"features: expected a matrix with {self.shape[1]:,} rows for the sparse features, "
                f"got shape {tuple(dense.shape)}. Give the model in_channels={self.shape[1]}."
            )
        if dense.dtype != self.dtype:
            raise ConfigError(
                f"model: expected parameters of {self.dtype} as the features, got {dense.dtype}. "
                "Keep the dtype of x."
            )
        if self.tail is not None:
            first, last = torch.split(dense, [self.matrix.width, self.tail.shape[1]])
            return self._like(self.matrix, None).product(first).addmm_(self.tail, last)
        if dense.device.type == "cpu":
            return product(self.matrix, dense)
        return _on_device(self._torch_matrix(), dense)

    def _torch_matrix(self) -> Tensor:
        """Return the sparse columns as a sparse tensor on the device, which is kept."""
        if self._kept is None:
            matrix = self.matrix
            values = np.ones(len(matrix.indices)) if matrix.values is None else matrix.values
            self._kept = torch.sparse_coo_tensor(
                torch.from_numpy(np.stack([matrix.rows, matrix.indices])),
                torch.from_numpy(np.array(values)),
                matrix.shape,
                dtype=self.dtype,
                device=self.device,
                check_invariants=False,
                is_coalesced=True,
            )
        return self._kept

    def dropout(
        self, keys: NDArray[np.int64], p: _Float, key: NDArray[np.uint32], stream: np.uint32
    ) -> SparseRows:
        """Return the rows after dropout, the same as that of the dense rows.

        Args:
            keys: (R,) node keys.
            p: Probability of dropping a value.
            key: (2,) Philox key.
            stream: Id of the random stream.
        """
        draws = self.shape[1], keys, p, key, stream
        out = _dropped(self.matrix, self.dtype, *draws)
        matrix = SparseMatrix(self.matrix.indptr, self.matrix.indices, out, self.matrix.width)
        if self.tail is None:
            return self._like(matrix, None)
        rows, width = self.tail.shape
        columns = np.arange(width, dtype=np.int32) + np.int32(matrix.width)
        tail = SparseMatrix(
            np.arange(rows + 1) * width, np.tile(columns, rows), None, self.shape[1]
        )
        factors = torch.from_numpy(_dropped(tail, self.dtype, *draws).reshape(rows, width))
        return self._like(matrix, self.tail * factors.to(self.device))


def _dropped(
    matrix: SparseMatrix,
    dtype: torch.dtype,
    width: int,
    keys: NDArray[np.int64],
    p: float,
    key: NDArray[np.uint32],
    stream: np.uint32,
) -> NDArray[Any]:
    """Return the values of entries after dropout in rows of `width` columns."""
    out = np.empty(len(matrix.indices), torch.empty(0, dtype=dtype).numpy().dtype)

    def work(first: int, last: int) -> None:
        dropout_of_entries(
            matrix.indptr[first : last + 1],
            matrix.indices,
            matrix.values,
            width,
            keys[first:last],
            p,
            key,
            stream,
            out,
        )

    rows, threads = matrix.shape[0], min(torch.get_num_threads(), len(out) // _DRAWS_PER_THREAD)
    ends = np.arange(1, threads) * len(out) // max(threads, 1)
    on_threads(work, [0, *np.searchsorted(matrix.indptr, ends).tolist(), rows])
    return out


def sparse_rows(x: object) -> SparseRows | None:
    """Return sparse rows that take the place of a tensor; None for a tensor."""
    return x if isinstance(x, SparseRows) else None


def is_sparse_rows(x: object) -> bool:
    """Return whether sparse rows take the place of a tensor."""
    return isinstance(x, SparseRows)


def densified(x: Any) -> Any:
    """Return a tensor for sparse rows, and other values unchanged."""
    return x.dense() if isinstance(x, SparseRows) else x


def _dense(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_dense(one) for one in value)
    return densified(value)


@cache
def _report(width: int) -> None:
    _log.warning(
        "features: the model reads whole rows of the %s sparse columns, which become dense for it. "
        "A model that begins with a linear map, or whose first layer multiplies its input by a "
        "matrix first, needs less memory and time.",
        f"{width:,}",
    )


def _operator(name: str) -> Callable[..., Any]:
    return lambda x, *others: getattr(x.dense(), name)(*map(densified, others))


for _name in (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *("__neg__", "__pow__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
):
    setattr(SparseRows, _name, _operator(_name))  # Python looks these up in the class
SparseRows.__hash__ = object.__hash__  # type: ignore[method-assign]


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not isinstance(x, SparseRows):
        return NotImplemented
    out = x.product(weight.t())
    return out if bias is None else out.add_(bias)


def _matmul(x: Any, other: Any) -> Any:
    if not isinstance(x, SparseRows) or isinstance(other, SparseRows) or other.dim() != 2:
        return NotImplemented
    return x.product(other)


def _addmm(onto: Tensor, x: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if not isinstance(x, SparseRows) or beta != 1 or alpha != 1:
        return NotImplemented
    return onto + x.product(other)


def _addmm_(onto: Tensor, x: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if not isinstance(x, SparseRows) or beta != 1 or alpha != 1:
        return NotImplemented
    return onto.add_(x.product(other))


def _cat(given: Sequence[Any], dim: int = 0) -> Any:
    """Return sparse rows followed by dense columns, such as learned vectors."""
    first, *others = given
    if dim not in (1, -1) or not isinstance(first, SparseRows):
        return NotImplemented
    if not all(isinstance(other, Tensor) and other.dtype == first.dtype for other in others):
        return NotImplemented
    dense = others if first.tail is None else [first.tail, *others]
    return SparseRows(first.matrix, first.dtype, first.device, torch.cat(dense, 1))


_SPARSE: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    torch.mm: _matmul,
    torch.matmul: _matmul,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    Tensor.addmm_: _addmm_,
    torch.cat: _cat,
    torch.index_select: SparseRows.index_select,
}


def _on_device(matrix: Tensor, dense: Tensor) -> Tensor:
    """Return the product on a device other than the CPU, by torch's own sparse matrices."""
    result: Tensor = _DeviceProduct.apply(dense, matrix)  # type: ignore[no-untyped-call]
    return result


class _DeviceProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor) -> Tensor:
        ctx.matrix = matrix
        result: Tensor = torch.sparse.mm(matrix, dense)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.sparse.mm(ctx.matrix.t(), grad), None

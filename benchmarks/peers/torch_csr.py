"""Sum over in-edges by the sparse CSR product of torch (MKL, int32 indices)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

VERSION = torch.__version__
FORMS = {"gather": ("csr",)}


def gather_sum(arrays: Any, form: str, *, weighted: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that multiplies by the adjacency matrix."""
    matrix = adjacency(arrays.src, arrays.dst, arrays.num_nodes, arrays.weight, index=torch.int32)
    if not weighted:
        matrix.values().fill_(1)
    return lambda x: matrix @ x


def adjacency(
    src: Tensor,
    dst: Tensor,
    size: int | tuple[int, int],
    values: Tensor,
    *,
    index: torch.dtype = torch.int64,
) -> Tensor:
    """Return the CSR matrix of edges sorted by destination; destinations are its rows."""
    shape = (size, size) if isinstance(size, int) else size
    indptr = torch.zeros(shape[0] + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(dst, minlength=shape[0]), 0, out=indptr[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparse CSR is in beta state
        return torch.sparse_csr_tensor(indptr.to(index), src.to(index), values.clone(), shape)

"""Sums of rows over edges, by a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency
from graphtheta.tgar.aggregators import aggregator
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.pairs import PairBlock
from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.ir.terms import Leaf, TermFactory
from graphtheta.tgar.compiler.lowering.lower import Lowered
from graphtheta.tgar.compiler.passes.program import Program
from graphtheta.tgar.compiler.runner import Array, KernelRunner

__all__ = ["sum_rows"]


def sum_rows(
    block: Block,
    edges: Adjacency,
    rows: Sequence[Tensor],
    out: Tensor,
    *,
    factors: Tensor | None = None,
    scale: Tensor | None = None,
    to: NDArray[np.int32] | None = None,
) -> None:
    """Write the sum of the rows at the other ends of each row's edges.

    Args:
        block: Block that the edges are of.
        edges: The edges.
        rows: (N, ...) float32 or float64, contiguous; and (H, ...) that are numbered after those.
        out: (R, ...), written; or if `to` is given, (any, ...), added to.
        factors: (N,) factors of the rows, if all are in one tensor.
        scale: (R,) factors of the sums.
        to: (R,) distinct rows of `out` that the sums are added to.
    """
    size, dtype = math.prod(rows[0].shape[1:]), rows[0].dtype
    kernel, program = _kernel(size, dtype, factors is not None, scale is not None, to is not None)
    sides = PairBlock.of_rows(block, edges, len(rows[0]))
    runner = KernelRunner(program, aggregator(program.aggregator), sides, 0, None)
    arrays = {"factor": factors, "inverse_count": scale, "rows": to}
    given: dict[str, Array] = {name: array for name, array in arrays.items() if array is not None}
    given |= zip(("source0", "mirror_source0"), rows, strict=False)
    runner.launch(kernel, given, into={"total": out})


@lru_cache(maxsize=64)
def _kernel(
    size: int, dtype: torch.dtype, factors: bool, scales: bool, adds: bool
) -> tuple[Kernel, Program]:
    """Return the kernel that sums rows of a size; scaled sums are means with given counts."""
    terms, storage = TermFactory(), str(dtype).removeprefix("torch.")
    row = terms.leaf(Leaf("source", "source0", storage, size), (size,))
    if factors:
        row = terms.mul(row, terms.leaf(Leaf("source", "factor", storage, 1), ()))
    lowered = Lowered(terms, dtype, (row,), {}, {}, (), 1)
    program = Program(lowered, "mean" if scales else "sum", self_loops=False)
    kernel = program.forward(save_score=False, finish=True)
    return replace(kernel, adds=adds), program

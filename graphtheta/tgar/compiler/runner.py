"""Kernel runner: passes tensors to a kernel and runs it over all rows of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.exchange.mirror_sync import GradientReturn, MirrorSync
from graphtheta.runtime.tensor_pool import empty
from graphtheta.tgar.aggregators import Aggregator
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.pairs import PairBlock
from graphtheta.tgar.compiler.codegen.native import compile_kernel
from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.openmp import run
from graphtheta.tgar.compiler.passes.program import Program

__all__ = ["Array", "KernelRunner", "leaf_name"]

_CHUNKS_PER_PROGRESS = 4  # per thread, about a millisecond, between two calls of `progress`

Array = Tensor | NDArray[Any]


@dataclass(frozen=True)
class KernelRunner:
    """Runs the kernels of one layer on one worker.

    Attributes:
        program: Kernels of the layer.
        aggregator: Columns of the partials, and how they are merged.
        block: Active nodes and edges.
        layer: Index of the layer, for timers.
        draws: Result of `LayerView.edge_draws`, or None when not training.
    """

    program: Program
    aggregator: Aggregator
    block: Block | PairBlock
    layer: int
    draws: NDArray[np.uint32] | None

    @property
    def loop_rows(self) -> int:
        """Number of rows to which the layer adds a self-loop: all outputs, or none."""
        return self.block.num_outputs if self.program.self_loops else 0

    @property
    def edge_rows(self) -> int:
        """Number of rows of edge arrays: edges, then self-loops."""
        return self.block.in_edges.num_edges + self.loop_rows

    def launch(
        self,
        kernel: Kernel,
        arrays: Mapping[str, Array],
        syncs: Sequence[MirrorSync] = (),
        return_gradients: Callable[[Mapping[str, Tensor]], GradientReturn] | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Run a kernel over all rows.

        Args:
            kernel: The kernel.
            arrays: Leaves and arrays of saved values, by name of the argument.
            syncs: Mirror rows in flight. Rows that read no mirrors are computed first; the others
                after the syncs have finished.
            return_gradients: Starts to return gradients to masters, from the results of the
                mirrors' rows. If given, the kernel is over out-edges, and these rows are computed
                first.
            into: Results to write or add to; allocated if None.

        Returns:
            The outputs by name, then the winners, and `gradients` of parameters.
        """
        edges = self.block.in_edges if kernel.orientation == "in" else self.block.out_edges
        chunks = edges.chunks
        num_chunks, num_segments = len(chunks.table), len(chunks.segment_row)
        results, partials = _allocate(kernel, edges.num_rows, num_segments, into)
        counter = np.zeros(1, np.int64)
        sizes = np.array(
            [
                *(num_chunks, edges.num_edges, self.loop_rows),
                *(self.block.in_edges.leading, self.block.in_edges.shift),
                *(self.block.sources.num_masters, self.block.num_outputs),
            ],
            np.int64,
        )
        given: dict[str, Array] = {
            "counter": counter,
            "sizes": sizes,
            "chunks": chunks.table,
            "indptr": edges.indptr,
            "other": edges.other,
            "draws": np.zeros(0, np.uint32) if self.draws is None else self.draws,
            **arrays,
            **{f"out_{name}": result for name, result in results.items()},
            **{f"partial_{name}": partial for name, partial in partials.items()},
        }
        if edges.position is not None:
            given["position"] = edges.position
        if kernel.gradients:
            shape = (num_chunks, kernel.gradient_size)
            given["gradients"] = torch.zeros(shape, dtype=getattr(torch, kernel.storage))
        if kernel.reads_key:
            given |= {"key": self.block.edge_key, "node_key": self.block.node_key}
        for name in kernel.transposes:
            parameter = given[name.removesuffix("^T")]
            assert isinstance(parameter, Tensor)
            given[name] = parameter.t().contiguous()
        code = compile_kernel(kernel)
        pointers = code.bind([_address(given, name) for name in code.arguments])

        def compute(first: int, last: int) -> None:
            counter[0], sizes[0] = first, last
            run(code.address, pointers, last - first)

        def compute_first(exchanges: Sequence[MirrorSync | GradientReturn]) -> None:
            step = _CHUNKS_PER_PROGRESS * torch.get_num_threads()
            for first in range(0, chunks.num_first, step):
                compute(first, min(first + step, chunks.num_first))
                for exchange in exchanges:
                    exchange.progress()

        def join(first: int, last: int) -> None:
            if first < last:
                some = {name: partial[first:last] for name, partial in partials.items()}
                segment_row = chunks.segment_row[first:last]
                self._join(kernel, segment_row, results, some, given)

        if return_gradients is not None:
            num_joined = int(np.searchsorted(chunks.segment_row, edges.border))
            compute(chunks.num_first, num_chunks)
            join(num_joined, num_segments)
            compute_first([return_gradients(results)])
            join(0, num_joined)
        else:
            if syncs:
                compute_first(syncs)
            for sync in syncs:
                sync.finish()
            compute(chunks.num_first if syncs else 0, num_chunks)
            join(0, num_segments)
        if kernel.gradients:
            # NumPy sums over rows in an order that does not depend on the number of threads.
            by_chunk = given["gradients"]
            assert isinstance(by_chunk, Tensor)
            results["gradients"] = torch.from_numpy(by_chunk.numpy().sum(0))
        return results

    def _join(
        self,
        kernel: Kernel,
        segment_row: NDArray[np.int64],
        results: Mapping[str, Tensor],
        partials: Mapping[str, Tensor],
        given: Mapping[str, Array],
    ) -> None:
        """Merge the partials of rows that are cut into segments, in the order of the segments."""
        rows, index = np.unique(segment_row, return_inverse=True)
        inverse_count: Any = given.get("inverse_count")
        if all(a.reduction == "sum" for a in kernel.accumulators):
            starts = np.flatnonzero(np.diff(segment_row, prepend=-1))
            joined = {
                name: torch.from_numpy(np.add.reduceat(partial.numpy(), starts))
                for name, partial in partials.items()
            }
            if inverse_count is not None and "total" in joined:
                shape = (-1, *(1,) * len(self.program.message.shape))
                joined["total"] *= inverse_count[torch.from_numpy(rows)].view(shape)
        else:
            received = list(partials.values())
            columns = [x.new_empty((0, *x.shape[1:])) for x in received[:2]]
            own = self.aggregator.start(len(rows), columns[: 1 + self.aggregator.scored])
            merged = self.aggregator.merge(own, received, torch.from_numpy(index))
            joined = dict(zip(partials, merged, strict=True))
            joined["message"] = self.aggregator.finish(merged)
        for name, result in results.items():
            if kernel.adds:
                result[torch.from_numpy(np.asarray(given["rows"])[rows])] += joined[name]
            else:
                result[torch.from_numpy(rows)] = joined[name]


def leaf_name(name: str) -> str:
    """Return the name of the leaf that an argument has rows of."""
    return name.removeprefix("loop_").removeprefix("mirror_")


def _allocate(
    kernel: Kernel, num_rows: int, num_segments: int, given: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Allocate a kernel's results by row unless given, and its accumulators by segment."""
    dtype = getattr(torch, kernel.storage)
    results = dict(given or {})
    if given is None:
        results = {o.name: empty((num_rows, *o.shape), dtype) for o in kernel.outputs}
    partials: dict[str, Tensor] = {}
    for accumulator in kernel.accumulators:
        name, shape = accumulator.name, accumulator.shape
        partials[name] = empty((num_segments, *shape), dtype)
        if accumulator.has_winner:
            results[f"{name}_winner"] = empty((num_rows, *shape), torch.int64)
            partials[f"{name}_winner"] = empty((num_segments, *shape), torch.int64)
    return results, partials


def _address(given: Mapping[str, Array], name: str) -> int:
    """Return the address of an argument. Rows of mirrors are numbered after those of masters."""
    if not name.startswith("mirror_"):
        array = given[name]
        return array.data_ptr() if isinstance(array, Tensor) else int(array.ctypes.data)
    masters, mirrors = given[leaf_name(name)], given.get(name)
    assert isinstance(masters, Tensor)
    if mirrors is None:
        return masters.data_ptr()
    assert isinstance(mirrors, Tensor)
    return mirrors.data_ptr() - masters.nbytes

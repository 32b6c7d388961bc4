"""Fused executor: Gather and Sum by compiled kernels, without a tensor of edges x features.

Bytes moved per edge: forward, the source fields that `gather` reads and the edge columns; backward,
the same over in-edges, and over out-edges the cotangent of the destination's row and what the first
kernel saved. Attention scores are saved in forward, one number per head and edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.exchange.mirror_sync import GradientReturn, MirrorSync
from graphtheta.runtime.tensor_pool import empty
from graphtheta.tgar.chunked import EdgeInputs
from graphtheta.tgar.compiler.passes.program import Backward, Program
from graphtheta.tgar.compiler.runner import KernelRunner, leaf_name

__all__ = ["FusedGatherSum"]


@dataclass(frozen=True)
class FusedGatherSum(KernelRunner):
    """Gather and Sum of one layer on one worker.

    Attributes:
        stages: Timers, in addition to the attributes of `KernelRunner`.
    """

    stages: StageTimers

    def __call__(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> list[Tensor]:
        """Return the partial columns of every row, differentiable in all inputs.

        Args:
            inputs: Inputs of the gather.
            syncs: Mirror rows of the inputs in flight; rows that read none are computed meanwhile.
        """
        columns = self._run(inputs, syncs, finish=False)
        if self.aggregator.counts:
            columns.append(torch.from_numpy(self.counts()))
        return columns

    def message(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the aggregated message of every row, differentiable in all inputs.

        The result is that of finishing the partial columns, in fewer passes over the rows.

        Args:
            inputs: Inputs of the gather.
            syncs: Mirror rows of the inputs in flight; rows that read none are computed meanwhile.
        """
        columns = self._run(inputs, syncs, finish=True)
        extreme = self.program.aggregator in ("max", "min")
        return self.aggregator.finish(columns) if extreme else columns[0]

    def _run(
        self, inputs: EdgeInputs, syncs: Sequence[MirrorSync], *, finish: bool
    ) -> list[Tensor]:
        makers = self.program.lowered.parameters.values()
        given = replace(inputs, parameters=[make(inputs.parameters) for make in makers])
        return list(_GatherSum.apply(self, finish, syncs, given.sizes(), *given.flat()))  # type: ignore[no-untyped-call]

    def backward_kernels(
        self, needed: Sequence[str], *, saved_score: bool, finish: bool
    ) -> Backward:
        """Return the kernels that compute the gradients of the named inputs."""
        position = self.block.out_edges.position
        return self.program.backward(
            frozenset(leaf_name(name) for name in needed),
            saved_score=saved_score,
            finish=finish,
            wide_positions=position is not None and position.dtype == np.int64,
        )

    def counts(self) -> NDArray[np.int64]:
        """Return the number of messages of each row: (rows,)."""
        counts = np.diff(self.block.in_edges.indptr)
        if self.program.self_loops:
            counts -= self.block.in_edges.own_edges
            counts[: self.loop_rows] += 1
        return counts

    def inverse_counts(self) -> Tensor:
        """Return 1 / count of each row, or 1 if it has no messages: (rows,)."""
        dtype = self.program.lowered.dtype
        return torch.from_numpy(self.counts()).clamp_(min=1).to(dtype).reciprocal_()

    def gradient_of(
        self, gradients: Mapping[str, Tensor], name: str, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        """Return the gradient of an input, a range of rows of its leaf's gradient, or zeros."""
        gradient = gradients.get(f"gradient_{leaf_name(name)}")
        if gradient is None:
            return torch.zeros(shape, dtype=dtype)
        if name.startswith(("loop_", "mirror_")):  # their rows follow those of edges or masters
            gradient = gradient[len(gradient) - shape[0] :]
        elif name not in self.program.lowered.parameters:
            gradient = gradient[: shape[0]]
        return gradient.reshape(shape).to(dtype)


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        job: FusedGatherSum,
        finish: bool,
        syncs: Sequence[MirrorSync],
        sizes: Sequence[int],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.job, ctx.sizes = job, sizes
        of_sources = (s.gradient_return for s in syncs if s.route is job.block.sources)
        ctx.gradient_return = next(of_sources, None)
        program = job.program
        inputs = [t.detach().contiguous() for t in tensors]
        arrays: dict[str, Any] = _by_name(inputs, sizes, program)
        names = list(arrays)
        saved: dict[str, Tensor] = {}  # what backward reads besides the inputs
        if any(ctx.needs_input_grad) and program.score_size:
            saved["score"] = empty((job.edge_rows, program.score_size), program.lowered.dtype)
            arrays |= {"score": saved["score"], "out_score": saved["score"]}
        if finish and job.aggregator.counts:
            saved["inverse_count"] = arrays["inverse_count"] = job.inverse_counts()
        kernel = program.forward(save_score="score" in saved, finish=finish)
        # Time spent waiting for a sync is counted as the sync's.
        with job.stages.rest("forward", Stage("gather_sum", job.layer)):
            results = job.launch(kernel, arrays, syncs)
        columns = list(results.values())
        num_differentiable = 1 if finish else job.aggregator.num_differentiable
        ctx.mark_non_differentiable(*columns[num_differentiable:])
        saved |= {name: results[name] for name in program.results_for_backward(finish=finish)}
        ctx.names = list(saved)
        if any(ctx.needs_input_grad):
            needs = ctx.needs_input_grad[4:]
            ctx.kernels = job.backward_kernels(
                [name for name, need in zip(names, needs, strict=True) if need],
                saved_score="score" in saved,
                finish=finish,
            )
            # Save only the inputs that backward reads: a plain sum reads none.
            reads = ctx.kernels.reads
            read = [
                tensor if leaf_name(name) in reads else None
                for name, tensor in zip(names, inputs, strict=True)
            ]
            ctx.types = [(t.shape, t.dtype) for t in inputs]
            ctx.save_for_backward(*read, *saved.values())
        return tuple(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        job, needs = ctx.job, ctx.needs_input_grad[4:]
        tensors = ctx.saved_tensors
        inputs = _by_name(tensors[: len(needs)], ctx.sizes, job.program)
        names = list(inputs)
        arrays = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        arrays |= zip(ctx.names, tensors[len(needs) :], strict=True)
        # Drop all other references, so that tensors are freed as soon as no kernel needs them.
        ctx.maybe_clear_saved_tensors()
        del tensors, inputs
        wanted = {
            name: types for name, types, need in zip(names, ctx.types, needs, strict=True) if need
        }
        mirrors = [name for name in wanted if name.startswith("mirror_source")]

        def return_gradients(results: Mapping[str, Tensor]) -> GradientReturn:
            rows = [job.gradient_of(results, name, *wanted[name]) for name in mirrors]
            ctx.gradient_return.start(rows)
            return ctx.gradient_return  # type: ignore[no-any-return]

        early = return_gradients if mirrors and ctx.gradient_return is not None else None
        # Time spent sending gradients is counted as the sync's.
        with job.stages.rest("backward", Stage("gather_sum", job.layer)):
            gradients = _gradients(job, ctx.kernels, arrays, grads, early)
        results = [
            job.gradient_of(gradients, name, *wanted[name]) if name in wanted else None
            for name in names
        ]
        return None, None, None, None, *results


def _by_name(
    tensors: Sequence[Tensor], sizes: Sequence[int], program: Program
) -> dict[str, Tensor]:
    """Return the inputs by name of the kernel argument."""
    sources, destinations, _, columns, loops, *mirrors = sizes
    names = [
        *(f"source{n}" for n in range(sources)),
        *(f"destination{n}" for n in range(destinations)),
        *program.lowered.parameters,
        *(f"column{n}" for n in range(columns)),
        *(f"loop_column{n}" for n in range(loops)),
        *(f"mirror_source{n}" for n in range(mirrors[0])),
        *(f"mirror_destination{n}" for n in range(mirrors[1])),
    ]
    return dict(zip(names, tensors, strict=True))


def _gradients(
    job: FusedGatherSum,
    backward: Backward,
    arrays: dict[str, Any],
    grads: Sequence[Tensor],
    return_gradients: Callable[[Mapping[str, Tensor]], GradientReturn] | None,
) -> dict[str, Tensor]:
    """Run the kernels of backward, and return gradients by name: `gradient_<leaf>`.

    Removes arrays that the second kernel does not read from `arrays`, so that they are freed.
    """
    dtype = job.program.lowered.dtype
    arrays |= {f"cotangent{n}": grad.contiguous() for n, grad in enumerate(grads)}
    if "total_winner" in arrays:
        arrays["winner"] = arrays["total_winner"]
    if backward.saved_size:
        arrays["saved"] = empty((job.edge_rows, backward.saved_size), dtype)
        arrays["out_saved"] = arrays["saved"]
    results: dict[str, Tensor] = {}
    if backward.in_kernel is not None:
        for save in backward.in_kernel.saves:
            name = save.leaf.name
            if name != "saved" and name not in results:
                results[name] = empty((job.edge_rows, save.leaf.stride), dtype).zero_()
                arrays[f"out_{name}"] = results[name]
        summed = job.launch(backward.in_kernel, arrays)
        flat = summed.pop("gradients", None)
        for gradient in backward.in_kernel.gradients:
            assert flat is not None
            size = math.prod(gradient.shape)
            results[f"gradient_{gradient.leaf}"] = flat[gradient.offset : gradient.offset + size]
        results |= summed
    if backward.out_kernel is not None:
        reads = backward.out_kernel.reads
        for name in [name for name in arrays if leaf_name(name) not in reads]:
            del arrays[name]
        out_kernel = backward.out_kernel
        results |= job.launch(out_kernel, arrays, return_gradients=return_gradients)
    return results

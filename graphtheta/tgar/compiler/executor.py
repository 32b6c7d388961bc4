"""The fused executor: Gather and Sum by compiled kernels, without a tensor of edges x features.

Bytes moved per edge: forward the source fields that `gather` reads, and the edge columns; backward
over in-edges the same, and over out-edges the cotangent of the destination's row and what the
first kernel saved. An attention score is kept from forward, a number a head and edge.
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
from graphtheta.data.adjacency import Adjacency
from graphtheta.exchange.mirror_sync import GradientReturn, MirrorSync
from graphtheta.rng.philox import Purpose, stream_id
from graphtheta.runtime.tensor_pool import empty
from graphtheta.tgar.aggregators import Aggregator
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.chunked import EdgeInputs
from graphtheta.tgar.compiler.codegen.native import compiled
from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.openmp import run
from graphtheta.tgar.compiler.passes.program import Backward, Program

__all__ = ["FusedGatherSum"]

_BETWEEN_POKES = 4  # chunks that a thread takes, about a millisecond, before bytes are moved along


@dataclass(frozen=True)
class FusedGatherSum:
    """One layer's Gather and Sum on one worker.

    Attributes:
        program: The layer's kernels.
        aggregator: What the columns of the partial are.
        block: The active nodes and edges.
        layer: Index of the layer, for draws and timers.
        step_key: Philox key of the step, or None when not training.
        stages: Timers.
    """

    program: Program
    aggregator: Aggregator
    block: Block
    layer: int
    step_key: NDArray[np.uint32] | None
    stages: StageTimers

    @property
    def in_edges(self) -> Adjacency:
        """In-edges by destination row."""
        return self.block.in_edges

    @property
    def loop_rows(self) -> int:
        """Rows that get a self-loop of the layer's own: the outputs, or none."""
        return self.block.num_outputs if self.program.self_loops else 0

    def __call__(self, inputs: EdgeInputs, arrivals: Sequence[MirrorSync] = ()) -> list[Tensor]:
        """Return the partial columns of every row, differentiable in all inputs.

        Args:
            inputs: What the gather reads.
            arrivals: Mirror rows of the inputs on their way; rows that read none are computed
                meanwhile.
        """
        columns = self._run(inputs, arrivals, finish=False)
        if self.aggregator.counts:
            columns.append(torch.from_numpy(self.counts()))
        return columns

    def message(self, inputs: EdgeInputs, arrivals: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the aggregated message of every row, differentiable in all inputs.

        The same as finishing the partial, in fewer walks over the rows; arguments as there.
        """
        columns = self._run(inputs, arrivals, finish=True)
        extreme = self.program.aggregator in ("max", "min")
        return self.aggregator.finish(columns) if extreme else columns[0]

    def _run(
        self, inputs: EdgeInputs, arrivals: Sequence[MirrorSync], *, finish: bool
    ) -> list[Tensor]:
        makers = self.program.lowered.parameters.values()
        parameters = [make(inputs.parameters) for make in makers]
        given = replace(inputs, parameters=parameters)
        return list(_Function.apply(self, finish, arrivals, given.sizes(), *given.flat()))  # type: ignore[no-untyped-call]

    def kernels_of_backward(
        self, needed: Sequence[str], *, saved_score: bool, finish: bool
    ) -> Backward:
        """Return the kernels that give the gradients of the inputs of these names."""
        position = self.block.out_edges.position
        return self.program.backward(
            frozenset(_leaf(name) for name in needed),
            saved_score=saved_score,
            finish=finish,
            wide=position is not None and position.dtype == np.int64,
        )

    def counts(self) -> NDArray[np.int64]:
        """Return how many messages each row gets: (rows,)."""
        counts = np.diff(self.in_edges.indptr)
        if self.program.self_loops:
            counts -= self.in_edges.own_edges
            counts[: self.loop_rows] += 1
        return counts

    def share(self) -> Tensor:
        """Return 1 / count of each row, 1 where there is none."""
        dtype = self.program.lowered.dtype
        return torch.from_numpy(self.counts()).clamp_(min=1).to(dtype).reciprocal_()

    def launch(
        self,
        kernel: Kernel,
        arrays: Mapping[str, Tensor | NDArray[Any]],
        arrivals: Sequence[MirrorSync] = (),
        leave: Callable[[Mapping[str, Tensor]], GradientReturn] | None = None,
    ) -> dict[str, Tensor]:
        """Run a kernel over all its rows.

        Args:
            kernel: What to run.
            arrays: Its leaves and saved arrays by argument name.
            arrivals: Waited for when the rows that need none of them are done.
            leave: Over out-edges, called with the results when the rows of mirrors are done, which
                come first then.

        Returns:
            The accumulators by name, winners included, and `gradients`: the sum over chunks.
        """
        edges = self.in_edges if kernel.orientation == "in" else self.block.out_edges
        chunks = edges.chunks
        float_type = getattr(torch, kernel.storage)
        num_chunks, num_segments = len(chunks.table), len(chunks.segment_row)
        counter = np.zeros(1, np.int64)
        in_edges, block = self.in_edges, self.block
        sizes = np.array(
            [
                *(num_chunks, edges.num_edges, self.loop_rows, in_edges.leading, in_edges.shift),
                *(block.sources.num_masters, block.num_outputs),
            ],
            np.int64,
        )
        given: dict[str, Tensor | NDArray[Any]] = {
            "counter": counter,
            "sizes": sizes,
            "chunks": chunks.table,
            "indptr": edges.indptr,
            "other": edges.other,
            "draws": self._draws(kernel),
            **arrays,
        }
        if edges.position is not None:
            given["position"] = edges.position
        results: dict[str, Tensor] = {}
        sides: dict[str, Tensor] = {}
        for output in kernel.outputs:
            results[output.name] = empty((edges.num_rows, *output.shape), float_type)
            given[f"out_{output.name}"] = results[output.name]
        for accumulator in kernel.accumulators:
            columns = {accumulator.name: float_type}
            if accumulator.how.startswith("best"):
                winner = f"{accumulator.name}_winner"
                columns[winner] = torch.int64
                results[winner] = empty((edges.num_rows, *accumulator.shape), torch.int64)
                given[f"out_{winner}"] = results[winner]
            for name, dtype in columns.items():
                sides[name] = empty((num_segments, *accumulator.shape), dtype)
                given[f"side_{name}"] = sides[name]
        if kernel.gradients:
            given["gradients"] = torch.zeros((num_chunks, kernel.gradient_size), dtype=float_type)
        if kernel.reads_key:
            given |= {"key": self.block.edge_key, "node_key": self.block.node_key}
        for name in kernel.transposes:
            parameter = given[name.removesuffix("^T")]
            assert isinstance(parameter, Tensor)
            given[name] = parameter.t().contiguous()
        native = compiled(kernel)
        pointers = native.bind([_pointer(given, name) for name in native.arguments])

        def work(first: int, last: int) -> None:
            counter[0], sizes[0] = first, last
            run(native.address, pointers, last - first)

        def work_between(pokes: Sequence[Callable[[], None]]) -> None:
            step = _BETWEEN_POKES * torch.get_num_threads()
            for first in range(0, chunks.num_first, step):
                work(first, min(first + step, chunks.num_first))
                for progress in pokes:
                    progress()

        def join(first: int, last: int) -> None:
            if first < last:
                share = given["share"] if "share" in native.arguments else None
                some = {name: side[first:last] for name, side in sides.items()}
                self._join(kernel, chunks.segment_row[first:last], results, some, share)

        if leave is not None:
            num_joined = int(np.searchsorted(chunks.segment_row, edges.border))
            work(chunks.num_first, num_chunks)
            join(num_joined, num_segments)
            work_between([leave(results).progress])
            join(0, num_joined)
        else:
            if arrivals:
                work_between([arrival.progress for arrival in arrivals])
            for arrival in arrivals:
                arrival.finish()
            work(chunks.num_first if arrivals else 0, num_chunks)
            join(0, num_segments)
        if kernel.gradients:
            # By NumPy: the order of its sum over rows does not depend on threads.
            partial = given["gradients"]
            assert isinstance(partial, Tensor)
            results["gradients"] = torch.from_numpy(partial.numpy().sum(0))
        return results

    def of_input(
        self, found: Mapping[str, Tensor], name: str, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        """Return an input's rows of the gradient of its leaf; zeros where there is none."""
        gradient = found.get(f"gradient_{_leaf(name)}")
        if gradient is None:
            return torch.zeros(shape, dtype=dtype)
        if name.startswith(("loop_", "mirror_")):  # they come behind those of edges, of masters
            gradient = gradient[len(gradient) - shape[0] :]
        elif name not in self.program.lowered.parameters:
            gradient = gradient[: shape[0]]
        return gradient.reshape(shape).to(dtype)

    def _join(
        self,
        kernel: Kernel,
        segment_row: NDArray[np.int64],
        results: Mapping[str, Tensor],
        sides: Mapping[str, Tensor],
        share: Any,
    ) -> None:
        """Join the segments of the rows that were cut, in their order."""
        rows, index = np.unique(segment_row, return_inverse=True)
        if all(a.how == "sum" for a in kernel.accumulators):
            starts = np.flatnonzero(np.diff(segment_row, prepend=-1))
            joined = {
                n: torch.from_numpy(np.add.reduceat(x.numpy(), starts)) for n, x in sides.items()
            }
            if share is not None and "total" in joined:
                shape = (-1, *(1,) * len(self.program.message.shape))
                joined["total"] *= share[torch.from_numpy(rows)].view(shape)
        else:
            outputs = [x.new_empty((0, *x.shape[1:])) for x in list(sides.values())[:2]]
            own = self.aggregator.start(len(rows), outputs[: 1 + self.aggregator.scored])
            arrived = list(sides.values())
            merged = self.aggregator.merge(own, arrived, torch.from_numpy(index))
            joined = dict(zip(sides, merged, strict=True))
            joined["message"] = self.aggregator.finish(merged)
        for name, result in results.items():
            result[torch.from_numpy(rows)] = joined[name]

    def _draws(self, kernel: Kernel) -> NDArray[np.uint32]:
        calls = kernel.draw_calls
        if not calls or self.step_key is None:
            return np.zeros(0, np.uint32)
        streams = [
            stream_id(Purpose.EDGE_DROPOUT, self.layer, call) for call in range(max(calls) + 1)
        ]
        return np.array([*self.step_key, *streams], np.uint32)


def _leaf(name: str) -> str:
    """Return the name of the leaf that an input holds rows of."""
    return name.removeprefix("loop_").removeprefix("mirror_")


def _pointer(given: Mapping[str, Tensor | NDArray[Any]], name: str) -> int:
    """Return where an argument begins; rows of mirrors are counted from the masters' first."""
    if not name.startswith("mirror_"):
        array = given[name]
        return array.data_ptr() if isinstance(array, Tensor) else int(array.ctypes.data)
    masters, mirrors = given[_leaf(name)], given.get(name)
    assert isinstance(masters, Tensor)
    if mirrors is None:
        return masters.data_ptr()
    assert isinstance(mirrors, Tensor)
    return mirrors.data_ptr() - masters.nbytes


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        job: FusedGatherSum,
        finish: bool,
        arrivals: Sequence[MirrorSync],
        sizes: Sequence[int],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.job, ctx.finish, ctx.sizes = job, finish, sizes
        sources = (a.gradient_return for a in arrivals if a.route is job.block.sources)
        ctx.gradient_return = next(sources, None)
        program = job.program
        held = [t.detach().contiguous() for t in tensors]
        arrays = _named(held, sizes, program)
        names = list(arrays)
        kept: dict[str, Tensor] = {}  # what backward reads besides the inputs
        if any(ctx.needs_input_grad) and program.score_size:
            rows = job.in_edges.num_edges + job.loop_rows
            kept["score"] = empty((rows, program.score_size), program.lowered.dtype)
            arrays |= {"score": kept["score"], "out_score": kept["score"]}
        if finish and job.aggregator.counts:
            kept["share"] = arrays["share"] = job.share()
        kernel = program.forward(save_score="score" in kept, finish=finish)
        # What is waited for in between counts as the sync's.
        with job.stages.rest("forward", Stage("gather_sum", job.layer)):
            results = job.launch(kernel, arrays, arrivals)
        columns = list(results.values())
        num_differentiable = 1 if finish else job.aggregator.num_differentiable
        constants = columns[num_differentiable:]
        ctx.mark_non_differentiable(*constants)
        kept |= {name: results[name] for name in program.kept(finish=finish)}
        ctx.names = list(kept)
        if any(ctx.needs_input_grad):
            needs = ctx.needs_input_grad[4:]
            ctx.kernels = job.kernels_of_backward(
                [name for name, need in zip(names, needs, strict=True) if need],
                saved_score="score" in kept,
                finish=finish,
            )
            # Only what backward reads: a plain sum keeps nothing of its inputs.
            reads = ctx.kernels.reads
            saved = [
                tensor if _leaf(name) in reads else None
                for name, tensor in zip(names, held, strict=True)
            ]
            ctx.like = [(t.shape, t.dtype) for t in held]
            ctx.save_for_backward(*saved, *kept.values())
        return tuple(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        job, needs = ctx.job, ctx.needs_input_grad[4:]
        held = ctx.saved_tensors
        inputs = _named(held[: len(needs)], ctx.sizes, job.program)
        names = list(inputs)
        arrays = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        arrays |= zip(ctx.names, held[len(needs) :], strict=True)
        # Nobody else holds what is saved, so that kernels free what the later ones do not read.
        ctx.maybe_clear_saved_tensors()
        del held, inputs
        wanted = {
            name: like for name, like, need in zip(names, ctx.like, needs, strict=True) if need
        }
        leaving = [name for name in wanted if name.startswith("mirror_source")]

        def leave(results: Mapping[str, Tensor]) -> GradientReturn:
            rows = [job.of_input(results, name, *wanted[name]) for name in leaving]
            ctx.gradient_return.start(rows)
            return ctx.gradient_return  # type: ignore[no-any-return]

        # What is sent in between counts as the sync's.
        with job.stages.rest("backward", Stage("gather_sum", job.layer)):
            leaves = leaving and ctx.gradient_return is not None
            found = _gradients(job, ctx.kernels, arrays, grads, leave if leaves else None)
        results = [
            job.of_input(found, name, *wanted[name]) if name in wanted else None for name in names
        ]
        return None, None, None, None, *results


def _named(
    tensors: Sequence[Tensor], sizes: Sequence[int], program: Program
) -> dict[str, Tensor | NDArray[Any]]:
    """Name the inputs as kernels do."""
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
    leave: Callable[[Mapping[str, Tensor]], GradientReturn] | None,
) -> dict[str, Tensor]:
    """Run the kernels of backward and return gradients by name of the leaf, `gradient_<leaf>`.

    Takes what it does not read any more out of `arrays`.
    """
    dtype = job.program.lowered.dtype
    for n, grad in enumerate(grads):
        arrays[f"cotangent{n}"] = grad.contiguous()
    if "total_winner" in arrays:
        arrays["winner"] = arrays["total_winner"]
    slots = job.in_edges.num_edges + job.loop_rows
    if backward.record:
        arrays["record"] = empty((slots, backward.record), dtype)
        arrays["out_record"] = arrays["record"]
    results: dict[str, Tensor] = {}
    if backward.inwards is not None:
        for save in (s for p in backward.inwards.passes for s in p.saves):
            name = save.leaf.name
            if name != "record" and name not in results:
                results[name] = empty((slots, save.leaf.stride), dtype).zero_()
                arrays[f"out_{name}"] = results[name]
        summed = job.launch(backward.inwards, arrays)
        flat = summed.pop("gradients", None)
        for gradient in backward.inwards.gradients:
            assert flat is not None
            size = math.prod(gradient.shape)
            results[f"gradient_{gradient.leaf}"] = flat[gradient.offset : gradient.offset + size]
        results |= summed
    if backward.outwards is not None:
        reads = backward.outwards.reads
        for name in [name for name in arrays if _leaf(name) not in reads]:
            del arrays[name]
        results |= job.launch(backward.outwards, arrays, leave=leave)
    return results

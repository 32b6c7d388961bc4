"""Programs: the kernels of one layer's Gather and Sum, from its terms and its aggregator.

Forward is one kernel over in-edges. Backward has at most two kernels: one over in-edges, for the
gradients of destinations, parameters and edge columns, and one over out-edges, for the gradients of
sources. Values that are small but costly (an attention coefficient, the cotangent of a score) are
computed by the first and saved for the second, a few numbers per edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from graphtheta.tgar.compiler.ir.kernel import (
    Accumulator,
    Gradient,
    Kernel,
    Orientation,
    Output,
    Pass,
    Save,
    Update,
)
from graphtheta.tgar.compiler.ir.terms import Leaf, Shape, Space, Term, walk
from graphtheta.tgar.compiler.lowering.lower import Lowered
from graphtheta.tgar.compiler.operators.elementwise import is_costly
from graphtheta.tgar.compiler.passes.commute import commute
from graphtheta.tgar.compiler.passes.differentiate import LeafCotangent, cotangents

__all__ = ["Backward", "Program"]

_MAX_SAVED = 16  # elements of a value that may be saved per edge: one per head


@dataclass(frozen=True)
class Backward:
    """Kernels of backward.

    Attributes:
        in_kernel: Kernel over in-edges, or None if not needed.
        out_kernel: Kernel over out-edges, or None if not needed.
        saved_size: Number of elements per edge that the first saves for the second.
        saved: Values that it saves.
    """

    in_kernel: Kernel | None
    out_kernel: Kernel | None
    saved_size: int
    saved: tuple[Term, ...]

    @property
    def reads(self) -> frozenset[str]:
        """Names of the leaves that either kernel loads."""
        kernels = [k for k in (self.in_kernel, self.out_kernel) if k is not None]
        return frozenset[str]().union(*(kernel.reads for kernel in kernels))


class Program:
    """Kernels of one `gather` with one aggregator.

    Args:
        lowered: The gather as terms.
        aggregator: A key of `AGGREGATORS`.
        self_loops: Whether the layer adds self-loops.

    Attributes:
        names: Names of values for `explain`, such as "attention".
    """

    def __init__(self, lowered: Lowered, aggregator: str, *, self_loops: bool) -> None:
        self.lowered, self.aggregator, self.self_loops = lowered, aggregator, self_loops
        self.terms = lowered.terms
        self.storage = str(lowered.dtype).removeprefix("torch.")
        self.score = lowered.outputs[0] if aggregator == "softmax" else None
        self.message = lowered.outputs[-1]
        self.names: dict[Term, str] = {}
        self._forward: dict[Any, Kernel] = {}
        self._backward: dict[Any, Backward] = {}

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the leaves that forward or backward may load."""
        return frozenset(t.leaf.name for t in walk(self.lowered.outputs) if t.op == "leaf")

    @property
    def score_size(self) -> int:
        """Number of elements per edge that forward saves for backward: the score's, or 0."""
        if self.score is None or not self._is_small(self.score):
            return 0
        return max(1, self.score.size)

    def _is_small(self, term: Term) -> bool:
        """Return whether a value is small enough to be saved per edge: one number per head."""
        return term.size <= min(_MAX_SAVED, max(1, self.message.size // 2))

    def _leaf(self, space: Space, name: str, shape: Shape, storage: str | None = None) -> Term:
        storage = storage or self.storage
        leaf = Leaf(space, name, storage, math.prod(shape))
        return self.terms.leaf(leaf, shape, "int" if storage == "int64" else "float")

    def _kernel(
        self,
        orientation: Orientation,
        passes: Sequence[Pass],
        accumulators: Sequence[Accumulator],
        outputs: Sequence[Output] | None = None,
        gradients: Sequence[Gradient] = (),
        *,
        wide_positions: bool = False,
    ) -> Kernel:
        """Return a kernel; its outputs are the accumulators unless given."""
        if outputs is None:
            outputs = [self._output_of(a) for a in accumulators]
        kernel = Kernel(
            orientation,
            self.storage,
            tuple(passes),
            tuple(accumulators),
            tuple(outputs),
            tuple(gradients),
            self_loops=self.self_loops,
            wide_positions=wide_positions,
        )
        return commute(self.terms, kernel)

    def _output_of(self, accumulator: Accumulator) -> Output:
        name, shape = accumulator.name, accumulator.shape
        return Output(name, shape, self._leaf("row", name, shape))

    # -- forward ----------------------------------------------------------------------------------

    def forward(self, *, save_score: bool, finish: bool) -> Kernel:
        """Return the kernel of Gather and Sum.

        Args:
            save_score: Whether a small score is saved for backward.
            finish: Whether the result is the aggregated message, or partials to be merged.
        """
        key = (save_score, finish)
        if key not in self._forward:
            self._forward[key] = self._make_forward(*key)
        return self._forward[key]

    def _make_forward(self, save_score: bool, finish: bool) -> Kernel:
        t, shape = self.terms, self.message.shape
        if self.score is None:
            reduction: Any = {"max": "argmax", "min": "argmin"}.get(self.aggregator, "sum")
            value = self._leaf("row", "total", shape)
            if finish and self.aggregator == "mean":
                value = t.mul(value, self._leaf("destination", "inverse_count", ()))
            return self._kernel(
                "in",
                [Pass((Update("total", self.message),))],
                [Accumulator("total", shape, reduction)],
                [Output("total", shape, value)],
            )
        narrow = self.score.shape
        accumulators = [
            Accumulator("total", narrow),
            Accumulator("weighted", shape),
            Accumulator("largest", narrow, "max"),
        ]
        saves: tuple[Save, ...] = ()
        score = self.score
        if save_score and self.score_size:
            saved = self._saved_score()
            saves, score = (Save(saved.leaf, self.score),), saved
        total, weighted, largest = (self._leaf("row", a.name, a.shape) for a in accumulators)
        weight = self._weight(score, largest)
        self.names[weight] = "weight"
        updates = (
            Update("total", weight),
            Update("weighted", t.mul(self._widened(weight), self.message)),
        )
        outputs = [self._output_of(a) for a in accumulators]
        if finish:
            mean = t.mul(weighted, self._widened(self._reciprocal(total)))
            outputs = [Output("message", shape, mean), outputs[0], outputs[2]]
        passes = [Pass((Update("largest", self.score),), saves), Pass(updates)]
        return self._kernel("in", passes, accumulators, outputs)

    def results_for_backward(self, *, finish: bool) -> tuple[str, ...]:
        """Return the names of forward's results that backward reads."""
        if self.aggregator in ("max", "min"):
            return ("total_winner",)
        if self.score is None:
            return ()
        return ("message", "total", "largest") if finish else ("largest",)

    def _reciprocal(self, total: Term) -> Term:
        """Return 1 / total, or 1 for a row that has no edges or only masked ones."""
        t = self.terms
        positive = t.compare("gt", total, 0)
        missing = t.compare("ne", total, total)  # not-a-number is propagated
        safe = t.select(t.logical("or", positive, missing), total, 1)
        return t.div(1, safe)

    def _saved_score(self) -> Term:
        assert self.score is not None
        return self._leaf("edge", "score", self.score.shape)

    def _weight(self, score: Term, largest: Term) -> Term:
        """Return exp(score - largest), or 0 in a row whose edges are all masked."""
        t = self.terms
        empty = t.compare("eq", largest, -math.inf)
        return t.apply("exp", t.sub(score, t.select(empty, 0, largest)))

    def _widened(self, score: Term) -> Term:
        """Append dimensions of size one to a score until it has as many as the message."""
        lacking = len(self.message.shape) - len(score.shape)
        return self.terms.reshape(score, (*score.shape, *(1,) * lacking))

    # -- backward ---------------------------------------------------------------------------------

    def backward(
        self, wanted: frozenset[str], *, saved_score: bool, finish: bool, wide_positions: bool
    ) -> Backward:
        """Return the kernels that compute gradients of the inputs from those of the results.

        Args:
            wanted: Names of the leaves whose gradients are needed.
            saved_score: Whether forward saved the score.
            finish: Whether forward's result was the aggregated message.
            wide_positions: Whether CSC positions are int64.
        """
        key = (wanted, saved_score, finish, wide_positions)
        if key not in self._backward:
            self._backward[key] = self._make_backward(*key)
        return self._backward[key]

    def _make_backward(
        self, wanted: frozenset[str], saved_score: bool, finish: bool, wide_positions: bool
    ) -> Backward:
        found = self._cotangents(lambda term: term.leaf.name in wanted, saved_score, finish)
        of_sources = [c for c in found if c.leaf.leaf.space == "source"]
        of_others = [c for c in found if c.leaf.leaf.space != "source"]
        roots = [c.value for c in of_sources]
        roots += [c.index for c in of_sources if c.index is not None]
        saved = self._values_to_save(roots)
        size = sum(max(1, value.size) for value in saved)
        loads, saves, offset = {}, [], 0
        for value in saved:
            leaf = Leaf("edge", "saved", self.storage, size, offset)
            loads[value] = self.terms.leaf(leaf, value.shape)
            saves.append(Save(leaf, value))
            offset += max(1, value.size)
        in_kernel = self._gradient_kernel("in", of_others, saves) if of_others or saves else None
        out_kernel = None
        if of_sources:
            of_sources = self._with_values(of_sources, loads)
            out_kernel = self._gradient_kernel("out", of_sources, wide_positions=wide_positions)
        return Backward(in_kernel, out_kernel, size, tuple(saved))

    def _with_values(
        self, found: Sequence[LeafCotangent], replacements: Mapping[Term, Term]
    ) -> list[LeafCotangent]:
        """Return cotangents with some of the values that they are computed from replaced."""
        values = self.terms.substitute([c.value for c in found], replacements)
        return [replace(c, value=value) for c, value in zip(found, values, strict=True)]

    def _cotangents(
        self, wanted: Callable[[Term], bool], saved_score: bool, finish: bool
    ) -> list[LeafCotangent]:
        t, shape = self.terms, self.message.shape
        upstream = self._leaf("destination", "cotangent0", shape)
        if self.aggregator in ("max", "min"):
            winner = self._leaf("destination", "winner", shape, "int64")
            key = self._leaf("edge", "key", (), "int64")
            won = t.compare("eq", winner, key)
            return cotangents(t, [(self.message, t.select(won, upstream, 0))], wanted)
        if self.score is None:
            if finish and self.aggregator == "mean":
                upstream = t.mul(upstream, self._leaf("destination", "inverse_count", ()))
            return cotangents(t, [(self.message, upstream)], wanted)
        narrow = self.score.shape
        score = self._saved_score() if saved_score and self.score_size else self.score
        weight = self._weight(score, self._leaf("destination", "largest", narrow))
        if finish:
            # The gradient through the normalisation of the weights is -<cotangent, result>.
            total = self._leaf("destination", "total", narrow)
            weight = t.mul(weight, self._reciprocal(total))
            result = self._leaf("destination", "message", shape)
            of_total = t.neg(self._per_score(t.mul(upstream, result)))
        else:
            of_total = self._leaf("destination", "cotangent0", narrow)
            upstream = self._leaf("destination", "cotangent1", shape)
        self.names[weight] = "attention"
        along = self._per_score(t.mul(upstream, self.message))
        pairs = [
            (self.score, t.mul(t.add(along, of_total), weight)),
            (self.message, t.mul(self._widened(weight), upstream)),
        ]
        found = cotangents(t, pairs, wanted)
        return self._with_values(found, {self.score: score})

    def _per_score(self, message: Term) -> Term:
        """Sum a message over the dimensions that the score lacks."""
        assert self.score is not None
        lacking = range(len(self.score.shape), len(self.message.shape))
        return self.terms.reshape(self.terms.sum(message, tuple(lacking)), self.score.shape)

    def _values_to_save(self, roots: Sequence[Term]) -> list[Term]:
        """Choose the values that the kernel over out-edges loads instead of computing them.

        These are the largest subexpressions that are small and costly, and that depend on the
        destination or the edge.
        """
        depends: set[Term] = set()  # on the destination or the edge
        costly: set[Term] = set()
        for term in walk(roots):
            far = term.op == "leaf" and term.leaf.space in ("destination", "edge")
            if far or term.op == "keep" or any(i in depends for i in term.inputs):
                depends.add(term)
            if is_costly(term) or any(i in costly for i in term.inputs):
                costly.add(term)
        found: list[Term] = []
        stack, seen = list(roots), set[Term]()
        while stack:
            term = stack.pop()
            if term in seen or term not in depends or term.op == "leaf":
                continue
            seen.add(term)
            small = self._is_small(term) and term.kind == "float"
            if small and term in costly and term.op not in ("reshape", "expand"):
                found.append(term)
            else:
                stack.extend(term.inputs)
        order = {term: n for n, term in enumerate(walk(roots))}
        return sorted(found, key=lambda term: order[term])

    def _gradient_kernel(
        self,
        orientation: Orientation,
        found: Sequence[LeafCotangent],
        saves: Sequence[Save] = (),
        *,
        wide_positions: bool = False,
    ) -> Kernel:
        """Return the kernel that sums cotangents over edges into gradients of leaves."""
        updates, accumulators, gradients, all_saves = [], {}, {}, list(saves)
        offset = 0
        for c in found:
            leaf = c.leaf.leaf
            name = f"gradient_{leaf.name}"
            if leaf.space == "edge":
                array = Leaf("edge", name, self.storage, leaf.stride)
                shape = c.leaf.shape if c.index is None else c.leaf.shape[1:]
                several = c.index is not None or sum(o.leaf is c.leaf for o in found) > 1
                all_saves.append(Save(array, self.terms.expand(c.value, shape), c.index, several))
            elif leaf.space == "parameter":
                if leaf.name not in gradients:
                    gradients[leaf.name] = Gradient(leaf.name, c.leaf.shape, offset)
                    offset += c.leaf.size
                value, have, want = c.value, c.leaf.shape, gradients[leaf.name].shape
                if have != want:  # the same parameter in another shape
                    first = 0 if c.index is None else 1
                    value = self.terms.expand(value, have[first:])
                    value = self.terms.reshape(value, want[first:])
                updates.append(Update(leaf.name, value, c.index))
            else:
                accumulators[name] = Accumulator(name, c.leaf.shape)
                updates.append(Update(name, c.value, c.index))
        return self._kernel(
            orientation,
            [Pass(tuple(updates), tuple(all_saves))],
            list(accumulators.values()),
            gradients=list(gradients.values()),
            wide_positions=wide_positions,
        )

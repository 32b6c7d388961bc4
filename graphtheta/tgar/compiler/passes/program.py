"""Programs: the kernels of one layer's Gather and Sum, from its terms and its aggregator.

Forward is one kernel over in-edges. Backward is at most two: over in-edges for what destinations,
parameters and edge columns get, and over out-edges for what sources get. What is narrow and costly
(an attention coefficient, the cotangent of a score) the first saves for the second, a few numbers
an edge, instead of having it computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphtheta.tgar.chunked import EdgeInputs
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
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.lowering.lower import Lowered, Signature, lower
from graphtheta.tgar.compiler.operators.elementwise import is_costly
from graphtheta.tgar.compiler.passes.adjoint import LeafCotangent, cotangents
from graphtheta.tgar.compiler.passes.commute import commuted
from graphtheta.tgar.expression import Expression

__all__ = ["SCORE_LIMIT", "Backward", "Program", "program_of"]

SCORE_LIMIT = 16  # numbers an edge worth saving: a score or a cotangent a head


@dataclass(frozen=True)
class Backward:
    """The kernels of backward; either may be missing.

    Attributes:
        inwards: Over in-edges.
        outwards: Over out-edges.
        record: Numbers an edge that the first saves for the second.
        saved: What they are.
    """

    inwards: Kernel | None
    outwards: Kernel | None
    record: int
    saved: tuple[Term, ...]

    @property
    def reads(self) -> frozenset[str]:
        """Names of the leaves that either kernel loads."""
        kernels = [k for k in (self.inwards, self.outwards) if k is not None]
        return frozenset[str]().union(*(kernel.reads for kernel in kernels))


class Program:
    """The kernels of one `gather` under one aggregator.

    Args:
        lowered: The gather as terms.
        aggregator: A key of `AGGREGATORS`.
        self_loops: Whether the layer adds self-loops.
    """

    def __init__(self, lowered: Lowered, aggregator: str, *, self_loops: bool) -> None:
        self.lowered, self.aggregator, self.self_loops = lowered, aggregator, self_loops
        self.terms = lowered.terms
        self.storage = str(lowered.dtype).removeprefix("torch.")
        self.score = lowered.outputs[0] if aggregator == "softmax" else None
        self.message = lowered.outputs[-1]
        self.names: dict[Term, str] = {}  # of values that people have a word for
        self._forward: dict[Any, Kernel] = {}
        self._backward: dict[Any, Backward] = {}

    @property
    def score_size(self) -> int:
        """Numbers an edge that training keeps from forward to backward: a narrow score, or 0."""
        if self.score is None or not self._is_narrow(self.score):
            return 0
        return max(1, self.score.size)

    def _is_narrow(self, term: Term) -> bool:
        """Say whether a value an edge is worth saving: a number or so a head, not the message."""
        return term.size <= min(SCORE_LIMIT, max(1, self.message.size // 2))

    def _leaf(self, space: Space, name: str, shape: Shape, storage: str | None = None) -> Term:
        storage = storage or self.storage
        leaf = Leaf(space, name, storage, math.prod(shape))
        return self.terms.leaf(leaf, shape, "int" if storage == "int64" else "float")

    def _kernel(
        self,
        orientation: Orientation,
        passes: Sequence[Pass],
        accumulators: Sequence[Accumulator],
        outputs: Sequence[Output],
        gradients: Sequence[Gradient] = (),
        *,
        wide: bool = False,
    ) -> Kernel:
        kernel = Kernel(
            orientation,
            self.storage,
            tuple(passes),
            tuple(accumulators),
            tuple(outputs),
            tuple(gradients),
            self_loops=self.self_loops,
            wide_positions=wide,
        )
        return commuted(self.terms, kernel)

    # -- forward ----------------------------------------------------------------------------------

    def forward(self, *, save_score: bool, finish: bool) -> Kernel:
        """Return the kernel of Gather and Sum.

        Args:
            save_score: Whether a narrow score is written for backward.
            finish: Whether it gives the aggregated message, or a partial to be merged.
        """
        key = (save_score, finish)
        if key not in self._forward:
            self._forward[key] = self._make_forward(*key)
        return self._forward[key]

    def _make_forward(self, save_score: bool, finish: bool) -> Kernel:
        t, shape = self.terms, self.message.shape
        if self.score is None:
            how: Any = f"best_{self.aggregator}" if self.aggregator in ("max", "min") else "sum"
            value = self._leaf("row", "total", shape)
            if finish and self.aggregator == "mean":
                value = t.mul(value, self._leaf("destination", "share", ()))
            return self._kernel(
                "in",
                [Pass((Update("total", self.message),))],
                [Accumulator("total", shape, how)],
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
        outputs = [
            Output("total", narrow, total),
            Output("weighted", shape, weighted),
            Output("largest", narrow, largest),
        ]
        if finish:
            mean = t.mul(weighted, self._widened(self._reciprocal(total)))
            outputs = [Output("message", shape, mean), outputs[0], outputs[2]]
        passes = [Pass((Update("largest", self.score),), saves), Pass(updates)]
        return self._kernel("in", passes, accumulators, outputs)

    def kept(self, *, finish: bool) -> tuple[str, ...]:
        """Return which outputs of forward backward reads."""
        if self.aggregator in ("max", "min"):
            return ("total_winner",)
        if self.score is None:
            return ()
        return ("message", "total", "largest") if finish else ("largest",)

    def _reciprocal(self, total: Term) -> Term:
        """Return 1 / total, and 1 for a row that has no edge or is masked out."""
        t = self.terms
        positive = t.compare("gt", total, 0)
        missing = t.compare("ne", total, total)  # not-a-number stays
        safe = t.select(t.logical("or", positive, missing), total, 1)
        return t.div(1, safe)

    def _saved_score(self) -> Term:
        assert self.score is not None
        return self._leaf("edge", "score", self.score.shape)

    def _weight(self, score: Term, largest: Term) -> Term:
        """Return exp(score - largest); a row of which all is masked out has weights of 0."""
        t = self.terms
        empty = t.compare("eq", largest, -math.inf)
        return t.apply("exp", t.sub(score, t.select(empty, 0, largest)))

    def _widened(self, score: Term) -> Term:
        """Give a score a head the message's dimensions."""
        lacking = len(self.message.shape) - len(score.shape)
        return self.terms.reshape(score, (*score.shape, *(1,) * lacking))

    # -- backward ---------------------------------------------------------------------------------

    def backward(
        self, wanted: frozenset[str], *, saved_score: bool, finish: bool, wide: bool
    ) -> Backward:
        """Return the kernels that turn cotangents of the columns into those of the inputs.

        Args:
            wanted: Names of the leaves whose gradients are asked for.
            saved_score: Whether forward wrote the score.
            finish: Whether forward gave the aggregated message.
            wide: Whether CSC positions are int64.
        """
        key = (wanted, saved_score, finish, wide)
        if key not in self._backward:
            self._backward[key] = self._make_backward(*key)
        return self._backward[key]

    def _make_backward(
        self, wanted: frozenset[str], saved_score: bool, finish: bool, wide: bool
    ) -> Backward:
        found = self._cotangents(lambda term: term.leaf.name in wanted, saved_score, finish)
        outer = [c for c in found if c.leaf.leaf.space == "source"]
        inner = [c for c in found if c.leaf.leaf.space != "source"]
        roots = [c.value for c in outer] + [c.at for c in outer if c.at is not None]
        cuts = self._cuts(roots)
        record = sum(max(1, c.size) for c in cuts)
        places, saves, offset = {}, [], 0
        for cut in cuts:
            leaf = Leaf("edge", "record", self.storage, record, offset)
            places[cut] = self.terms.leaf(leaf, cut.shape)
            saves.append(Save(leaf, cut))
            offset += max(1, cut.size)
        inwards = self._inwards(inner, saves) if inner or saves else None
        return Backward(
            inwards,
            self._outwards(outer, places, wide) if outer else None,
            record,
            tuple(cuts),
        )

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
                upstream = t.mul(upstream, self._leaf("destination", "share", ()))
            return cotangents(t, [(self.message, upstream)], wanted)
        narrow = self.score.shape
        score = self._saved_score() if saved_score and self.score_size else self.score
        weight = self._weight(score, self._leaf("destination", "largest", narrow))
        if finish:
            # of_total = -<cotangent, result>: what the weights' normalisation takes back.
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
        values = t.substitute([c.value for c in found], {self.score: score})
        return [LeafCotangent(c.leaf, value, c.at) for c, value in zip(found, values, strict=True)]

    def _per_score(self, product: Term) -> Term:
        """Sum over the dimensions that the message has and the score lacks."""
        assert self.score is not None
        lacking = range(len(self.score.shape), len(self.message.shape))
        return self.terms.reshape(self.terms.sum(product, tuple(lacking)), self.score.shape)

    def _cuts(self, roots: Sequence[Term]) -> list[Term]:
        """Choose what the kernel over out-edges reads back instead of computing it."""
        depends: set[Term] = set()  # on the destination or the edge
        heavy: set[Term] = set()
        for term in walk(roots):
            far = term.op == "leaf" and term.leaf.space in ("destination", "edge")
            if far or term.op == "keep" or any(i in depends for i in term.inputs):
                depends.add(term)
            if is_costly(term) or any(i in heavy for i in term.inputs):
                heavy.add(term)
        cuts: list[Term] = []
        stack, seen = list(roots), set[Term]()
        while stack:
            term = stack.pop()
            if term in seen or term not in depends or term.op == "leaf":
                continue
            seen.add(term)
            narrow = self._is_narrow(term) and term.kind == "float"
            if narrow and term in heavy and term.op not in ("reshape", "expand"):
                cuts.append(term)
            else:
                stack.extend(term.inputs)
        order = {term: n for n, term in enumerate(walk(roots))}
        return sorted(cuts, key=lambda c: order[c])

    def _inwards(self, found: Sequence[LeafCotangent], saves: Sequence[Save]) -> Kernel:
        updates, accumulators, gradients, more = [], {}, {}, list(saves)
        offset = 0
        for c in found:
            leaf = c.leaf.leaf
            if leaf.space == "edge":
                where = Leaf("edge", f"gradient_{leaf.name}", self.storage, leaf.stride)
                shape = c.leaf.shape if c.at is None else c.leaf.shape[1:]
                several = c.at is not None or sum(o.leaf is c.leaf for o in found) > 1
                more.append(Save(where, self.terms.expand(c.value, shape), c.at, several))
                continue
            if leaf.space == "parameter":
                if leaf.name not in gradients:
                    gradients[leaf.name] = Gradient(leaf.name, c.leaf.shape, offset)
                    offset += c.leaf.size
                value, have, want = c.value, c.leaf.shape, gradients[leaf.name].shape
                if have != want:  # the same parameter in another shape
                    first = 0 if c.at is None else 1
                    value = self.terms.expand(value, have[first:])
                    value = self.terms.reshape(value, want[first:])
                updates.append(Update(leaf.name, value, c.at))
            else:
                accumulators[leaf.name] = Accumulator(f"gradient_{leaf.name}", c.leaf.shape)
                updates.append(Update(f"gradient_{leaf.name}", c.value, c.at))
        return self._kernel(
            "in",
            [Pass(tuple(updates), tuple(more))],
            list(accumulators.values()),
            self._as_collected(accumulators.values()),
            list(gradients.values()),
        )

    def _outwards(
        self, found: Sequence[LeafCotangent], places: dict[Term, Term], wide: bool
    ) -> Kernel:
        values = self.terms.substitute([c.value for c in found], places)
        updates, accumulators = [], {}
        for c, value in zip(found, values, strict=True):
            name = f"gradient_{c.leaf.leaf.name}"
            accumulators[name] = Accumulator(name, c.leaf.shape)
            updates.append(Update(name, value, c.at))
        return self._kernel(
            "out",
            [Pass(tuple(updates))],
            list(accumulators.values()),
            self._as_collected(accumulators.values()),
            wide=wide,
        )

    def _as_collected(self, accumulators: Iterable[Accumulator]) -> list[Output]:
        return [Output(a.name, a.shape, self._leaf("row", a.name, a.shape)) for a in accumulators]


def program_of(
    expression: Expression,
    inputs: EdgeInputs,
    aggregator: str,
    *,
    self_loops: bool,
    training: bool,
) -> Program | NotLowered:
    """Return the kernels of a traced gather for inputs of these types, or why there are none."""
    everything = inputs.flat()
    if any(t.device.type != "cpu" for t in everything):
        return NotLowered("kernels run on processors only")
    rows = [
        tuple((tuple(t.shape[1:]), t.dtype) for t in group)
        for group in (inputs.sources, inputs.destinations, inputs.columns)
    ]
    whole = tuple((tuple(t.shape), t.dtype) for t in inputs.parameters)
    try:
        lowered = lower(expression, Signature(rows[0], rows[1], whole, rows[2]), training=training)
        return Program(lowered, aggregator, self_loops=self_loops)
    except NotLowered as reason:
        return reason

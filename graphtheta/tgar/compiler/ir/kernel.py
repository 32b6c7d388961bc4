"""Kernels: what is computed for each row of nodes, still independent of machine code.

A kernel loops over rows, and over the edges of each row once per pass. `in` kernels loop over
destinations and their in-edges (CSC), `out` kernels over sources and their out-edges (CSR).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from graphtheta.tgar.compiler.ir.terms import BYTES, Leaf, Shape, Space, Term, walk

__all__ = ["Accumulator", "Gradient", "Kernel", "Orientation", "Output", "Pass", "Save", "Update"]

Orientation = Literal["in", "out"]
Reduction = Literal["sum", "max", "argmax", "argmin"]


def _sizes(roots: Iterable[Term]) -> dict[Leaf, int]:
    return {t.leaf: max(1, t.size) for t in walk(roots) if t.op == "leaf"}


@dataclass(frozen=True)
class Accumulator:
    """Reduction over the edges of a row.

    Attributes:
        name: Name of the `row` leaf that reads it.
        shape: Shape of one row.
        reduction: "sum"; "max", which propagates not-a-number; or "argmax" and "argmin", which
            also write the edge key of the winner, an int64, to the result `<name>_winner`.
    """

    name: str
    shape: Shape
    reduction: Reduction = "sum"

    @property
    def size(self) -> int:
        """Number of elements in a row."""
        return math.prod(self.shape)

    @property
    def has_winner(self) -> bool:
        """Whether the edge that gave the result is recorded."""
        return self.reduction in ("argmax", "argmin")


@dataclass(frozen=True)
class Output:
    """Value that is written for each row after its edges.

    Attributes:
        name: Name of the array, (rows, *shape).
        shape: Shape of one row.
        value: Function of accumulators and of the row's own leaves.
    """

    name: str
    shape: Shape
    value: Term


@dataclass(frozen=True)
class Gradient:
    """Gradient of a parameter, summed over the edges of a chunk.

    Attributes:
        leaf: Name of the parameter's leaf.
        shape: Shape of the parameter.
        offset: Position of its first element in the array that each chunk writes.
    """

    leaf: str
    shape: Shape
    offset: int


@dataclass(frozen=True)
class Update:
    """Value that each edge adds to an accumulator or a gradient.

    Attributes:
        target: Name of the accumulator, or of the parameter's leaf.
        value: Broadcasts to the target's shape, or to that of one of its rows.
        index: Row of the target that is updated, or None to update all of it.
    """

    target: str
    value: Term
    index: Term | None = None


@dataclass(frozen=True)
class Save:
    """Value that each edge writes to its own row of an array.

    Attributes:
        leaf: The array.
        value: What is written.
        index: Row within the edge's row, or None to write all of it.
        accumulate: Whether the value is added to what the array holds.
    """

    leaf: Leaf
    value: Term
    index: Term | None = None
    accumulate: bool = False


@dataclass(frozen=True)
class Pass:
    """Loop over the edges of a row."""

    updates: tuple[Update, ...] = ()
    saves: tuple[Save, ...] = ()

    def roots(self) -> Iterator[Term]:
        """Yield the terms that each edge evaluates."""
        writes: tuple[Update | Save, ...] = (*self.updates, *self.saves)
        for each in writes:
            yield each.value
            if each.index is not None:
                yield each.index


@dataclass(frozen=True, eq=False)
class Kernel:
    """Loop nest over rows and their edges; kernels with the same `text` have the same code.

    Attributes:
        orientation: "in" if a row has the in-edges of a destination, "out" if it has the out-edges
            of a source.
        storage: Type of arithmetic, float32 or float64.
        passes: Run one after the other for each row.
        accumulators: Results of the passes. A row that is cut into segments writes one partial
            result for each.
        outputs: Written once per whole row.
        gradients: Written once per chunk.
        moments: Accumulators that only `epilogue` reads; segments do not write them.
        epilogue: Updates of accumulators and gradients that a row or segment makes once, after
            its edges, unless it has none.
        self_loops: Whether the layer adds a self-loop to each row; the graph's own self-loops are
            then skipped.
        wide_positions: Whether CSC positions are int64 instead of int32 (`out` kernels).
        adds: Whether outputs are added to rows of the results, which the argument `rows` lists,
            instead of written to the row of the same number.
    """

    orientation: Orientation
    storage: str
    passes: tuple[Pass, ...]
    accumulators: tuple[Accumulator, ...]
    outputs: tuple[Output, ...]
    gradients: tuple[Gradient, ...] = ()
    moments: tuple[Accumulator, ...] = ()
    epilogue: tuple[Update, ...] = ()
    self_loops: bool = False
    wide_positions: bool = False
    adds: bool = False

    @cached_property
    def leaves(self) -> tuple[Term, ...]:
        """Inputs that the kernel loads."""
        return tuple(t for t in self.terms() if t.op == "leaf")

    @property
    def row_space(self) -> Space:
        """Space of the leaves that a row loads once."""
        return "destination" if self.orientation == "in" else "source"

    @property
    def other_space(self) -> Space:
        """Space of the leaves of the edge's other endpoint."""
        return "source" if self.orientation == "in" else "destination"

    @property
    def saves(self) -> tuple[Save, ...]:
        """What edges write, in all passes."""
        return tuple(save for each in self.passes for save in each.saves)

    @property
    def collected(self) -> tuple[Accumulator, ...]:
        """All accumulators, moments included."""
        return (*self.accumulators, *self.moments)

    @property
    def moment_values(self) -> tuple[Term, ...]:
        """Terms that each edge adds to moments."""
        names = {moment.name for moment in self.moments}
        return tuple(u.value for p in self.passes for u in p.updates if u.target in names)

    @property
    def gradient_size(self) -> int:
        """Number of elements that a chunk writes for parameters."""
        return sum(math.prod(g.shape) for g in self.gradients)

    def terms(self) -> list[Term]:
        """Return all terms, each after its operands."""
        passes = (root for each in self.passes for root in each.roots())
        return walk([*passes, *self.epilogue_terms(), *(o.value for o in self.outputs)])

    def epilogue_terms(self) -> list[Term]:
        """Return the terms that a row evaluates once, after its edges."""
        return [update.value for update in self.epilogue]

    def invariant(self, order: Iterable[Term]) -> set[Term]:
        """Return the loop-invariant terms: those that are the same for all edges of a row.

        Args:
            order: Terms, each after its operands.
        """
        found: set[Term] = set()
        for term in order:
            if term.op == "leaf":
                fixed = term.leaf.space in (self.row_space, "parameter", "row")
            else:
                fixed = term.op != "keep" and all(t in found for t in term.inputs)
            if fixed:
                found.add(term)
        return found

    @property
    def reads(self) -> frozenset[str]:
        """Names of the leaves that are loaded; a transposed parameter counts as the parameter."""
        return frozenset(t.leaf.name.removesuffix("^T") for t in self.leaves)

    @cached_property
    def reads_key(self) -> bool:
        """Whether edge keys are read: to draw dropout masks, or to record winners."""
        return any(a.has_winner for a in self.accumulators) or any(
            t.op == "keep" or (t.op == "leaf" and t.leaf.name == "key") for t in self.terms()
        )

    @cached_property
    def keep_calls(self) -> tuple[int, ...]:
        """Numbers of the layer's `keep` calls whose masks are drawn."""
        return tuple(t.detail[1] for t in self.terms() if t.op == "keep")

    @property
    def reads_edges(self) -> bool:
        """Whether arrays with a row per edge are read or written."""
        return bool(
            self.saves or self.reads_key or any(t.leaf.space == "edge" for t in self.leaves)
        )

    @property
    def transposes(self) -> set[str]:
        """Names of the leaves that load the transpose of a parameter."""
        return {t.leaf.name for t in self.leaves if t.leaf.name.endswith("^T")}

    def arguments(self) -> list[str]:
        """Return the names of the arrays that the kernel takes, in order."""
        names = ["counter", "sizes", "chunks", "indptr", "other"]
        if self.orientation == "out" and self.reads_edges:
            names.append("position")
        if self.reads_key:
            names += ["key", "node_key"]
        if self.keep_calls:
            names.append("draws")
        if self.adds:
            names.append("rows")
        for leaf in self.leaves:
            name = leaf.leaf.name
            if leaf.leaf.space == "row" or name == "key" or name in names:
                continue
            names.append(name)
            if leaf.leaf.has_mirrors:
                names.append(f"mirror_{name}")
            if self.self_loops and name.startswith("column"):
                names.append(f"loop_{name}")
        names += [f"out_{output.name}" for output in self.outputs]
        for accumulator in self.accumulators:
            names.append(f"partial_{accumulator.name}")
            if accumulator.has_winner:
                names += [f"out_{accumulator.name}_winner", f"partial_{accumulator.name}_winner"]
        names += dict.fromkeys(f"out_{save.leaf.name}" for save in self.saves)
        if self.gradients:
            names.append("gradients")
        return names

    def bytes_per_edge(self) -> int:
        """Return the bytes that are loaded and stored for each edge.

        These are indices, keys, edge columns, and the node fields of the other endpoint. A leaf
        that two passes read counts twice, although the second pass finds it in the cache.
        """
        positions = self.orientation == "out" and self.reads_edges
        total = 4 + (8 if self.wide_positions else 4) * positions + 8 * self.reads_key
        for each in self.passes:
            for leaf, size in _sizes(each.roots()).items():
                if leaf.space in (self.other_space, "edge") and leaf.name != "key":
                    total += size * BYTES[leaf.storage]
            total += sum(max(1, s.value.size) * BYTES[self.storage] for s in each.saves)
        return total

    def text(self) -> str:
        """Return a text that identifies the kernel, the same in every process."""
        order = {term: n for n, term in enumerate(self.terms())}
        lines = [
            f"{self.orientation} {self.storage} loops={self.self_loops}",
            f"wide={self.wide_positions} adds={self.adds}",
        ]
        for term, n in order.items():
            inputs = " ".join(f"%{order[i]}" for i in term.inputs)
            lines.append(f"%{n} = {term.op} {term.shape} {term.kind} [{inputs}] {term.detail}")
        for number, each in enumerate(self.passes):
            for u in each.updates:
                index = "" if u.index is None else f"[%{order[u.index]}]"
                lines.append(f"pass {number}: {u.target}{index} += %{order[u.value]}")
            for s in each.saves:
                index = "" if s.index is None else f"[%{order[s.index]}]"
                sign = "+=" if s.accumulate else "="
                lines.append(f"pass {number}: {s.leaf}{index} {sign} %{order[s.value]}")
        lines += [f"epilogue: {u.target} += %{order[u.value]}" for u in self.epilogue]
        lines += [f"{o.name} {o.shape} = %{order[o.value]}" for o in self.outputs]
        lines += [str(a) for a in (*self.accumulators, *self.moments, *self.gradients)]
        return "\n".join(lines)

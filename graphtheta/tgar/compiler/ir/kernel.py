"""Kernels: what one pass over the edges of each row computes, still without machine code.

A kernel goes over rows, and over the edges of a row once for each of its passes. `in` kernels go
over destinations and their in-edges (CSC), `out` kernels over sources and their out-edges (CSR).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from graphtheta.tgar.compiler.ir.terms import BYTES, Leaf, Shape, Space, Term, walk

__all__ = ["Accumulator", "Gradient", "Kernel", "Orientation", "Output", "Pass", "Save", "Update"]

Orientation = Literal["in", "out"]
How = Literal["sum", "max", "best_max", "best_min"]


def _sizes(roots: Iterable[Term]) -> dict[Leaf, int]:
    return {t.leaf: max(1, t.size) for t in walk(roots) if t.op == "leaf"}


@dataclass(frozen=True)
class Accumulator:
    """Numbers that a row collects from its edges.

    Attributes:
        name: Of the row leaf that reads it, and of the array that segments of a row write.
        shape: Of one row.
        how: sum; max, which keeps not-a-number; or best_max and best_min, which also write the
            edge_key of the winner to an array `<name>_winner`, int64.
    """

    name: str
    shape: Shape
    how: How = "sum"

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Output:
    """What is written of a row when it is done.

    Attributes:
        name: Of the array, (rows, *shape).
        shape: Of one row.
        value: Of accumulators and of what the row loads.
    """

    name: str
    shape: Shape
    value: Term


@dataclass(frozen=True)
class Gradient:
    """The gradient of a parameter, summed over the edges of a chunk.

    Attributes:
        leaf: Name of the parameter's leaf.
        shape: Of the parameter.
        offset: Where it starts among the numbers that each chunk writes.
    """

    leaf: str
    shape: Shape
    offset: int


@dataclass(frozen=True)
class Update:
    """What an edge adds to an accumulator or a gradient.

    Attributes:
        target: Name of an accumulator, or of a parameter's leaf.
        value: Broadcasts to its shape, or to that of a row of it.
        at: The row, or None for the whole.
    """

    target: str
    value: Term
    at: Term | None = None


@dataclass(frozen=True)
class Save:
    """What an edge writes to its own row of an array.

    Attributes:
        leaf: Where.
        value: What.
        at: Which row of the edge's row, or None for the whole.
        adds: Whether it is added to what stands there.
    """

    leaf: Leaf
    value: Term
    at: Term | None = None
    adds: bool = False


@dataclass(frozen=True)
class Pass:
    """One walk over the edges of a row."""

    updates: tuple[Update, ...] = ()
    saves: tuple[Save, ...] = ()

    def roots(self) -> Iterator[Term]:
        """Yield every term that is evaluated."""
        for update in self.updates:
            yield update.value
            if update.at is not None:
                yield update.at
        for save in self.saves:
            yield save.value
            if save.at is not None:
                yield save.at


@dataclass(frozen=True, eq=False)
class Kernel:
    """All that machine code is made of; kernels of one text give the same code.

    Attributes:
        orientation: Whose edges a row has.
        storage: Type of arithmetic, float32 or float64.
        passes: One after the other, for each row.
        accumulators: What a row collects; segments of a row write it as it is.
        outputs: What a whole row writes.
        gradients: Written at the end of a chunk.
        moments: What a row collects for `closing` alone; segments do not write it.
        closing: What a row or a segment that has edges adds, after the last, to accumulators and
            gradients.
        self_loops: Whether rows have a self-loop of the layer's own, and the graph's are skipped.
        wide_positions: Whether CSC positions are int64 (CSR kernels).
    """

    orientation: Orientation
    storage: str
    passes: tuple[Pass, ...]
    accumulators: tuple[Accumulator, ...]
    outputs: tuple[Output, ...]
    gradients: tuple[Gradient, ...] = ()
    moments: tuple[Accumulator, ...] = ()
    closing: tuple[Update, ...] = ()
    self_loops: bool = False
    wide_positions: bool = False
    leaves: tuple[Term, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = [t for t in self.terms() if t.op == "leaf"]
        object.__setattr__(self, "leaves", tuple(found))

    @property
    def row_space(self) -> Space:
        """What a row stands for."""
        return "destination" if self.orientation == "in" else "source"

    @property
    def collected(self) -> tuple[Accumulator, ...]:
        """All that a row collects."""
        return (*self.accumulators, *self.moments)

    @property
    def moment_values(self) -> tuple[Term, ...]:
        """What an edge adds to moments."""
        names = {moment.name for moment in self.moments}
        return tuple(u.value for p in self.passes for u in p.updates if u.target in names)

    @property
    def gradient_size(self) -> int:
        """Numbers that a chunk writes for parameters."""
        return sum(math.prod(g.shape) for g in self.gradients)

    def terms(self) -> list[Term]:
        """Return every term, operands first."""
        passes = (root for each in self.passes for root in each.roots())
        return walk([*passes, *self.at_end(), *(o.value for o in self.outputs)])

    def at_end(self) -> list[Term]:
        """Return what is added to accumulators and gradients after the edges."""
        return [update.value for update in self.closing]

    def invariant(self, order: Iterable[Term]) -> set[Term]:
        """Return which terms depend on the row alone.

        Args:
            order: Terms, operands before what reads them.
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
        """Names of the leaves that it loads; a parameter's, where it loads the transpose."""
        return frozenset(t.leaf.name.removesuffix("^T") for t in self.leaves)

    @property
    def reads_key(self) -> bool:
        """Whether edge keys are needed: for draws, or to tell winners."""
        best = any(a.how.startswith("best") for a in self.accumulators)
        return best or any(
            t.op == "keep" or (t.op == "leaf" and t.leaf.name == "key") for t in self.terms()
        )

    @cached_property
    def draw_calls(self) -> tuple[int, ...]:
        """Which of the layer's keep masks are drawn."""
        return tuple(t.detail[1] for t in self.terms() if t.op == "keep")

    @property
    def reads_edges(self) -> bool:
        """Whether anything is read or written by the edge's position."""
        saves = any(p.saves for p in self.passes)
        return saves or self.reads_key or any(t.leaf.space == "edge" for t in self.leaves)

    @property
    def transposes(self) -> set[str]:
        """Names of leaves that are the transpose of a parameter."""
        return {t.leaf.name for t in self.leaves if t.leaf.name.endswith("^T")}

    def arguments(self) -> list[str]:
        """Return the names of the arrays it takes, in order."""
        names = ["counter", "sizes", "chunks", "indptr", "other"]
        if self.orientation == "out" and self.reads_edges:
            names.append("position")
        if self.reads_key:
            names += ["key", "node_key"]
        if self.draw_calls:
            names.append("draws")
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
            names.append(f"side_{accumulator.name}")
            if accumulator.how.startswith("best"):
                names += [f"out_{accumulator.name}_winner", f"side_{accumulator.name}_winner"]
        for save in (s for p in self.passes for s in p.saves):
            if f"out_{save.leaf.name}" not in names:
                names.append(f"out_{save.leaf.name}")
        if self.gradients:
            names.append("gradients")
        return names

    def bytes_per_edge(self) -> int:
        """Return what an edge loads and stores: indices, keys, rows at its far end, columns.

        A leaf that two passes read counts twice, though the second finds it in the cache.
        """
        far = "source" if self.orientation == "in" else "destination"
        positions = self.orientation == "out" and self.reads_edges
        total = 4 + (8 if self.wide_positions else 4) * positions + 8 * self.reads_key
        for each in self.passes:
            for leaf, size in _sizes(each.roots()).items():
                if leaf.space in (far, "edge") and leaf.name != "key":
                    total += size * BYTES[leaf.storage]
            total += sum(max(1, s.value.size) * BYTES[self.storage] for s in each.saves)
        return total

    def text(self) -> str:
        """Return what tells kernels apart, in a form that is the same in every process."""
        order = {term: n for n, term in enumerate(self.terms())}
        lines = [
            f"{self.orientation} {self.storage} loops={self.self_loops} wide={self.wide_positions}"
        ]
        for term, n in order.items():
            inputs = " ".join(f"%{order[i]}" for i in term.inputs)
            lines.append(f"%{n} = {term.op} {term.shape} {term.kind} [{inputs}] {term.detail}")
        for number, each in enumerate(self.passes):
            for u in each.updates:
                at = "" if u.at is None else f" at %{order[u.at]}"
                lines.append(f"pass {number}: {u.target} += %{order[u.value]}{at}")
            for s in each.saves:
                at = "" if s.at is None else f" at %{order[s.at]}"
                lines.append(f"pass {number}: {s.leaf} {s.adds} %{order[s.value]}{at}")
        lines += [f"closing: {u.target} += %{order[u.value]}" for u in self.closing]
        lines += [f"{o.name} {o.shape} = %{order[o.value]}" for o in self.outputs]
        lines += [str(a) for a in (*self.accumulators, *self.moments, *self.gradients)]
        return "\n".join(lines)

"""Terms: the intermediate representation of what a kernel computes for one edge.

A term has the shape of one edge's value (without the leading dimension of edges), and broadcasts as
torch does, aligned at the right. Terms are interned: equal terms are the same object, so that
common subexpressions are found by identity. Derivatives are terms too, and one code generator
serves both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "BYTES",
    "LOOPS",
    "VIEWS",
    "Leaf",
    "Operand",
    "Shape",
    "Space",
    "Term",
    "TermFactory",
    "TermKind",
    "broadcast",
    "walk",
]

Shape = tuple[int, ...]
TermKind = Literal["float", "int", "bool"]
Space = Literal["source", "destination", "edge", "parameter", "row"]

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "bool": 1, "uint8": 1} | {
    f"int{n}": n // 8 for n in (8, 16, 32, 64)
}
VIEWS = frozenset({"leaf", "const", "reshape", "expand", "movedim", "lookup"})  # no arithmetic
LOOPS = frozenset({"sum", "contract", "keep"})  # operations that need a loop of their own


@dataclass(frozen=True)
class Leaf:
    """Input of an expression: numbers that a kernel loads.

    Attributes:
        space: What selects the row of the array that is loaded: the edge's source or destination,
            or the edge itself. A `parameter` is loaded as a whole. `row` is an accumulator of an
            earlier pass over the same row of the kernel.
        name: Name of the kernel's argument, or of the accumulator.
        storage: NumPy name of the dtype in memory.
        stride: Elements from one row of the array to the next.
        offset: First element of the row that belongs to the leaf.
    """

    space: Space
    name: str
    storage: str
    stride: int
    offset: int = 0

    @property
    def has_mirrors(self) -> bool:
        """Whether it is a node field, whose mirrors are in a second array."""
        return self.space in ("source", "destination") and self.name.startswith(self.space)


@dataclass(frozen=True, eq=False)
class Term:
    """One value per edge.

    Attributes:
        op: Name of an element-wise operator (a key of `OPERATORS`), or of an operation that
            `TermFactory` has a method for: leaf, const, keep, select, float, detach, reshape,
            expand, movedim, sum, contract, lookup or relate. No kernel computes the last.
        shape: Shape of one edge's value.
        kind: "float" (the dtype the kernel computes in), "int" (64 bits) or "bool".
        inputs: Operands.
        detail: Further arguments of the operation: a `Leaf`, a number, the axes of a sum, ...
    """

    op: str
    shape: Shape
    kind: TermKind
    inputs: tuple[Term, ...] = ()
    detail: Any = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def leaf(self) -> Leaf:
        """The `Leaf` of a term whose `op` is "leaf"."""
        assert isinstance(self.detail, Leaf)
        return self.detail

    def is_const(self, value: float) -> bool:
        """Return whether this is the constant `value`."""
        return self.op == "const" and bool(self.detail == value)

    def __repr__(self) -> str:
        if self.op == "leaf":
            return self.leaf.name
        if self.op == "const":
            return f"{self.detail:g}"
        inside = [repr(t) for t in self.inputs]
        if self.op not in ("reshape", "expand") and self.detail is not None:
            inside.append(str(self.detail))
        return f"{self.op}({', '.join(inside)})"


Operand = Term | float  # Python numbers become constants


def walk(roots: Iterable[Term]) -> list[Term]:
    """Return the terms that `roots` are made of, each once and after its operands."""
    order: list[Term] = []
    seen: set[Term] = set()
    stack = [(t, False) for t in reversed(list(roots))]
    while stack:
        term, ready = stack.pop()
        if ready:
            order.append(term)
        elif term not in seen:
            seen.add(term)
            stack.append((term, True))
            stack.extend((t, False) for t in reversed(term.inputs) if t not in seen)
    return order


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that `shapes` broadcast to.

    Raises:
        ValueError: If they do not broadcast.
    """
    dims = max(len(s) for s in shapes)
    out = []
    for sizes in zip(*((1,) * (dims - len(s)) + s for s in shapes), strict=True):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


class TermFactory:
    """Factory of interned terms: equal arguments give the same object."""

    def __init__(self) -> None:
        self._interned: dict[Any, Term] = {}

    def _make(
        self,
        op: str,
        shape: Shape,
        kind: TermKind,
        inputs: tuple[Term, ...] = (),
        detail: Any = None,
    ) -> Term:
        key = (op, shape, kind, tuple(map(id, inputs)), type(detail), detail)
        if key not in self._interned:
            self._interned[key] = Term(op, shape, kind, inputs, detail)
        return self._interned[key]

    # -- inputs and constants ---------------------------------------------------------------------

    def leaf(self, leaf: Leaf, shape: Shape, kind: TermKind = "float") -> Term:
        """Load an input."""
        return self._make("leaf", shape, kind, (), leaf)

    def const(self, value: float) -> Term:
        """Return a constant: a bool, or a float."""
        kind: TermKind = "bool" if isinstance(value, bool) else "float"
        return self._make("const", (), kind, (), value if kind == "bool" else float(value))

    def index(self, value: int) -> Term:
        """Return a constant integer, to select a row with."""
        return self._make("const", (), "int", (), value)

    def keep(self, p: float, heads: int | None, call: int) -> Term:
        """Return the factors of a dropout mask: 0, or 1 / (1 - p)."""
        shape = () if heads is None else (heads,)
        return self._make("keep", shape, "float", (), (float(p), call))

    # -- element-wise -----------------------------------------------------------------------------

    def as_float(self, x: Operand) -> Term:
        """Convert a number, an integer or a bool to a float."""
        term = x if isinstance(x, Term) else self.const(x)
        if term.kind == "float":
            return term
        return self._make("float", term.shape, "float", (term,))

    def apply(self, op: str, *operands: Operand, parameter: float | None = None) -> Term:
        """Apply an arithmetic operator to floats, with broadcasting.

        Args:
            op: A key of `OPERATORS`.
            operands: One for each of the operator's operands.
            parameter: Constant of operators that have one, such as the slope of `leaky_relu`.
        """
        inputs = tuple(map(self.as_float, operands))
        if op == "neg" and inputs[0].op == "neg":
            return inputs[0].inputs[0]
        if len(inputs) == 2:
            a, b = inputs
            if op in ("mul", "div") and b.is_const(1) and len(b.shape) <= len(a.shape):
                return a
            if op == "mul" and a.is_const(1):
                return b
            if op == "add" and b.is_const(0):
                return a
            if op == "mul":
                inputs = self._narrow_first(a, b)
        return self._make(op, broadcast(*(t.shape for t in inputs)), "float", inputs, parameter)

    def _narrow_first(self, a: Term, b: Term) -> tuple[Term, Term]:
        """Regroup factors: (narrow * wide) * narrow becomes (narrow * narrow) * wide.

        The narrow product is then computed once instead of for every element of the wide factor.
        """
        for product, factor in ((a, b), (b, a)):
            if product.op == "mul" and factor.size < product.size:
                for narrow, wide in (product.inputs, product.inputs[::-1]):
                    if narrow.size < product.size and wide.shape == product.shape:
                        return self.mul(narrow, factor), wide
        return a, b

    def neg(self, x: Operand) -> Term:
        """Return -x."""
        return self.apply("neg", x)

    def add(self, a: Operand, b: Operand) -> Term:
        """Return a + b."""
        return self.apply("add", a, b)

    def sub(self, a: Operand, b: Operand) -> Term:
        """Return a - b."""
        return self.apply("sub", a, b)

    def mul(self, a: Operand, b: Operand) -> Term:
        """Return a * b."""
        return self.apply("mul", a, b)

    def div(self, a: Operand, b: Operand) -> Term:
        """Return a / b."""
        return self.apply("div", a, b)

    def compare(self, op: str, a: Operand, b: Operand) -> Term:
        """Compare two floats or two integers, with broadcasting: lt, le, gt, ge, eq or ne."""
        a, b = (x if isinstance(x, Term) else self.const(x) for x in (a, b))
        if a.kind != b.kind:
            a, b = self.as_float(a), self.as_float(b)
        return self._make(op, broadcast(a.shape, b.shape), "bool", (a, b))

    def logical(self, op: str, *operands: Term) -> Term:
        """Combine bools, with broadcasting: and, or, not."""
        return self._make(op, broadcast(*(t.shape for t in operands)), "bool", operands)

    def select(self, condition: Term, a: Operand, b: Operand) -> Term:
        """Return a where the condition holds, and b elsewhere."""
        a, b = self.as_float(a), self.as_float(b)
        shape = broadcast(condition.shape, a.shape, b.shape)
        return self._make("select", shape, "float", (condition, a, b))

    def detach(self, x: Term) -> Term:
        """Return x without its gradient."""
        return self._make("detach", x.shape, x.kind, (x,))

    # -- shapes -----------------------------------------------------------------------------------

    def reshape(self, x: Term, shape: Shape) -> Term:
        """Return the same elements, in the same order, in another shape."""
        if x.shape == shape:
            return x
        if math.prod(shape) != x.size:
            raise ValueError(f"cannot reshape {x.shape} to {shape}")
        if x.op == "reshape":
            return self.reshape(x.inputs[0], shape)
        if x.op == "contract" and len(x.inputs[1].shape) == 1:
            weight, vector = x.inputs
            return self.contract(self.leaf(weight.leaf, (*vector.shape, *shape)), vector)
        return self._make("reshape", shape, x.kind, (x,))

    def expand(self, x: Term, shape: Shape) -> Term:
        """Repeat along dimensions of size one, and along new leading dimensions."""
        if x.shape == shape:
            return x
        return self._make("expand", broadcast(x.shape, shape), x.kind, (x,))

    def last_to_front(self, x: Term) -> Term:
        """Move the last dimension to the front: (..., 1, A) -> (A, ..., 1)."""
        if x.shape[-2:-1] != (1,):
            raise ValueError(f"cannot move the last dimension of {x.shape} to the front")
        return self._make("movedim", (x.shape[-1], *x.shape[:-1]), x.kind, (x,))

    # -- sums, products and lookups ---------------------------------------------------------------

    def sum(self, x: Term, axes: Sequence[int]) -> Term:
        """Sum over `axes`, which remain as dimensions of size one."""
        x = self.as_float(x)
        axes = tuple(sorted(a for a in axes if x.shape[a] != 1))
        if not axes:
            return x
        shape = tuple(1 if n in axes else size for n, size in enumerate(x.shape))
        return self._make("sum", shape, "float", (x,), axes)

    def contract(self, weight: Term, x: Term) -> Term:
        """Multiply the last dimension of x by a parameter: (A, O), (..., A) -> (..., O).

        If x is a vector, the result may have any shape: (A, ...), (A,) -> (...).
        """
        plain = len(weight.shape) == 2 or len(x.shape) == 1
        if weight.op != "leaf" or weight.shape[:1] != x.shape[-1:] or not plain:
            raise ValueError(f"cannot multiply {x.shape} by {weight.shape}")
        shape = (*x.shape[:-1], *weight.shape[1:])
        return self._make("contract", shape, "float", (weight, self.as_float(x)))

    def transpose(self, weight: Term) -> Term:
        """Return the leaf of a parameter's transpose: (A, O) or (A, ...) -> (O, A)."""
        leaf = weight.leaf
        name = leaf.name.removesuffix("^T") if leaf.name.endswith("^T") else leaf.name + "^T"
        shape = (math.prod(weight.shape[1:]), weight.shape[0])
        return self.leaf(Leaf(leaf.space, name, leaf.storage, leaf.stride), shape)

    def lookup(self, table: Term, index: Term) -> Term:
        """Select a row of a leaf by an integer: (T, ...), () -> (...)."""
        if table.op != "leaf" or index.kind != "int" or index.size != 1 or not table.shape:
            raise ValueError(f"cannot select rows of {table.shape} by {index.kind} {index.shape}")
        index = self.reshape(index, ())
        return self._make("lookup", table.shape[1:], table.kind, (table, index))

    def relate(self, table: Term, index: Term, x: Term) -> Term:
        """Multiply x by the matrix that an integer selects: (T, A, O), (), (A,) -> (O,).

        x may be several vectors, and each index then selects as many matrices: (T, ..., A, O), (),
        (..., A) -> (..., O). No kernel computes it for each edge; it is computed for each pair of
        a node and an index.
        """
        if table.op != "leaf" or table.shape[1:-1] != x.shape or index.size != 1:
            raise ValueError(f"cannot multiply {x.shape} by matrices of {table.shape}")
        inputs = (table, self.reshape(index, ()), self.as_float(x))
        return self._make("relate", (*x.shape[:-1], table.shape[-1]), "float", inputs)

    # -- rewriting --------------------------------------------------------------------------------

    def with_inputs(self, term: Term, inputs: tuple[Term, ...]) -> Term:
        """Return the same operation on other operands of the same shapes."""
        if inputs == term.inputs:
            return term
        return self._make(term.op, term.shape, term.kind, inputs, term.detail)

    def substitute(self, roots: Sequence[Term], replacements: Mapping[Term, Term]) -> list[Term]:
        """Return `roots` with some of the terms that they are made of replaced."""
        done: dict[Term, Term] = dict(replacements)
        for term in walk(roots):
            if term not in done:
                done[term] = self.with_inputs(term, tuple(done[t] for t in term.inputs))
        return [done[t] for t in roots]

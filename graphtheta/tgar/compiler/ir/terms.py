"""Terms: the value of a traced `gather` for one edge, as arithmetic that a kernel can be made of.

A term has the shape of one edge's value (the leading dimension of edges is gone), and broadcasts
as torch does, aligned at the right. Terms are interned: equal ones are the same object, so that
common sub-expressions are found by identity. Differentiating terms yields terms again, and one
emitter turns both into machine code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "BINARY",
    "BYTES",
    "COMPARE",
    "UNARY",
    "Leaf",
    "Shape",
    "Space",
    "Term",
    "TermKind",
    "Terms",
    "broadcast",
    "walk",
]

Shape = tuple[int, ...]
TermKind = Literal["float", "int", "bool"]
Space = Literal["source", "destination", "edge", "parameter", "row"]

UNARY = frozenset(
    {
        "neg", "exp", "log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "abs", "relu",
        "leaky_relu", "elu", "not", "float", "detach",
    }
)  # fmt: skip
BINARY = frozenset({"add", "sub", "mul", "div", "max", "min", "and", "or"})
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "bool": 1, "uint8": 1} | {
    f"int{n}": n // 8 for n in (8, 16, 32, 64)
}
COMPARE = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})


@dataclass(frozen=True)
class Leaf:
    """Numbers that a kernel loads.

    Attributes:
        space: What a row of the array stands for; `row` is an accumulator of an earlier pass over
            the same row of the kernel.
        name: The kernel's argument (or accumulator).
        storage: NumPy name of the type in memory.
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
        """Whether it is a field of nodes: the mirrors' rows are in an array of their own."""
        return self.space in ("source", "destination") and self.name.startswith(self.space)


@dataclass(frozen=True, eq=False)
class Term:
    """One value an edge.

    Attributes:
        op: leaf, const, keep, select, reshape, expand, turn, sum, contract, take, or a key of
            `UNARY`, `BINARY` or `COMPARE`.
        shape: Of one edge's value.
        kind: float (the type the kernel computes in), int (64 bits) or bool.
        inputs: Operands.
        detail: What else the operation needs: a `Leaf`, a number, the axes of a sum, ...
    """

    op: str
    shape: Shape
    kind: TermKind
    inputs: tuple[Term, ...] = ()
    detail: Any = None

    @property
    def size(self) -> int:
        """Numbers in the value."""
        return math.prod(self.shape)

    @property
    def leaf(self) -> Leaf:
        """The leaf that this term is."""
        assert isinstance(self.detail, Leaf)
        return self.detail

    def is_const(self, value: float) -> bool:
        """Say whether this is the number `value`."""
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


def walk(roots: Iterable[Term]) -> list[Term]:
    """Return every term below `roots`, operands before what reads them, each once."""
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
        ValueError: If they do not.
    """
    rank = max(len(s) for s in shapes)
    out = []
    for sizes in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


class Terms:
    """Makes terms; equal arguments give the same object."""

    def __init__(self) -> None:
        self._made: dict[Any, Term] = {}

    def _make(
        self,
        op: str,
        shape: Shape,
        kind: TermKind,
        inputs: tuple[Term, ...] = (),
        detail: Any = None,
    ) -> Term:
        key = (op, shape, kind, tuple(map(id, inputs)), type(detail), detail)
        if key not in self._made:
            self._made[key] = Term(op, shape, kind, inputs, detail)
        return self._made[key]

    def leaf(self, leaf: Leaf, shape: Shape, kind: TermKind = "float") -> Term:
        """Return what a kernel loads."""
        return self._make("leaf", shape, kind, (), leaf)

    def const(self, value: float) -> Term:
        """Return a number."""
        kind: TermKind = "bool" if isinstance(value, bool) else "float"
        return self._make("const", (), kind, (), value if kind == "bool" else float(value))

    def index(self, value: int) -> Term:
        """Return a whole number, to select by."""
        return self._make("const", (), "int", (), value)

    def keep(self, p: float, heads: int | None, call: int) -> Term:
        """Return a keep mask's factors: 0 or 1 / (1 - p)."""
        shape = () if heads is None else (heads,)
        return self._make("keep", shape, "float", (), (float(p), call))

    def unary(self, op: str, x: Term, parameter: float | None = None) -> Term:
        """Apply a key of `UNARY`; `leaky_relu` and `elu` have a parameter."""
        if op == "neg" and x.op == "neg":
            return x.inputs[0]
        if op == "float" and x.kind == "float":
            return x
        if op not in ("not", "float", "detach"):
            x = self.as_float(x)
        kind: TermKind = "bool" if op == "not" else x.kind if op == "detach" else "float"
        return self._make(op, x.shape, kind, (x,), parameter)

    def as_float(self, x: Term) -> Term:
        """Convert whole numbers and truth values."""
        return x if x.kind == "float" else self._make("float", x.shape, "float", (x,))

    def binary(self, op: str, a: Term, b: Term) -> Term:
        """Apply a key of `BINARY`, with broadcasting."""
        if op in ("and", "or"):
            return self._make(op, broadcast(a.shape, b.shape), "bool", (a, b))
        a, b = self.as_float(a), self.as_float(b)
        if op in ("mul", "div") and b.is_const(1) and len(b.shape) <= len(a.shape):
            return a
        if op == "mul" and a.is_const(1):
            return b
        if op == "add" and b.is_const(0):
            return a
        if op == "mul":
            a, b = self._narrow_first(a, b)
        return self._make(op, broadcast(a.shape, b.shape), "float", (a, b))

    def _narrow_first(self, a: Term, b: Term) -> tuple[Term, Term]:
        """Group factors: (narrow * wide) * narrow becomes (narrow * narrow) * wide.

        The product of what is narrow is computed once, not for every number of the wide one.
        """
        for product, factor in ((a, b), (b, a)):
            if product.op == "mul" and factor.size < product.size:
                for narrow, wide in (product.inputs, product.inputs[::-1]):
                    if narrow.size < product.size and wide.shape == product.shape:
                        return self.mul(narrow, factor), wide
        return a, b

    def add(self, a: Term, b: Term) -> Term:
        """Return a + b."""
        return self.binary("add", a, b)

    def mul(self, a: Term, b: Term) -> Term:
        """Return a * b."""
        return self.binary("mul", a, b)

    def compare(self, op: str, a: Term, b: Term) -> Term:
        """Apply a key of `COMPARE`, with broadcasting."""
        if a.kind != b.kind:
            a, b = self.as_float(a), self.as_float(b)
        return self._make(op, broadcast(a.shape, b.shape), "bool", (a, b))

    def select(self, condition: Term, a: Term, b: Term) -> Term:
        """Return a where the condition holds, b elsewhere."""
        a, b = self.as_float(a), self.as_float(b)
        shape = broadcast(condition.shape, a.shape, b.shape)
        return self._make("select", shape, "float", (condition, a, b))

    def reshape(self, x: Term, shape: Shape) -> Term:
        """Give the same numbers, in the same order, another shape."""
        if x.shape == shape:
            return x
        if math.prod(shape) != x.size:
            raise ValueError(f"{x.shape} has not the size of {shape}")
        if x.op == "reshape":
            return self.reshape(x.inputs[0], shape)
        if x.op == "contract" and len(x.inputs[1].shape) == 1:
            weight, vector = x.inputs
            return self.contract(self.leaf(weight.leaf, (*vector.shape, *shape)), vector)
        return self._make("reshape", shape, x.kind, (x,))

    def rebuilt(self, term: Term, inputs: tuple[Term, ...]) -> Term:
        """Return the same operation on other operands of the same shapes."""
        return self._make(term.op, term.shape, term.kind, inputs, term.detail)

    def replaced(self, roots: Sequence[Term], by: Mapping[Term, Term]) -> list[Term]:
        """Return `roots` with some of the values below them replaced."""
        done: dict[Term, Term] = dict(by)
        for term in walk(roots):
            if term not in done:
                inputs = tuple(done[t] for t in term.inputs)
                done[term] = term if inputs == term.inputs else self.rebuilt(term, inputs)
        return [done[t] for t in roots]

    def expand(self, x: Term, shape: Shape) -> Term:
        """Repeat along dimensions of size one, and along new leading ones."""
        if x.shape == shape:
            return x
        return self._make("expand", broadcast(x.shape, shape), x.kind, (x,))

    def turn(self, x: Term) -> Term:
        """Move the last dimension to the front: (..., 1, A) -> (A, ..., 1)."""
        if x.shape[-2:-1] != (1,):
            raise ValueError(f"cannot turn {x.shape}")
        return self._make("turn", (x.shape[-1], *x.shape[:-1]), x.kind, (x,))

    def sum(self, x: Term, axes: Sequence[int]) -> Term:
        """Sum over `axes`, which stay as dimensions of size one."""
        x = self.as_float(x)
        axes = tuple(sorted(a for a in axes if x.shape[a] != 1))
        if not axes:
            return x
        shape = tuple(1 if n in axes else size for n, size in enumerate(x.shape))
        return self._make("sum", shape, "float", (x,), axes)

    def contract(self, weight: Term, x: Term) -> Term:
        """Multiply the last dimension of x by a parameter: (A, O), (..., A) -> (..., O).

        Of a vector the result may have any shape: (A, ...), (A,) -> (...).
        """
        plain = len(weight.shape) == 2 or len(x.shape) == 1
        if weight.op != "leaf" or weight.shape[:1] != x.shape[-1:] or not plain:
            raise ValueError(f"cannot multiply {x.shape} by {weight.shape}")
        shape = (*x.shape[:-1], *weight.shape[1:])
        return self._make("contract", shape, "float", (weight, self.as_float(x)))

    def take(self, table: Term, index: Term) -> Term:
        """Select a row of a leaf by a whole number: (T, ...), () -> (...)."""
        if table.op != "leaf" or index.kind != "int" or index.size != 1 or not table.shape:
            raise ValueError(f"cannot select rows of {table.shape} by {index.kind} {index.shape}")
        index = self.reshape(index, ())
        return self._make("take", table.shape[1:], table.kind, (table, index))

"""What lowering works with: values that may differ by edge, and parameters laid out anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphtheta.tgar.compiler.ir import terms as T
from graphtheta.tgar.compiler.ir.terms import Shape, Space, Term, TermKind, Terms

__all__ = ["Derive", "Lowering", "NotLowered", "Value", "axis_of", "number"]

Derive = Callable[[Sequence[Tensor]], Tensor]


class NotLowered(Exception):
    """A `gather` that no kernel can be made of; its text says why."""


@dataclass(frozen=True)
class Value:
    """A term, and whether it has a value an edge or is the same for all."""

    term: Term
    rows: bool

    @property
    def dims(self) -> int:
        """Dimensions of the torch tensor."""
        return len(self.term.shape) + self.rows


_STORAGE: dict[torch.dtype, tuple[str, TermKind]] = {
    torch.float32: ("float32", "float"),
    torch.float64: ("float64", "float"),
    torch.bfloat16: ("bfloat16", "float"),
    torch.int8: ("int8", "int"),
    torch.uint8: ("uint8", "int"),
    torch.int16: ("int16", "int"),
    torch.int32: ("int32", "int"),
    torch.int64: ("int64", "int"),
    torch.bool: ("bool", "bool"),
}


class Lowering:
    """One lowering under way: what the rules make terms with.

    Args:
        types: Of everything that enters, which settle the type of arithmetic.

    Attributes:
        terms: Maker of the terms.
        dtype: Type that kernels compute in.
        derived: How torch makes each parameter argument.
        layouts: By name of a parameter argument that is another laid out anew, that other.
        folded: What was folded or laid out anew, in words.
    """

    def __init__(self, types: Iterable[torch.dtype]) -> None:
        self.terms = Terms()
        self.derived: list[Derive] = []
        self.layouts: dict[str, str] = {}
        self.folded: list[str] = []
        floats = {d for d in types if d.is_floating_point}
        if floats <= {torch.float32, torch.bfloat16}:
            self.dtype = torch.float32
        elif floats == {torch.float64}:
            self.dtype = torch.float64
        else:
            raise NotLowered(f"it mixes {', '.join(sorted(map(str, floats)))}")

    def leaf(self, space: Space, name: str, shape: Shape, dtype: torch.dtype) -> Term:
        """Return what is loaded from an argument."""
        if dtype not in _STORAGE:
            raise NotLowered(f"it reads {dtype}")
        storage, kind = _STORAGE[dtype]
        return self.terms.leaf(T.Leaf(space, name, storage, math.prod(shape)), shape, kind)

    def derive(self, how: Derive, shape: Shape, dtype: torch.dtype) -> Term:
        """Return the leaf of a parameter argument that torch makes by `how`."""
        self.derived.append(how)
        return self.leaf("parameter", f"parameter{len(self.derived) - 1}", shape, dtype)

    def derivation(self, parameter: Term) -> Derive:
        """Return how torch makes a parameter argument."""
        return self.derived[int(parameter.leaf.name.removeprefix("parameter"))]

    def transposed(self, weight: Term) -> Term:
        """Return a parameter's transpose as an argument of its own: the layout kernels want."""
        make, name = self.derivation(weight), weight.leaf.name
        result = self.derive(lambda given: make(given).t(), weight.shape[::-1], self.dtype)
        self.layouts[result.leaf.name] = self.layouts.get(name, name)
        return result

    def aligned(self, *items: Any) -> tuple[list[Term], bool]:
        """Return terms that broadcast to one another as torch's tensors do."""
        found = [number(self, v) for v in items]
        rows = any(v.rows for v in found)
        dims = max((v.dims for v in found if v.rows), default=0)
        out = []
        for value in found:
            term = value.term
            if value.rows and value.dims != dims:
                raise NotLowered(f"values of {value.dims} and {dims} dimensions do not align")
            if rows and not value.rows and value.dims >= dims:
                lead = value.dims - dims + 1
                if value.dims > dims or term.shape[:lead] != (1,) * lead:
                    raise NotLowered("a parameter stands where edges are counted")
                term = self.terms.reshape(term, term.shape[1:])
            out.append(term)
        return out, rows


def number(low: Lowering, item: Any) -> Value:
    """Return an argument as a value; Python's numbers become constants."""
    if isinstance(item, Value):
        return item
    if isinstance(item, bool | int | float):
        return Value(low.terms.const(item), False)
    raise NotLowered(f"it takes {type(item).__name__}")


def axis_of(value: Value, dim: Any) -> int:
    """Return which axis of the term a torch dimension is."""
    if not isinstance(dim, int):
        raise NotLowered(f"dimension {dim}")
    axis = dim % value.dims - int(value.rows)
    if axis < 0:
        raise NotLowered("it works along the edges")
    return int(axis)

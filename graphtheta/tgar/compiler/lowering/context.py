"""State of a lowering: values that may differ per edge, and parameters that torch prepares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphtheta.tgar.compiler.ir.terms import Leaf, Shape, Space, Term, TermFactory, TermKind

__all__ = ["LoweringContext", "MakeParameter", "NotLowered", "Value", "as_value", "axis_of"]

MakeParameter = Callable[[Sequence[Tensor]], Tensor]  # from the parameters of the expression


class NotLowered(Exception):
    """A `gather` that cannot be compiled; the text is the reason."""


@dataclass(frozen=True)
class Value:
    """Term that stands for a torch tensor.

    Attributes:
        term: Its value for one edge.
        per_edge: Whether the tensor has a leading dimension of edges; otherwise it is the same for
            all edges.
    """

    term: Term
    per_edge: bool

    @property
    def dims(self) -> int:
        """Number of dimensions of the torch tensor."""
        return len(self.term.shape) + self.per_edge


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


class LoweringContext:
    """State of one lowering, which the rules take as their first argument.

    Args:
        dtypes: Types of all inputs, which determine the type of arithmetic.

    Attributes:
        terms: Factory of the terms.
        dtype: Type that kernels compute in.
        makers: How torch computes each parameter argument, by name.
        layouts: By name of a parameter argument that is another in a different layout, the name
            of that other.
        folded: Descriptions of the products that were folded.
    """

    def __init__(self, dtypes: Iterable[torch.dtype]) -> None:
        self.terms = TermFactory()
        self.layouts: dict[str, str] = {}
        self.folded: list[str] = []
        self.makers: dict[str, MakeParameter] = {}
        floats = {d for d in dtypes if d.is_floating_point}
        if floats <= {torch.float32, torch.bfloat16}:
            self.dtype = torch.float32
        elif floats == {torch.float64}:
            self.dtype = torch.float64
        else:
            raise NotLowered(f"its inputs mix {', '.join(sorted(map(str, floats)))}")

    def leaf(self, space: Space, name: str, shape: Shape, dtype: torch.dtype) -> Term:
        """Return the term that loads an argument."""
        if dtype not in _STORAGE:
            raise NotLowered(f"{dtype} is not supported")
        storage, kind = _STORAGE[dtype]
        return self.terms.leaf(Leaf(space, name, storage, math.prod(shape)), shape, kind)

    def parameter(self, make: MakeParameter, shape: Shape, dtype: torch.dtype) -> Term:
        """Return the leaf of a new parameter argument, which torch computes with `make`."""
        name = f"parameter{len(self.makers)}"
        self.makers[name] = make
        return self.leaf("parameter", name, shape, dtype)

    def transposed(self, weight: Term) -> Term:
        """Return a parameter's transpose, the layout that kernels want, as a new argument."""
        name = weight.leaf.name
        make = self.makers[name]
        result = self.parameter(lambda given: make(given).t(), weight.shape[::-1], self.dtype)
        self.layouts[result.leaf.name] = self.layouts.get(name, name)
        return result

    def aligned(self, *items: Any) -> tuple[list[Term], bool]:
        """Return terms that broadcast to one another as torch's tensors do.

        Args:
            items: Values and Python numbers.

        Returns:
            The terms, and whether any of the values is per edge.
        """
        values = [as_value(self, v) for v in items]
        per_edge = any(v.per_edge for v in values)
        dims = max((v.dims for v in values if v.per_edge), default=0)
        terms = []
        for value in values:
            term = value.term
            if value.per_edge and value.dims != dims:
                raise NotLowered(f"values of {value.dims} and {dims} dimensions do not broadcast")
            if per_edge and not value.per_edge and value.dims >= dims:
                lead = value.dims - dims + 1
                if value.dims > dims or term.shape[:lead] != (1,) * lead:
                    raise NotLowered("a parameter lies along the dimension of edges")
                term = self.terms.reshape(term, term.shape[1:])
            terms.append(term)
        return terms, per_edge


def as_value(ctx: LoweringContext, item: Any) -> Value:
    """Return an argument of a torch call as a value; Python numbers become constants."""
    if isinstance(item, Value):
        return item
    if isinstance(item, bool | int | float):
        return Value(ctx.terms.const(item), False)
    raise NotLowered(f"an argument of type {type(item).__name__} is not supported")


def axis_of(value: Value, dim: Any) -> int:
    """Return the axis of the term that is dimension `dim` of the torch tensor."""
    if not isinstance(dim, int):
        raise NotLowered(f"dimension {dim} is not supported")
    axis = dim % value.dims - int(value.per_edge)
    if axis < 0:
        raise NotLowered("it works along the dimension of edges")
    return int(axis)

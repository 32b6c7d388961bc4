"""Lowering: a traced `gather` becomes terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphtheta.tgar.compiler.ir.terms import Shape, Space, Term, Terms, walk
from graphtheta.tgar.compiler.lowering.context import Derive, Lowering, NotLowered, Value
from graphtheta.tgar.compiler.lowering.rules import RULES
from graphtheta.tgar.expression import Expression, Operation, Ref, map_structure

__all__ = ["Lowered", "Signature", "lower"]

_WIDEST = 1 << 14


@dataclass(frozen=True)
class Signature:
    """Types of what enters on edges, grouped as `Expression` names them.

    Attributes:
        sources: (shape of a row, dtype) of each.
        destinations: The same.
        parameters: (whole shape, dtype) of each.
        columns: (shape of a row, dtype) of each edge column.
    """

    sources: tuple[tuple[Shape, torch.dtype], ...]
    destinations: tuple[tuple[Shape, torch.dtype], ...]
    parameters: tuple[tuple[Shape, torch.dtype], ...]
    columns: tuple[tuple[Shape, torch.dtype], ...]


@dataclass(frozen=True)
class Lowered:
    """A `gather` as terms.

    Attributes:
        terms: Their maker.
        dtype: Type that kernels compute in.
        outputs: (message,) or (score, message).
        parameters: By name of a leaf, how torch makes it from the expression's parameters.
        layouts: By name of a leaf that is another parameter laid out anew, that other.
        folded: What was folded, in words.
    """

    terms: Terms
    dtype: torch.dtype
    outputs: tuple[Term, ...]
    parameters: Mapping[str, Derive]
    layouts: Mapping[str, str]
    folded: tuple[str, ...]


def lower(expression: Expression, signature: Signature, *, training: bool) -> Lowered:
    """Turn a traced `gather` into terms.

    Args:
        expression: What was traced.
        signature: Types of its inputs.
        training: Whether keep masks are drawn; they are ones otherwise.

    Raises:
        NotLowered: If a call, a type or a shape has no kernel.
    """
    every = (*signature.sources, *signature.destinations, *signature.columns)
    low = Lowering(dtype for _, dtype in (*every, *signature.parameters))
    values: dict[int, Value] = {}
    given: tuple[tuple[Sequence[int], Space, str, Any], ...] = (
        (expression.sources, "source", "source", signature.sources),
        (expression.destinations, "destination", "destination", signature.destinations),
        ([i for i, _ in expression.edge_columns], "edge", "column", signature.columns),
    )
    for indices, space, name, types in given:
        for n, (i, (shape, dtype)) in enumerate(zip(indices, types, strict=True)):
            values[i] = Value(low.leaf(space, f"{name}{n}", shape, dtype), True)
    for i, (shape, dtype) in zip(expression.parameters, signature.parameters, strict=True):
        values[i] = Value(low.derive(_pick(len(low.derived)), shape, dtype), False)
    for i, spec in expression.keeps:
        if training and spec.p > 0:
            values[i] = Value(low.terms.keep(spec.p, spec.heads, spec.call), True)
        else:
            one = low.terms.const(1)
            shape = () if spec.heads is None else (spec.heads,)
            values[i] = Value(low.terms.expand(one, shape), True)
    for i in expression.edge_order:
        if i not in values:
            node = expression.nodes[i]
            assert isinstance(node, Operation)
            values[i] = _called(low, node, values)
    outputs = []
    for i in expression.outputs:
        term = values[i].term
        if not values[i].rows:
            raise NotLowered("its message is the same for every edge")
        outputs.append(low.terms.as_float(term))
    widest = max(t.size for t in walk(outputs))
    if widest > _WIDEST:
        raise NotLowered(f"a value of {widest:,} numbers an edge is too wide for a kernel's stack")
    leaves = [t.leaf.name for t in walk(outputs) if t.op == "leaf" if t.leaf.space == "parameter"]
    parameters = {f"parameter{n}": how for n, how in enumerate(low.derived)}
    return Lowered(
        low.terms,
        low.dtype,
        tuple(outputs),
        {name: parameters[name] for name in leaves},
        low.layouts,
        tuple(low.folded),
    )


def _pick(index: int) -> Derive:
    return lambda given: given[index]


def _called(low: Lowering, node: Operation, values: Mapping[int, Value]) -> Value:
    def read(item: Any) -> Any:
        if isinstance(item, Ref):
            return values[item.index]
        if isinstance(item, Tensor):
            raise NotLowered("it uses a constant tensor")
        return item

    name = getattr(node.function, "__name__", str(node.function))
    rule = RULES.get(name)
    if rule is None:
        raise NotLowered(f"{name}() has no kernel")
    args = map_structure(node.args, read)
    kwargs = map_structure(dict(node.kwargs), read)
    try:
        return rule(low, *args, **kwargs)
    except NotLowered as error:
        raise NotLowered(f"{name}(): {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise NotLowered(f"{name}() with these arguments has no kernel ({error})") from None

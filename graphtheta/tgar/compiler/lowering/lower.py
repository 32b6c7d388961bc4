"""Lowering: turn a traced `gather` into terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from graphtheta.tgar.compiler.ir.terms import Shape, Space, Term, TermFactory, walk
from graphtheta.tgar.compiler.lowering.context import (
    LoweringContext,
    MakeParameter,
    NotLowered,
    Value,
)
from graphtheta.tgar.compiler.lowering.rules import rule_of
from graphtheta.tgar.expression import Expression, Operation, Ref, map_structure

__all__ = ["Lowered", "Signature", "lower"]

_MAX_SIZE = 1 << 14  # elements of a value per edge: buffers are on the kernel's stack


@dataclass(frozen=True)
class Signature:
    """Shapes and types of the inputs of an `Expression`, grouped as it groups them.

    Attributes:
        sources: (shape of a row, dtype) of each source field.
        destinations: (shape of a row, dtype) of each destination field.
        parameters: (whole shape, dtype) of each parameter.
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
        terms: Factory of the terms.
        dtype: Type that kernels compute in.
        outputs: (message,) or (score, message).
        parameters: How torch computes each parameter argument from the parameters of the
            expression, by name.
        layouts: By name of a parameter argument that is another in a different layout, the name
            of that other.
        folded: Descriptions of the products that were folded.
        num_sources: Number of source fields.
    """

    terms: TermFactory
    dtype: torch.dtype
    outputs: tuple[Term, ...]
    parameters: Mapping[str, MakeParameter]
    layouts: Mapping[str, str]
    folded: tuple[str, ...]
    num_sources: int


def lower(expression: Expression, signature: Signature, *, training: bool) -> Lowered:
    """Turn a traced `gather` into terms.

    Args:
        expression: The traced `gather`.
        signature: Shapes and types of its inputs.
        training: Whether dropout masks are drawn; otherwise they are ones.

    Raises:
        NotLowered: If a call, a type or a shape is not supported.
    """
    per_edge = (*signature.sources, *signature.destinations, *signature.columns)
    ctx = LoweringContext(dtype for _, dtype in (*per_edge, *signature.parameters))
    values: dict[int, Value] = {}
    groups: tuple[tuple[Sequence[int], Space, str, Any], ...] = (
        (expression.sources, "source", "source", signature.sources),
        (expression.destinations, "destination", "destination", signature.destinations),
        ([i for i, _ in expression.edge_columns], "edge", "column", signature.columns),
    )
    for indices, space, name, types in groups:
        for n, (i, (shape, dtype)) in enumerate(zip(indices, types, strict=True)):
            values[i] = Value(ctx.leaf(space, f"{name}{n}", shape, dtype), True)
    for n, i in enumerate(expression.parameters):
        shape, dtype = signature.parameters[n]
        values[i] = Value(ctx.parameter(itemgetter(n), shape, dtype), False)
    for i, spec in expression.keeps:
        if training and spec.p > 0:
            values[i] = Value(ctx.terms.keep(spec.p, spec.heads, spec.call), True)
        else:
            one = ctx.terms.const(1)
            shape = () if spec.heads is None else (spec.heads,)
            values[i] = Value(ctx.terms.expand(one, shape), True)
    for i in expression.edge_order:
        if i not in values:
            node = expression.nodes[i]
            assert isinstance(node, Operation)
            values[i] = _lower_call(ctx, node, values)
    if not all(values[i].per_edge for i in expression.outputs):
        raise NotLowered("its message is the same for every edge")
    outputs = tuple(ctx.terms.as_float(values[i].term) for i in expression.outputs)
    order = walk(outputs)
    tables = {t.inputs[0] for t in order if t.op == "relate"}  # which no kernel loads
    largest = max(t.size for t in order if t not in tables)
    if largest > _MAX_SIZE:
        raise NotLowered(f"a value of {largest:,} elements per edge does not fit on the stack")
    read = [t.leaf.name for t in order if t.op == "leaf" if t.leaf.space == "parameter"]
    parameters = {name: ctx.makers[name] for name in read}
    num_sources = len(signature.sources)
    folded = tuple(ctx.folded)
    return Lowered(ctx.terms, ctx.dtype, outputs, parameters, ctx.layouts, folded, num_sources)


def _lower_call(ctx: LoweringContext, node: Operation, values: Mapping[int, Value]) -> Value:
    def read(item: Any) -> Any:
        if isinstance(item, Ref):
            return values[item.index]
        if isinstance(item, Tensor):
            raise NotLowered("it uses a constant tensor")
        return item

    name = getattr(node.function, "__name__", str(node.function))
    rule = rule_of(name)
    if rule is None:
        raise NotLowered(f"{name}() has no kernel")
    args, kwargs = map_structure((node.args, dict(node.kwargs)), read)
    try:
        return rule(ctx, *args, **kwargs)
    except NotLowered as error:
        raise NotLowered(f"{name}(): {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise NotLowered(f"{name}() with these arguments has no kernel ({error})") from None

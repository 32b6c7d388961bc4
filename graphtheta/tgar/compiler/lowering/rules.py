"""Lowering rules: what each torch call means as a term.

Only calls whose value depends on both endpoints or on the edge are lowered; all others are hoisted
to node space, where torch runs them. If a call has no rule, the layer runs chunked and the reason
names the call. Element-wise operators need no rule here: they are entries of `OPERATORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from graphtheta.tgar.compiler.ir.terms import Term
from graphtheta.tgar.compiler.lowering.context import LoweringContext, NotLowered, Value, axis_of
from graphtheta.tgar.compiler.lowering.fold import fold
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS, Operator

__all__ = ["RULES", "rule_of"]

Rule = Callable[..., Value]
RULES: dict[str, Rule] = {}  # by name of a torch function or method


def rule_of(name: str) -> Rule | None:
    """Return the rule of a torch function or method, or None if it is not supported.

    Args:
        name: Its `__name__`.
    """
    for operator in OPERATORS.values():
        if name in operator.spellings:
            return partial(_elementwise, operator)
        if name in operator.reflected.split():
            return partial(_elementwise, operator, reflected=True)
    return RULES.get(name)


def _elementwise(
    operator: Operator, ctx: LoweringContext, *args: Any, reflected: bool = False, **options: Any
) -> Value:
    operands, rest = args[: operator.arity], args[operator.arity :]
    parameter = None
    if operator.parameter is not None:
        keyword, default = operator.parameter
        parameter = float(rest[0] if rest else options.pop(keyword, default))
        rest = rest[1:]
    options.pop("inplace", None)  # of activations in torch.nn.functional
    if len(operands) < operator.arity or rest or options.pop("alpha", 1) != 1 or options:
        raise NotLowered("these arguments are not supported")
    terms, per_edge = ctx.aligned(*(reversed(operands) if reflected else operands))
    return Value(operator.apply(ctx.terms, *terms, parameter=parameter), per_edge)


def _rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for torch functions and methods, their names separated by spaces."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def _operator(name: str, ctx: LoweringContext, *operands: Any) -> Value:
    return _elementwise(OPERATORS[name], ctx, *operands)


# -- combinations of operators --------------------------------------------------------------------


@_rule("max")
def _max(ctx: LoweringContext, a: Value, b: Any, *, name: str = "max") -> Value:
    if not isinstance(b, Value):
        raise NotLowered(f"a {name} along a dimension is not supported")
    return _operator(name, ctx, a, b)


_rule("min")(partial(_max, name="min"))


@_rule("detach")
def _detach(ctx: LoweringContext, x: Value) -> Value:
    return Value(ctx.terms.detach(x.term), x.per_edge)


@_rule("where")
def _where(ctx: LoweringContext, condition: Any, a: Any, b: Any) -> Value:
    if isinstance(a, Value) and a.term.kind == "bool":  # x.where(condition, other)
        condition, a = a, condition
    (c, x, y), per_edge = ctx.aligned(condition, a, b)
    return Value(ctx.terms.select(c, x, y), per_edge)


@_rule("silu")
def _silu(ctx: LoweringContext, x: Value, inplace: bool = False) -> Value:
    return _operator("mul", ctx, x, _operator("sigmoid", ctx, x))


@_rule("softplus")
def _softplus(ctx: LoweringContext, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if beta != 1 or threshold != 20:
        raise NotLowered("only the default beta and threshold are supported")
    t = ctx.terms
    soft = t.apply("log1p", t.apply("exp", t.apply("min", x.term, 20)))
    return Value(t.select(t.compare("gt", x.term, 20), x.term, soft), x.per_edge)


@_rule("square")
def _square(ctx: LoweringContext, x: Value) -> Value:
    return _operator("mul", ctx, x, x)


@_rule("reciprocal")
def _reciprocal(ctx: LoweringContext, x: Value) -> Value:
    return _operator("div", ctx, 1, x)


@_rule("rsqrt")
def _rsqrt(ctx: LoweringContext, x: Value) -> Value:
    return _reciprocal(ctx, _operator("sqrt", ctx, x))


@_rule("pow __pow__")
def _pow(ctx: LoweringContext, x: Value, exponent: Any) -> Value:
    if exponent == 1:
        return x
    rules: dict[Any, Rule] = {2: _square, -1: _reciprocal, -0.5: _rsqrt}
    rules[0.5] = partial(_operator, "sqrt")
    if isinstance(exponent, Value) or exponent not in rules:
        raise NotLowered("only the exponents 2, 1, 0.5, -0.5 and -1 are supported")
    return rules[exponent](ctx, x)


@_rule("clamp clip")
def _clamp(ctx: LoweringContext, x: Value, min: Any = None, max: Any = None) -> Value:
    # Not `max` and `min`, which share the gradient at a tie: clamp keeps all of it at its bounds.
    t, value = ctx.terms, x
    for op, bound in (("lt", min), ("gt", max)):
        if bound is not None:
            (inside, edge), per_edge = ctx.aligned(value, bound)
            value = Value(t.select(t.compare(op, inside, edge), edge, inside), per_edge)
    return value


_rule("clamp_min")(lambda ctx, x, min: _clamp(ctx, x, min=min))
_rule("clamp_max")(lambda ctx, x, max: _clamp(ctx, x, max=max))


# -- sums and products with parameters ------------------------------------------------------------


def _axes(value: Value, dim: Any) -> list[int]:
    if dim is None:
        raise NotLowered("it sums over edges")
    return [axis_of(value, d) for d in (dim if isinstance(dim, tuple | list) else (dim,))]


@_rule("sum")
def _sum(
    ctx: LoweringContext, x: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    if dtype is not None and dtype != ctx.dtype:
        raise NotLowered(f"a sum in {dtype} is not supported")
    axes = _axes(x, dim)
    folded = fold(ctx, x.term) if axes == [len(x.term.shape) - 1] else None
    if folded is not None:
        shape = (*folded.shape, 1) if keepdim else folded.shape
        return Value(ctx.terms.reshape(folded, shape), x.per_edge)
    total = ctx.terms.sum(x.term, axes)
    if not keepdim:
        rest = tuple(n for i, n in enumerate(x.term.shape) if i not in axes)
        total = ctx.terms.reshape(total, rest)
    return Value(total, x.per_edge)


@_rule("mean")
def _mean(ctx: LoweringContext, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    count = math.prod(x.term.shape[a] for a in _axes(x, dim))
    return _operator("mul", ctx, _sum(ctx, x, dim, keepdim), 1 / count)


def _matrix(x: Value, weight: Value) -> Term:
    if not x.per_edge or weight.per_edge or weight.term.op != "leaf" or weight.dims != 2:
        raise NotLowered("it multiplies by something else than a parameter of two dimensions")
    return weight.term


@_rule("linear")
def _linear(ctx: LoweringContext, x: Value, weight: Value, bias: Value | None = None) -> Value:
    result = Value(ctx.terms.contract(ctx.transposed(_matrix(x, weight)), x.term), True)
    return result if bias is None else _operator("add", ctx, result, bias)


@_rule("matmul __matmul__ mm bmm")
def _matmul(ctx: LoweringContext, x: Value, weight: Value) -> Value:
    if _is_matrix(weight) and x.per_edge and x.term.shape[-2:-1] == (1,):
        shape = x.term.shape
        row = ctx.terms.reshape(x.term, (*shape[:-2], shape[-1]))
        table, index = weight.term.inputs
        product = ctx.terms.relate(table, index, row)
        return _reshaped(ctx, Value(product, True), (*shape[:-1], product.shape[-1]))
    if _is_matrix(x) and weight.per_edge and weight.term.shape[-1:] == (1,):
        table, index = x.term.inputs
        column = ctx.terms.reshape(weight.term, weight.term.shape[:-1])
        dims = len(table.shape)
        turned = _permuted(ctx, table, [*range(dims - 2), dims - 1, dims - 2])
        product = ctx.terms.relate(turned, index, column)
        return _reshaped(ctx, Value(product, True), (*product.shape, 1))
    if x.dims < 2:
        raise NotLowered("it multiplies along the dimension of edges")
    return Value(ctx.terms.contract(_matrix(x, weight), x.term), True)


@_rule("einsum")
def _einsum(ctx: LoweringContext, equation: str, *operands: Any) -> Value:
    """Multiply a value per edge by the matrix of the edge's relation: ef,efo->eo."""
    values = _sizes(operands)
    labels, _, result = equation.replace(" ", "").partition("->")
    if len(values) != 2 or len(set(map(_is_matrix, values))) != 2:
        raise NotLowered("only the product of a value and a parameter's matrix is supported")
    (of_x, x), (of_matrix, matrix) = sorted(
        zip(labels.split(","), values, strict=True), key=lambda pair: _is_matrix(pair[1])
    )
    edge, *rest = list(of_x)
    summed = [label for label in rest if label not in result]
    new = [label for label in of_matrix if label not in of_x]
    shared = [label for label in rest if label not in summed]
    if (
        not x.per_edge
        or (len(summed), len(new)) != (1, 1)
        or rest != [*shared, *summed]
        or result != "".join([edge, *shared, *new])
        or of_matrix[0] != edge
        or set(of_matrix) != {edge, *rest, *new}
    ):
        raise NotLowered(f"only products such as ef,efo->eo are supported, not {equation}")
    table, index = matrix.term.inputs
    axes = [of_matrix.index(label) for label in (edge, *shared, *summed, *new)]
    return Value(ctx.terms.relate(_permuted(ctx, table, axes), index, x.term), True)


def _is_matrix(x: Any) -> bool:
    """Return whether a value is a matrix, or several, of a parameter indexed by an edge column."""
    return (
        isinstance(x, Value)
        and x.per_edge
        and x.term.op == "lookup"
        and len(x.term.shape) >= 2
        and x.term.inputs[0].leaf.space == "parameter"
    )


def _permuted(ctx: LoweringContext, table: Term, axes: list[int]) -> Term:
    """Return a parameter with its dimensions in another order, as a new argument."""
    if axes == sorted(axes):
        return table
    make = ctx.makers[table.leaf.name]
    shape = tuple(table.shape[a] for a in axes)
    result = ctx.parameter(lambda given: make(given).permute(axes), shape, ctx.dtype)
    ctx.layouts[result.leaf.name] = ctx.layouts.get(table.leaf.name, table.leaf.name)
    return result


# -- shapes ---------------------------------------------------------------------------------------


def _reshaped(ctx: LoweringContext, x: Value, shape: Sequence[int]) -> Value:
    return Value(ctx.terms.reshape(x.term, tuple(shape)), x.per_edge)


def _sizes(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return sizes that were passed one by one or as one sequence."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes


@_rule("view reshape")
def _view(ctx: LoweringContext, x: Value, *shape: Any) -> Value:
    sizes = _sizes(shape)
    if not x.per_edge or not all(isinstance(s, int) for s in sizes):
        raise NotLowered("the sizes are not integers, or the value is a parameter")
    known = math.prod(s for s in sizes[1:] if s != -1)
    return _reshaped(ctx, x, [x.term.size // known if s == -1 else s for s in sizes[1:]])


@_rule("flatten")
def _flatten(ctx: LoweringContext, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    first, last = axis_of(x, start_dim), axis_of(x, end_dim)
    shape = x.term.shape
    merged = math.prod(shape[first : last + 1])
    return _reshaped(ctx, x, (*shape[:first], merged, *shape[last + 1 :]))


@_rule("unsqueeze")
def _unsqueeze(ctx: LoweringContext, x: Value, dim: int) -> Value:
    axis = dim % (x.dims + 1) - x.per_edge
    if axis < 0:
        raise NotLowered("it adds a dimension before that of edges")
    return _reshaped(ctx, x, (*x.term.shape[:axis], 1, *x.term.shape[axis:]))


@_rule("squeeze")
def _squeeze(ctx: LoweringContext, x: Value, dim: int) -> Value:
    axis, shape = axis_of(x, dim), x.term.shape
    return _reshaped(ctx, x, (*shape[:axis], *shape[axis + 1 :])) if shape[axis] == 1 else x


@_rule("expand")
def _expand(ctx: LoweringContext, x: Value, *shape: Any) -> Value:
    sizes = _sizes(shape)
    if not x.per_edge or len(sizes) != x.dims:
        raise NotLowered("it adds dimensions, or the value is a parameter")
    wanted = tuple(n if s == -1 else s for s, n in zip(sizes[1:], x.term.shape, strict=True))
    return Value(ctx.terms.expand(x.term, wanted), True)


@_rule("expand_as")
def _expand_as(ctx: LoweringContext, x: Value, other: Value) -> Value:
    (a, b), per_edge = ctx.aligned(x, other)
    return Value(ctx.terms.expand(a, b.shape), per_edge)


# -- selection ------------------------------------------------------------------------------------


@_rule("__getitem__")
def _getitem(ctx: LoweringContext, x: Value, index: Any) -> Value:
    if isinstance(index, Value):
        if x.per_edge or not index.per_edge:
            raise NotLowered("only a parameter can be indexed by an edge column")
        return Value(ctx.terms.lookup(x.term, index.term), True)
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        missing = x.dims - sum(i is not None and i is not Ellipsis for i in items)
        items[at : at + 1] = [slice(None)] * missing
    items += [slice(None)] * (x.dims - sum(i is not None for i in items))
    if x.per_edge and items.pop(0) != slice(None):
        raise NotLowered("it selects edges")
    term, rest = x.term, list(x.term.shape)  # of the dimensions that no item has consumed yet
    shape: list[int] = []
    for item in items:
        if item is None:
            shape.append(1)
        elif isinstance(item, int) and not shape and len(rest) == len(term.shape):
            size = rest.pop(0)
            if not -size <= item < size:
                raise NotLowered(f"index {item} is out of range")
            term = ctx.terms.lookup(term, ctx.terms.index(item % size))
        elif item == slice(None):
            shape.append(rest.pop(0))
        else:
            raise NotLowered("this kind of index is not supported")
    return Value(ctx.terms.reshape(term, tuple(shape)), x.per_edge)


@_rule("gather")
def _gather(ctx: LoweringContext, x: Value, dim: int, index: Value) -> Value:
    """Select one row of a leaf by one number per edge, which the index may repeat."""
    if axis_of(x, dim) != 0 or not index.per_edge or len(index.term.shape) != len(x.term.shape):
        raise NotLowered("only the first dimension after the edges can be selected from")
    number, wanted = index.term, (1, *x.term.shape[1:])
    while number.op == "expand" and number.size != 1:
        number = number.inputs[0]
    if number.size != 1 or index.term.shape != wanted:
        raise NotLowered("the index has several numbers per edge")
    return Value(ctx.terms.reshape(ctx.terms.lookup(x.term, number), wanted), True)


@_rule("index_select")
def _index_select(ctx: LoweringContext, x: Value, dim: int, index: Value) -> Value:
    if dim != 0 or x.per_edge:
        raise NotLowered("only rows of a parameter can be selected")
    return _getitem(ctx, x, index)


@_rule("embedding")
def _embedding(
    ctx: LoweringContext, index: Value, weight: Value, *args: Any, **options: Any
) -> Value:
    defaults = {"padding_idx": None, "max_norm": None, "norm_type": 2.0}
    defaults |= {"scale_grad_by_freq": False, "sparse": False}
    given = dict(zip(defaults, args, strict=False)) | options
    if any(value != defaults[name] for name, value in given.items()):
        raise NotLowered("its options are not supported")
    return _getitem(ctx, weight, index)


# -- types ----------------------------------------------------------------------------------------


@_rule("to type")
def _cast(ctx: LoweringContext, x: Value, *args: Any, **options: Any) -> Value:
    dtype = options.get("dtype", args[0] if args else None)
    if not isinstance(dtype, torch.dtype) or len(args) + len(options) != 1:
        raise NotLowered("only a dtype is supported as its argument")
    if dtype == ctx.dtype:
        return Value(ctx.terms.as_float(x.term), x.per_edge)
    if dtype in (torch.int64, torch.int32) and x.term.kind == "int":
        return x
    raise NotLowered(f"a conversion to {dtype} is not supported")


_rule("float")(lambda ctx, x: _cast(ctx, x, torch.float32))
_rule("double")(lambda ctx, x: _cast(ctx, x, torch.float64))
_rule("long")(lambda ctx, x: _cast(ctx, x, torch.int64))
_rule("contiguous clone")(lambda ctx, x, *args, **options: x)

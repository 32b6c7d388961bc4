"""The language of kernels: what each torch call means as a term.

Only what mixes endpoints reaches this table: all else is hoisted to node space and replayed by
torch. A call without a rule is refused with its name, and the layer runs chunked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from graphtheta.tgar.compiler.lowering.context import Lowering, NotLowered, Value, axis_of
from graphtheta.tgar.compiler.lowering.fold import fold

__all__ = ["RULES"]

Rule = Callable[..., Value]
RULES: dict[str, Rule] = {}


def _unary(op: str) -> Rule:
    def rule(low: Lowering, x: Value) -> Value:
        return Value(low.terms.unary(op, x.term), x.rows)

    return rule


def _binary(op: str, *, swap: bool = False) -> Rule:
    def rule(low: Lowering, a: Any, b: Any, *, alpha: Any = 1) -> Value:
        if alpha != 1:
            raise NotLowered("alpha")
        (x, y), rows = low.aligned(b, a) if swap else low.aligned(a, b)
        return Value(low.terms.binary(op, x, y), rows)

    return rule


def _extreme(op: str) -> Rule:
    def rule(low: Lowering, a: Any, b: Any) -> Value:
        if not isinstance(b, Value):
            raise NotLowered("an extreme along a dimension")
        return _binary(op)(low, a, b)

    return rule


def _compare(op: str) -> Rule:
    def rule(low: Lowering, a: Any, b: Any) -> Value:
        (x, y), rows = low.aligned(a, b)
        return Value(low.terms.compare(op, x, y), rows)

    return rule


def _where(low: Lowering, condition: Any, a: Any, b: Any) -> Value:
    if isinstance(a, Value) and a.term.kind == "bool":  # x.where(condition, other)
        condition, a = a, condition
    (c, x, y), rows = low.aligned(condition, a, b)
    return Value(low.terms.select(c, x, y), rows)


def _leaky_relu(
    low: Lowering, x: Value, negative_slope: float = 0.01, inplace: bool = False
) -> Value:
    return Value(low.terms.unary("leaky_relu", x.term, float(negative_slope)), x.rows)


def _elu(low: Lowering, x: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    return Value(low.terms.unary("elu", x.term, float(alpha)), x.rows)


def _relu(low: Lowering, x: Value, inplace: bool = False) -> Value:
    return Value(low.terms.unary("relu", x.term), x.rows)


def _silu(low: Lowering, x: Value, inplace: bool = False) -> Value:
    return Value(low.terms.mul(x.term, low.terms.unary("sigmoid", x.term)), x.rows)


def _softplus(low: Lowering, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if beta != 1 or threshold != 20:
        raise NotLowered("beta or threshold")
    t = low.terms
    soft = t.unary("log1p", t.unary("exp", t.binary("min", x.term, t.const(20))))
    return Value(t.select(t.compare("gt", x.term, t.const(20)), x.term, soft), x.rows)


def _square(low: Lowering, x: Value) -> Value:
    return Value(low.terms.mul(x.term, x.term), x.rows)


def _reciprocal(low: Lowering, x: Value) -> Value:
    return Value(low.terms.binary("div", low.terms.const(1), x.term), x.rows)


def _rsqrt(low: Lowering, x: Value) -> Value:
    root = low.terms.unary("sqrt", x.term)
    return Value(low.terms.binary("div", low.terms.const(1), root), x.rows)


def _pow(low: Lowering, x: Value, exponent: Any) -> Value:
    chosen: dict[Any, Rule] = {2: _square, 0.5: _unary("sqrt"), -1: _reciprocal, -0.5: _rsqrt}
    if exponent == 1:
        return x
    if isinstance(exponent, Value) or exponent not in chosen:
        raise NotLowered("this exponent")
    return chosen[exponent](low, x)


def _clamp(low: Lowering, x: Value, min: Any = None, max: Any = None) -> Value:
    # Not by max and min, whose gradient is shared at a tie: clamp's is whole at the borders.
    (value,), rows = low.aligned(x)
    t = low.terms
    for op, bound in (("lt", min), ("gt", max)):
        if bound is not None:
            (value, edge), rows = low.aligned(Value(value, rows), bound)
            value = t.select(t.compare(op, value, edge), edge, value)
    return Value(value, rows)


def _dims(value: Value, dim: Any) -> list[int]:
    if dim is None:
        raise NotLowered("it sums over the edges")
    return [axis_of(value, d) for d in (dim if isinstance(dim, tuple | list) else (dim,))]


def _sum(
    low: Lowering, x: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    if dtype is not None and dtype != low.dtype:
        raise NotLowered(f"{dtype}")
    axes = _dims(x, dim)
    folded = fold(low, x.term) if axes == [len(x.term.shape) - 1] else None
    if folded is not None:
        shape = (*folded.shape, 1) if keepdim else folded.shape
        return Value(low.terms.reshape(folded, shape), x.rows)
    total = low.terms.sum(x.term, axes)
    if not keepdim:
        kept = tuple(n for i, n in enumerate(x.term.shape) if i not in axes)
        total = low.terms.reshape(total, kept)
    return Value(total, x.rows)


def _mean(low: Lowering, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    count = math.prod(x.term.shape[a] for a in _dims(x, dim))
    total = _sum(low, x, dim, keepdim)
    return Value(low.terms.mul(total.term, low.terms.const(1 / count)), x.rows)


def _linear(low: Lowering, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if not x.rows or weight.rows or weight.term.op != "leaf" or weight.dims != 2:
        raise NotLowered("only a parameter of two dimensions can multiply the last one")
    result = Value(low.terms.contract(low.transposed(weight.term), x.term), True)
    if bias is None:
        return result
    return _binary("add")(low, result, bias)


def _matmul(low: Lowering, x: Value, weight: Value) -> Value:
    if not x.rows or weight.rows or weight.term.op != "leaf" or weight.dims != 2 or x.dims < 2:
        raise NotLowered("only a parameter of two dimensions can multiply the last one")
    return Value(low.terms.contract(weight.term, x.term), True)


def _view(low: Lowering, x: Value, *shape: Any) -> Value:
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if not x.rows or not all(isinstance(s, int) for s in sizes):
        raise NotLowered("this view")
    trail = list(sizes[1:])
    known = math.prod(s for s in trail if s != -1)
    trail = [x.term.size // known if s == -1 else s for s in trail]
    return Value(low.terms.reshape(x.term, tuple(trail)), True)


def _flatten(low: Lowering, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    first, last = axis_of(x, start_dim), axis_of(x, end_dim)
    shape = x.term.shape
    merged = math.prod(shape[first : last + 1])
    return Value(low.terms.reshape(x.term, (*shape[:first], merged, *shape[last + 1 :])), x.rows)


def _unsqueeze(low: Lowering, x: Value, dim: int) -> Value:
    at = dim % (x.dims + 1) - x.rows
    if at < 0:
        raise NotLowered("a dimension before the edges")
    shape = x.term.shape
    return Value(low.terms.reshape(x.term, (*shape[:at], 1, *shape[at:])), x.rows)


def _squeeze(low: Lowering, x: Value, dim: int) -> Value:
    at = axis_of(x, dim)
    shape = x.term.shape
    if shape[at] != 1:
        return x
    return Value(low.terms.reshape(x.term, (*shape[:at], *shape[at + 1 :])), x.rows)


def _expand(low: Lowering, x: Value, *sizes: Any) -> Value:
    wanted = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if not x.rows or len(wanted) != x.dims:
        raise NotLowered("this expansion")
    shape = tuple(n if w == -1 else w for w, n in zip(wanted[1:], x.term.shape, strict=True))
    return Value(low.terms.expand(x.term, shape), True)


def _expand_as(low: Lowering, x: Value, other: Value) -> Value:
    (a, b), rows = low.aligned(x, other)
    return Value(low.terms.expand(a, b.shape), rows)


def _getitem(low: Lowering, x: Value, index: Any) -> Value:
    if isinstance(index, Value):
        if x.rows or not index.rows:
            raise NotLowered("only a parameter can be indexed by an edge column")
        return Value(low.terms.take(x.term, index.term), True)
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        missing = x.dims - sum(i is not None and i is not Ellipsis for i in items)
        items[at : at + 1] = [slice(None)] * missing
    items += [slice(None)] * (x.dims - sum(i is not None for i in items))
    term, shape, kept = x.term, list(x.term.shape), []
    for n, item in enumerate(items):
        if x.rows and n == 0:
            if item != slice(None):
                raise NotLowered("a selection of edges")
        elif item is None:
            kept.append(1)
        elif isinstance(item, int) and not kept and len(shape) == len(term.shape):
            if item >= shape[0] or item < -shape[0]:
                raise NotLowered(f"no index {item}")
            term = low.terms.take(term, low.terms.index(item % shape.pop(0)))
            shape = list(term.shape)
        elif item == slice(None):
            kept.append(shape.pop(0))
        else:
            raise NotLowered("this index")
    return Value(low.terms.reshape(term, tuple(kept)), x.rows)


def _gather(low: Lowering, x: Value, dim: int, index: Value) -> Value:
    """Select one row of a leaf by one number an edge, however often the index repeats it."""
    if axis_of(x, dim) != 0 or not index.rows or len(index.term.shape) != len(x.term.shape):
        raise NotLowered("only the first dimension after the edges can be selected from")
    number = index.term
    while number.op == "expand" and number.size != 1:
        number = number.inputs[0]
    if number.size != 1 or index.term.shape != (1, *x.term.shape[1:]):
        raise NotLowered("an index of several numbers an edge")
    row = low.terms.take(x.term, number)
    return Value(low.terms.reshape(row, (1, *row.shape)), True)


def _index_select(low: Lowering, x: Value, dim: int, index: Value) -> Value:
    if dim != 0 or x.rows:
        raise NotLowered("only rows of a parameter can be selected")
    return _getitem(low, x, index)


def _embedding(
    low: Lowering,
    index: Value,
    weight: Value,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        raise NotLowered("these options")
    return _getitem(low, weight, index)


def _cast(low: Lowering, x: Value, *args: Any, **options: Any) -> Value:
    dtype = options.get("dtype", args[0] if args else None)
    if not isinstance(dtype, torch.dtype) or len(args) + len(options) != 1:
        raise NotLowered("this conversion")
    if dtype == low.dtype:
        return Value(low.terms.as_float(x.term), x.rows)
    if dtype in (torch.int64, torch.int32) and x.term.kind == "int":
        return x
    raise NotLowered(f"a conversion to {dtype}")


def _same(low: Lowering, x: Value, *args: Any, **options: Any) -> Value:
    return x


def _rules(names: str, rule: Rule) -> None:
    for name in names.split():
        RULES[name] = rule


for _op in ("neg", "exp", "log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "abs", "detach"):
    _rules(f"{_op} __{_op}__", _unary(_op))
for _op in ("lt", "le", "gt", "ge", "eq", "ne"):
    _rules(f"{_op} __{_op}__", _compare(_op))
_rules("less", _compare("lt"))
_rules("greater", _compare("gt"))
_rules("add __add__ __radd__", _binary("add"))
_rules("mul multiply __mul__ __rmul__", _binary("mul"))
_rules("sub subtract __sub__", _binary("sub"))
_rules("__rsub__ rsub", _binary("sub", swap=True))
_rules("div divide true_divide __truediv__ __div__", _binary("div"))
_rules("__rtruediv__ __rdiv__", _binary("div", swap=True))
_rules("maximum max", _extreme("max"))
_rules("minimum min", _extreme("min"))
_rules("logical_and __and__ bitwise_and", _binary("and"))
_rules("logical_or __or__ bitwise_or", _binary("or"))
_rules("logical_not __invert__ bitwise_not", _unary("not"))
_rules("where", _where)
_rules("relu", _relu)
_rules("leaky_relu", _leaky_relu)
_rules("elu", _elu)
_rules("silu", _silu)
_rules("softplus", _softplus)
_rules("square", _square)
_rules("reciprocal", _reciprocal)
_rules("rsqrt", _rsqrt)
_rules("pow __pow__", _pow)
_rules("clamp clip", _clamp)
_rules("clamp_min", lambda low, x, min: _clamp(low, x, min=min))
_rules("clamp_max", lambda low, x, max: _clamp(low, x, max=max))
_rules("sum", _sum)
_rules("mean", _mean)
_rules("linear", _linear)
_rules("matmul __matmul__ mm", _matmul)
_rules("view reshape", _view)
_rules("flatten", _flatten)
_rules("unsqueeze", _unsqueeze)
_rules("squeeze", _squeeze)
_rules("expand", _expand)
_rules("expand_as", _expand_as)
_rules("__getitem__", _getitem)
_rules("gather", _gather)
_rules("index_select", _index_select)
_rules("embedding", _embedding)
_rules("to type", _cast)
_rules("float", lambda low, x: _cast(low, x, torch.float32))
_rules("double", lambda low, x: _cast(low, x, torch.float64))
_rules("long", lambda low, x: _cast(low, x, torch.int64))
_rules("contiguous clone", _same)

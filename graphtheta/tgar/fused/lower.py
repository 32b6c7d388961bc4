"""Lowering: torch calls on edges become terms.

Only what mixes endpoints reaches this table: all else is hoisted to node space and replayed by
torch. A call without a rule is refused with its name, and the layer runs chunked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphtheta.tgar.expression import Expression, Leaf, Operation, Ref, map_structure
from graphtheta.tgar.fused import terms as T
from graphtheta.tgar.fused.terms import Kind, Shape, Space, Term, Terms

__all__ = ["Lowered", "NotLowered", "Signature", "lower"]

Derive = Callable[[Sequence[Tensor]], Tensor]


class NotLowered(Exception):
    """A `gather` that no kernel can be made of; its text says why."""


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
        parameters: How torch makes each parameter argument from the expression's; the argument
            named `parameter3` is made by `parameters[3]`.
        folded: What was folded or laid out anew, in words.
    """

    terms: Terms
    dtype: torch.dtype
    outputs: tuple[Term, ...]
    parameters: tuple[Derive, ...]
    folded: tuple[str, ...]


@dataclass(frozen=True)
class _Value:
    """A term, and whether it has a value an edge or is the same for all."""

    term: Term
    rows: bool

    @property
    def dims(self) -> int:
        """Dimensions of the torch tensor."""
        return len(self.term.shape) + self.rows


_STORAGE: dict[torch.dtype, tuple[str, Kind]] = {
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


def lower(expression: Expression, signature: Signature, *, training: bool) -> Lowered:
    """Turn a traced `gather` into terms.

    Args:
        expression: What was traced.
        signature: Types of its inputs.
        training: Whether keep masks are drawn; they are ones otherwise.

    Raises:
        NotLowered: If a call, a type or a shape has no kernel.
    """
    return _Lowering(signature, training).run(expression)


class _Lowering:
    def __init__(self, signature: Signature, training: bool) -> None:
        self.terms = Terms()
        self.training = training
        self.derived: list[Derive] = []
        self.folded: list[str] = []
        self.signature = signature
        every = (*signature.sources, *signature.destinations, *signature.columns)
        floats = {d for _, d in (*every, *signature.parameters) if d.is_floating_point}
        if floats <= {torch.float32, torch.bfloat16}:
            self.dtype = torch.float32
        elif floats == {torch.float64}:
            self.dtype = torch.float64
        else:
            raise NotLowered(f"it mixes {', '.join(sorted(map(str, floats)))}")

    def run(self, expression: Expression) -> Lowered:
        values: dict[int, _Value] = {}
        given: tuple[tuple[Sequence[int], Space, str, Any], ...] = (
            (expression.sources, "source", "source", self.signature.sources),
            (expression.destinations, "destination", "destination", self.signature.destinations),
            ([i for i, _ in expression.edge_columns], "edge", "column", self.signature.columns),
        )
        for indices, space, name, types in given:
            for n, (i, (shape, dtype)) in enumerate(zip(indices, types, strict=True)):
                values[i] = _Value(self._leaf(space, f"{name}{n}", shape, dtype), True)
        for i, (shape, dtype) in zip(
            expression.parameters, self.signature.parameters, strict=True
        ):
            values[i] = _Value(self._derive(_pick(len(self.derived)), shape, dtype), False)
        for i, spec in expression.keeps:
            if self.training and spec.p > 0:
                values[i] = _Value(self.terms.keep(spec.p, spec.heads, spec.call), True)
            else:
                one = self.terms.const(1)
                shape = () if spec.heads is None else (spec.heads,)
                values[i] = _Value(self.terms.expand(one, shape), True)
        for i in expression.edge_order:
            if i not in values:
                node = expression.nodes[i]
                assert isinstance(node, Operation)
                values[i] = self._call(node, values)
        outputs = []
        for i in expression.outputs:
            term = values[i].term
            if not values[i].rows:
                raise NotLowered("its message is the same for every edge")
            outputs.append(self.terms.as_float(term))
        return Lowered(
            self.terms, self.dtype, tuple(outputs), tuple(self.derived), tuple(self.folded)
        )

    def _leaf(self, space: Space, name: str, shape: Shape, dtype: torch.dtype) -> Term:
        if dtype not in _STORAGE:
            raise NotLowered(f"it reads {dtype}")
        storage, kind = _STORAGE[dtype]
        return self.terms.leaf(T.Leaf(space, name, storage, math.prod(shape)), shape, kind)

    def _derive(self, how: Derive, shape: Shape, dtype: torch.dtype) -> Term:
        """Return the leaf of a parameter argument that torch makes by `how`."""
        self.derived.append(how)
        return self._leaf("parameter", f"parameter{len(self.derived) - 1}", shape, dtype)

    def derivation(self, parameter: Term) -> Derive:
        """Return how torch makes a parameter argument."""
        return self.derived[int(parameter.leaf.name.removeprefix("parameter"))]

    def transposed(self, weight: Term) -> Term:
        """Return a parameter's transpose as an argument of its own: the layout kernels want."""
        make = self.derivation(weight)
        return self._derive(lambda given: make(given).t(), weight.shape[::-1], self.dtype)

    def _call(self, node: Operation, values: Mapping[int, _Value]) -> _Value:
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
            return rule(self, *args, **kwargs)
        except NotLowered as error:
            raise NotLowered(f"{name}(): {error}") from None
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise NotLowered(f"{name}() with these arguments has no kernel ({error})") from None

    # -- what rules use ---------------------------------------------------------------------------

    def aligned(self, *items: Any) -> tuple[list[Term], bool]:
        """Return terms that broadcast to one another as torch's tensors do."""
        found = [_number(self, v) for v in items]
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


def _pick(index: int) -> Derive:
    return lambda given: given[index]


def _number(low: _Lowering, item: Any) -> _Value:
    if isinstance(item, _Value):
        return item
    if isinstance(item, bool | int | float):
        return _Value(low.terms.const(item), False)
    raise NotLowered(f"it takes {type(item).__name__}")


def _axis(value: _Value, dim: Any) -> int:
    """Return which axis of the term a torch dimension is."""
    if not isinstance(dim, int):
        raise NotLowered(f"dimension {dim}")
    dim = dim % value.dims - value.rows
    if dim < 0:
        raise NotLowered("it works along the edges")
    return dim


# -- rules ----------------------------------------------------------------------------------------

Rule = Callable[..., _Value]
RULES: dict[str, Rule] = {}


def _unary(op: str) -> Rule:
    def rule(low: _Lowering, x: _Value) -> _Value:
        return _Value(low.terms.unary(op, x.term), x.rows)

    return rule


def _binary(op: str, *, swap: bool = False) -> Rule:
    def rule(low: _Lowering, a: Any, b: Any, *, alpha: Any = 1) -> _Value:
        if alpha != 1:
            raise NotLowered("alpha")
        (x, y), rows = low.aligned(b, a) if swap else low.aligned(a, b)
        return _Value(low.terms.binary(op, x, y), rows)

    return rule


def _extreme(op: str) -> Rule:
    def rule(low: _Lowering, a: Any, b: Any) -> _Value:
        if not isinstance(b, _Value):
            raise NotLowered("an extreme along a dimension")
        return _binary(op)(low, a, b)

    return rule


def _compare(op: str) -> Rule:
    def rule(low: _Lowering, a: Any, b: Any) -> _Value:
        (x, y), rows = low.aligned(a, b)
        return _Value(low.terms.compare(op, x, y), rows)

    return rule


def _where(low: _Lowering, condition: Any, a: Any, b: Any) -> _Value:
    if isinstance(a, _Value) and a.term.kind == "bool":  # x.where(condition, other)
        condition, a = a, condition
    (c, x, y), rows = low.aligned(condition, a, b)
    return _Value(low.terms.select(c, x, y), rows)


def _leaky_relu(
    low: _Lowering, x: _Value, negative_slope: float = 0.01, inplace: bool = False
) -> _Value:
    return _Value(low.terms.unary("leaky_relu", x.term, float(negative_slope)), x.rows)


def _elu(low: _Lowering, x: _Value, alpha: float = 1.0, inplace: bool = False) -> _Value:
    return _Value(low.terms.unary("elu", x.term, float(alpha)), x.rows)


def _relu(low: _Lowering, x: _Value, inplace: bool = False) -> _Value:
    return _Value(low.terms.unary("relu", x.term), x.rows)


def _silu(low: _Lowering, x: _Value, inplace: bool = False) -> _Value:
    return _Value(low.terms.mul(x.term, low.terms.unary("sigmoid", x.term)), x.rows)


def _softplus(low: _Lowering, x: _Value, beta: float = 1.0, threshold: float = 20.0) -> _Value:
    if beta != 1 or threshold != 20:
        raise NotLowered("beta or threshold")
    t = low.terms
    soft = t.unary("log1p", t.unary("exp", t.binary("min", x.term, t.const(20))))
    return _Value(t.select(t.compare("gt", x.term, t.const(20)), x.term, soft), x.rows)


def _square(low: _Lowering, x: _Value) -> _Value:
    return _Value(low.terms.mul(x.term, x.term), x.rows)


def _reciprocal(low: _Lowering, x: _Value) -> _Value:
    return _Value(low.terms.binary("div", low.terms.const(1), x.term), x.rows)


def _rsqrt(low: _Lowering, x: _Value) -> _Value:
    root = low.terms.unary("sqrt", x.term)
    return _Value(low.terms.binary("div", low.terms.const(1), root), x.rows)


def _pow(low: _Lowering, x: _Value, exponent: Any) -> _Value:
    chosen: dict[Any, Rule] = {2: _square, 0.5: _unary("sqrt"), -1: _reciprocal, -0.5: _rsqrt}
    if exponent == 1:
        return x
    if isinstance(exponent, _Value) or exponent not in chosen:
        raise NotLowered("this exponent")
    return chosen[exponent](low, x)


def _clamp(low: _Lowering, x: _Value, min: Any = None, max: Any = None) -> _Value:
    # Not by max and min, whose gradient is shared at a tie: clamp's is whole at the borders.
    (value,), rows = low.aligned(x)
    t = low.terms
    for op, bound in (("lt", min), ("gt", max)):
        if bound is not None:
            (value, edge), rows = low.aligned(_Value(value, rows), bound)
            value = t.select(t.compare(op, value, edge), edge, value)
    return _Value(value, rows)


def _dims(value: _Value, dim: Any) -> list[int]:
    if dim is None:
        raise NotLowered("it sums over the edges")
    return [_axis(value, d) for d in (dim if isinstance(dim, tuple | list) else (dim,))]


def _sum(
    low: _Lowering, x: _Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> _Value:
    if dtype is not None and dtype != low.dtype:
        raise NotLowered(f"{dtype}")
    axes = _dims(x, dim)
    total = low.terms.sum(x.term, axes)
    if not keepdim:
        kept = tuple(n for i, n in enumerate(x.term.shape) if i not in axes)
        total = low.terms.reshape(total, kept)
    return _Value(total, x.rows)


def _mean(low: _Lowering, x: _Value, dim: Any = None, keepdim: bool = False) -> _Value:
    count = math.prod(x.term.shape[a] for a in _dims(x, dim))
    total = _sum(low, x, dim, keepdim)
    return _Value(low.terms.mul(total.term, low.terms.const(1 / count)), x.rows)


def _linear(low: _Lowering, x: _Value, weight: _Value, bias: _Value | None = None) -> _Value:
    if not x.rows or weight.rows or weight.term.op != "leaf" or weight.dims != 2:
        raise NotLowered("only a parameter of two dimensions can multiply the last one")
    result = _Value(low.terms.contract(low.transposed(weight.term), x.term), True)
    if bias is None:
        return result
    return _binary("add")(low, result, bias)


def _matmul(low: _Lowering, x: _Value, weight: _Value) -> _Value:
    if not x.rows or weight.rows or weight.term.op != "leaf" or weight.dims != 2 or x.dims < 2:
        raise NotLowered("only a parameter of two dimensions can multiply the last one")
    return _Value(low.terms.contract(weight.term, x.term), True)


def _view(low: _Lowering, x: _Value, *shape: Any) -> _Value:
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if not x.rows or not all(isinstance(s, int) for s in sizes):
        raise NotLowered("this view")
    trail = list(sizes[1:])
    known = math.prod(s for s in trail if s != -1)
    trail = [x.term.size // known if s == -1 else s for s in trail]
    return _Value(low.terms.reshape(x.term, tuple(trail)), True)


def _flatten(low: _Lowering, x: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
    first, last = _axis(x, start_dim), _axis(x, end_dim)
    shape = x.term.shape
    merged = math.prod(shape[first : last + 1])
    return _Value(
        low.terms.reshape(x.term, (*shape[:first], merged, *shape[last + 1 :])), x.rows
    )


def _unsqueeze(low: _Lowering, x: _Value, dim: int) -> _Value:
    at = dim % (x.dims + 1) - x.rows
    if at < 0:
        raise NotLowered("a dimension before the edges")
    shape = x.term.shape
    return _Value(low.terms.reshape(x.term, (*shape[:at], 1, *shape[at:])), x.rows)


def _squeeze(low: _Lowering, x: _Value, dim: int) -> _Value:
    at = _axis(x, dim)
    shape = x.term.shape
    if shape[at] != 1:
        return x
    return _Value(low.terms.reshape(x.term, (*shape[:at], *shape[at + 1 :])), x.rows)


def _expand(low: _Lowering, x: _Value, *sizes: Any) -> _Value:
    wanted = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if not x.rows or len(wanted) != x.dims:
        raise NotLowered("this expansion")
    shape = tuple(
        n if w == -1 else w for w, n in zip(wanted[1:], x.term.shape, strict=True)
    )
    return _Value(low.terms.expand(x.term, shape), True)


def _expand_as(low: _Lowering, x: _Value, other: _Value) -> _Value:
    (a, b), rows = low.aligned(x, other)
    return _Value(low.terms.expand(a, b.shape), rows)


def _getitem(low: _Lowering, x: _Value, index: Any) -> _Value:
    if isinstance(index, _Value):
        if x.rows or not index.rows:
            raise NotLowered("only a parameter can be indexed by an edge column")
        return _Value(low.terms.take(x.term, index.term), True)
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
    return _Value(low.terms.reshape(term, tuple(kept)), x.rows)


def _gather(low: _Lowering, x: _Value, dim: int, index: _Value) -> _Value:
    """Select one row of a leaf by one number an edge, however often the index repeats it."""
    if _axis(x, dim) != 0 or not index.rows or len(index.term.shape) != len(x.term.shape):
        raise NotLowered("only the first dimension after the edges can be selected from")
    number = index.term
    while number.op == "expand" and number.size != 1:
        number = number.inputs[0]
    if number.size != 1 or index.term.shape != (1, *x.term.shape[1:]):
        raise NotLowered("an index of several numbers an edge")
    row = low.terms.take(x.term, number)
    return _Value(low.terms.reshape(row, (1, *row.shape)), True)


def _index_select(low: _Lowering, x: _Value, dim: int, index: _Value) -> _Value:
    if dim != 0 or x.rows:
        raise NotLowered("only rows of a parameter can be selected")
    return _getitem(low, x, index)


def _embedding(low: _Lowering, index: _Value, weight: _Value, *rest: Any, **options: Any) -> _Value:
    if any(v for v in (*rest, *options.values())):
        raise NotLowered("these options")
    return _getitem(low, weight, index)


def _cast(low: _Lowering, x: _Value, *args: Any, **options: Any) -> _Value:
    dtype = options.get("dtype", args[0] if args else None)
    if not isinstance(dtype, torch.dtype) or len(args) + len(options) != 1:
        raise NotLowered("this conversion")
    if dtype == low.dtype:
        return _Value(low.terms.as_float(x.term), x.rows)
    if dtype in (torch.int64, torch.int32) and x.term.kind == "int":
        return x
    raise NotLowered(f"a conversion to {dtype}")


def _same(low: _Lowering, x: _Value, *args: Any, **options: Any) -> _Value:
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

"""Table of element-wise operators: one entry holds all that the compiler knows of an operator.

To add an operator, add an entry to `OPERATORS`. Lowering finds it by the names of torch functions,
differentiation calls its gradient, code generation its instructions, and the schedule asks whether
it is costly. Everything that is more than one operator per element (`clamp`, `where`, sums,
products with parameters, indexing) is a rule of `lowering/rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal

from graphtheta.tgar.compiler.ir.terms import LOOPS, Term, TermFactory
from graphtheta.tgar.compiler.operators import vector_math as vm

__all__ = ["OPERATORS", "Operator", "is_costly"]


@dataclass(frozen=True)
class Operator:
    """Element-wise operator.

    Attributes:
        name: The `op` of its terms.
        gradient: Function of (terms, cotangent of the result, result, *operands) that returns the
            cotangent of each operand in the result's shape, or None if not differentiable. What
            can be computed from the result should be: backward may have that saved.
        emit: Function of (LLVM IR builder, *operands) that emits the instructions for LLVM values,
            scalars or vectors, and returns the result; a parameter is passed last.
        torch: Names of the torch functions and methods that lower to it, separated by spaces, if
            not just the operator's.
        reflected: Those that take the two operands in reverse order, such as `__rsub__`.
        kind: "arithmetic" takes floats and returns a float, "comparison" takes two floats or two
            integers and returns a bool, "logical" takes and returns bools.
        arity: Number of operands.
        parameter: Keyword and default of the one constant that some operators take, or None.
        costly: Whether the result is rather stored than computed twice.
        symbol: Infix symbol that `explain` prints; empty to print a call.
    """

    name: str
    gradient: Callable[..., Sequence[Term]] | None
    emit: Callable[..., Any]
    _: KW_ONLY
    torch: str = ""
    reflected: str = ""
    kind: Literal["arithmetic", "comparison", "logical"] = "arithmetic"
    arity: int = 1
    parameter: tuple[str, float] | None = None
    costly: bool = False
    symbol: str = ""

    @property
    def spellings(self) -> list[str]:
        """Names of the torch functions and methods that take the operands in this order."""
        return (self.torch or self.name).split()

    def apply(self, terms: TermFactory, *operands: Term, parameter: float | None = None) -> Term:
        """Return the term of this operator on `operands`."""
        if self.kind == "comparison":
            return terms.compare(self.name, *operands)
        if self.kind == "logical":
            return terms.logical(self.name, *operands)
        return terms.apply(self.name, *operands, parameter=parameter)


def is_costly(term: Term) -> bool:
    """Return whether a value is rather stored than computed twice."""
    operator = OPERATORS.get(term.op)
    return term.op in LOOPS if operator is None else operator.costly


def _abs_gradient(t: TermFactory, c: Term, y: Term, x: Term) -> Sequence[Term]:
    sign = t.select(t.compare("gt", x, 0.0), 1, t.select(t.compare("lt", x, 0.0), -1, 0))
    return [t.mul(c, sign)]


def _leaky_relu_gradient(t: TermFactory, c: Term, y: Term, x: Term) -> Sequence[Term]:
    slope = y.detail  # the result has the sign of x if the slope is positive
    positive = t.compare("gt", y if slope > 0 else x, 0.0)
    return [t.mul(c, t.select(positive, 1, slope))]


def _elu_gradient(t: TermFactory, c: Term, y: Term, x: Term) -> Sequence[Term]:
    alpha = y.detail
    if alpha > 0:
        return [t.mul(c, t.select(t.compare("gt", y, 0.0), 1, t.add(y, alpha)))]
    below = t.mul(t.apply("exp", x), alpha)
    return [t.mul(c, t.select(t.compare("gt", x, 0.0), 1, below))]


def _div_gradient(t: TermFactory, c: Term, y: Term, a: Term, b: Term) -> Sequence[Term]:
    of_a = t.div(c, b)
    return [of_a, t.neg(t.mul(of_a, y))]


def _extreme_gradient(
    loses: str, t: TermFactory, c: Term, y: Term, a: Term, b: Term
) -> Sequence[Term]:
    """Give the cotangent to the operand that was chosen; equal operands share it, as in torch."""
    half, lost, equal = t.mul(c, 0.5), t.compare(loses, a, b), t.compare("eq", a, b)
    return [
        t.select(lost, 0, t.select(equal, half, c)),
        t.select(lost, c, t.select(equal, half, 0)),
    ]


_UNARY = (
    Operator("neg", lambda t, c, y, x: [t.neg(c)], lambda b, x: b.fneg(x), torch="neg __neg__"),
    Operator("exp", lambda t, c, y, x: [t.mul(c, y)], vm.exp, costly=True),
    Operator("expm1", lambda t, c, y, x: [t.mul(c, t.add(y, 1))], vm.library("expm1"), costly=True),
    Operator("log", lambda t, c, y, x: [t.mul(c, t.div(1, x))], vm.library("log"), costly=True),
    Operator(
        "log1p",
        lambda t, c, y, x: [t.mul(c, t.div(1, t.add(x, 1)))],
        vm.library("log1p"),
        costly=True,
    ),
    Operator("sqrt", lambda t, c, y, x: [t.mul(c, t.div(0.5, y))], vm.sqrt, costly=True),
    Operator(
        "sigmoid", lambda t, c, y, x: [t.mul(c, t.mul(y, t.sub(1, y)))], vm.sigmoid, costly=True
    ),
    Operator(
        "tanh",
        lambda t, c, y, x: [t.mul(c, t.sub(1, t.mul(y, y)))],
        vm.library("tanh"),
        costly=True,
    ),
    Operator("abs", _abs_gradient, vm.magnitude, torch="abs __abs__"),
    Operator(
        "relu", lambda t, c, y, x: [t.mul(c, t.select(t.compare("gt", y, 0.0), 1, 0))], vm.relu
    ),
    Operator("leaky_relu", _leaky_relu_gradient, vm.leaky_relu, parameter=("negative_slope", 0.01)),
    Operator("elu", _elu_gradient, vm.elu, parameter=("alpha", 1.0), costly=True),
)

_binary = partial(Operator, arity=2)
_BINARY = (
    _binary(
        "add",
        lambda t, c, y, a, b: [c, c],
        lambda b, x, y: b.fadd(x, y, flags=vm.FLAGS),
        torch="add __add__ __radd__",
        symbol="+",
    ),
    _binary(
        "sub",
        lambda t, c, y, a, b: [c, t.neg(c)],
        lambda b, x, y: b.fsub(x, y, flags=vm.FLAGS),
        torch="sub subtract __sub__",
        reflected="__rsub__ rsub",
        symbol="-",
    ),
    _binary(
        "mul",
        lambda t, c, y, a, b: [t.mul(c, b), t.mul(c, a)],
        lambda b, x, y: b.fmul(x, y, flags=vm.FLAGS),
        torch="mul multiply __mul__ __rmul__",
        symbol="*",
    ),
    _binary(
        "div",
        _div_gradient,
        lambda b, x, y: b.fdiv(x, y, flags=vm.FLAGS),
        torch="div divide true_divide __truediv__ __div__",
        reflected="__rtruediv__ __rdiv__",
        costly=True,
        symbol="/",
    ),
    _binary(
        "max", partial(_extreme_gradient, "lt"), partial(vm.extreme, sign=">"), torch="maximum"
    ),
    _binary(
        "min", partial(_extreme_gradient, "gt"), partial(vm.extreme, sign="<"), torch="minimum"
    ),
)


def _comparison(name: str, torch: str, symbol: str) -> Operator:
    emit = partial(vm.compare, sign=symbol)
    return Operator(name, None, emit, torch=torch, kind="comparison", arity=2, symbol=symbol)


_logical = partial(Operator, gradient=None, kind="logical")
_TO_BOOL = (
    _comparison("lt", "lt less __lt__", "<"),
    _comparison("le", "le __le__", "<="),
    _comparison("gt", "gt greater __gt__", ">"),
    _comparison("ge", "ge __ge__", ">="),
    _comparison("eq", "eq __eq__", "=="),
    _comparison("ne", "ne __ne__", "!="),
    _logical(
        "and",
        emit=lambda b, x, y: b.and_(x, y),
        arity=2,
        torch="logical_and __and__ bitwise_and",
        symbol="&",
    ),
    _logical(
        "or",
        emit=lambda b, x, y: b.or_(x, y),
        arity=2,
        torch="logical_or __or__ bitwise_or",
        symbol="|",
    ),
    _logical("not", emit=lambda b, x: b.not_(x), torch="logical_not __invert__ bitwise_not"),
)

OPERATORS = {operator.name: operator for operator in (*_UNARY, *_BINARY, *_TO_BOOL)}

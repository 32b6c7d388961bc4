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
        torch: Names of the torch functions and methods that lower to it, separated by spaces, if
            not just the operator's.
        reflected: Those that take the two operands in reverse order, such as `__rsub__`.
        kind: "arithmetic" takes floats and returns a float, "comparison" takes two floats or two
            integers and returns a bool, "logical" takes and returns bools.
        arity: Number of operands.
        parameter: Keyword and default of the one constant that some operators take, or None.
        gradient: Function of (terms, cotangent of the result, result, *operands) that returns the
            cotangent of each operand in the result's shape, or None if not differentiable. What
            can be computed from the result should be: backward may have that saved.
        emit: Function of (LLVM IR builder, *operands) that emits the instructions for LLVM values,
            scalars or vectors, and returns the result; a parameter is passed last.
        costly: Whether the result is rather stored than computed twice.
        symbol: Infix symbol that `explain` prints; empty to print a call.
    """

    name: str
    _: KW_ONLY
    torch: str = ""
    reflected: str = ""
    kind: Literal["arithmetic", "comparison", "logical"] = "arithmetic"
    arity: int = 1
    parameter: tuple[str, float] | None = None
    gradient: Callable[..., Sequence[Term]] | None
    emit: Callable[..., Any]
    costly: bool
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
    Operator(
        "neg",
        torch="neg __neg__",
        gradient=lambda t, c, y, x: [t.neg(c)],
        emit=lambda b, x: b.fneg(x),
        costly=False,
    ),
    Operator("exp", gradient=lambda t, c, y, x: [t.mul(c, y)], emit=vm.exp, costly=True),
    Operator(
        "expm1",
        gradient=lambda t, c, y, x: [t.mul(c, t.add(y, 1))],
        emit=vm.library("expm1"),
        costly=True,
    ),
    Operator(
        "log",
        gradient=lambda t, c, y, x: [t.mul(c, t.div(1, x))],
        emit=vm.library("log"),
        costly=True,
    ),
    Operator(
        "log1p",
        gradient=lambda t, c, y, x: [t.mul(c, t.div(1, t.add(x, 1)))],
        emit=vm.library("log1p"),
        costly=True,
    ),
    Operator(
        "sqrt",
        gradient=lambda t, c, y, x: [t.mul(c, t.div(0.5, y))],
        emit=vm.sqrt,
        costly=True,
    ),
    Operator(
        "sigmoid",
        gradient=lambda t, c, y, x: [t.mul(c, t.mul(y, t.sub(1, y)))],
        emit=vm.sigmoid,
        costly=True,
    ),
    Operator(
        "tanh",
        gradient=lambda t, c, y, x: [t.mul(c, t.sub(1, t.mul(y, y)))],
        emit=vm.library("tanh"),
        costly=True,
    ),
    Operator("abs", torch="abs __abs__", gradient=_abs_gradient, emit=vm.magnitude, costly=False),
    Operator(
        "relu",
        gradient=lambda t, c, y, x: [t.mul(c, t.select(t.compare("gt", y, 0.0), 1, 0))],
        emit=vm.relu,
        costly=False,
    ),
    Operator(
        "leaky_relu",
        parameter=("negative_slope", 0.01),
        gradient=_leaky_relu_gradient,
        emit=vm.leaky_relu,
        costly=False,
    ),
    Operator("elu", parameter=("alpha", 1.0), gradient=_elu_gradient, emit=vm.elu, costly=True),
)

_BINARY = (
    Operator(
        "add",
        torch="add __add__ __radd__",
        arity=2,
        gradient=lambda t, c, y, a, b: [c, c],
        emit=lambda b, x, y: b.fadd(x, y, flags=vm.FLAGS),
        costly=False,
        symbol="+",
    ),
    Operator(
        "sub",
        torch="sub subtract __sub__",
        reflected="__rsub__ rsub",
        arity=2,
        gradient=lambda t, c, y, a, b: [c, t.neg(c)],
        emit=lambda b, x, y: b.fsub(x, y, flags=vm.FLAGS),
        costly=False,
        symbol="-",
    ),
    Operator(
        "mul",
        torch="mul multiply __mul__ __rmul__",
        arity=2,
        gradient=lambda t, c, y, a, b: [t.mul(c, b), t.mul(c, a)],
        emit=lambda b, x, y: b.fmul(x, y, flags=vm.FLAGS),
        costly=False,
        symbol="*",
    ),
    Operator(
        "div",
        torch="div divide true_divide __truediv__ __div__",
        reflected="__rtruediv__ __rdiv__",
        arity=2,
        gradient=_div_gradient,
        emit=lambda b, x, y: b.fdiv(x, y, flags=vm.FLAGS),
        costly=True,
        symbol="/",
    ),
    Operator(
        "max",
        torch="maximum",
        arity=2,
        gradient=partial(_extreme_gradient, "lt"),
        emit=lambda b, x, y: vm.extreme(b, ">", x, y),
        costly=False,
    ),
    Operator(
        "min",
        torch="minimum",
        arity=2,
        gradient=partial(_extreme_gradient, "gt"),
        emit=lambda b, x, y: vm.extreme(b, "<", x, y),
        costly=False,
    ),
)


def _to_bool(
    name: str, torch: str, symbol: str, emit: Callable[..., Any] | None = None, arity: int = 2
) -> Operator:
    return Operator(
        name,
        torch=torch,
        kind="logical" if emit else "comparison",
        arity=arity,
        gradient=None,
        emit=emit or (lambda b, x, y: vm.compare(b, symbol, x, y)),
        costly=False,
        symbol=symbol,
    )


_TO_BOOL = (
    _to_bool("lt", "lt less __lt__", "<"),
    _to_bool("le", "le __le__", "<="),
    _to_bool("gt", "gt greater __gt__", ">"),
    _to_bool("ge", "ge __ge__", ">="),
    _to_bool("eq", "eq __eq__", "=="),
    _to_bool("ne", "ne __ne__", "!="),
    _to_bool("and", "logical_and __and__ bitwise_and", "&", lambda b, x, y: b.and_(x, y)),
    _to_bool("or", "logical_or __or__ bitwise_or", "|", lambda b, x, y: b.or_(x, y)),
    _to_bool("not", "logical_not __invert__ bitwise_not", "", lambda b, x: b.not_(x), arity=1),
)

OPERATORS = {operator.name: operator for operator in (*_UNARY, *_BINARY, *_TO_BOOL)}
